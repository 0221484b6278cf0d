"""How far a graph is, in one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.terminal.console import PrintableConsole
from pipeline.terminal.live_line import LiveLine
from pipeline.terminal.step_line import clock_of

__all__ = ["graph_progress"]


@contextmanager
def graph_progress() -> Iterator[Callable[[int, int], None]]:
    """What `build_index` tells, shown on standard error."""
    begun = time.monotonic()

    def tell(done: int, total: int) -> None:
        rate = done / max(time.monotonic() - begun, 1e-9)
        left = clock_of((total - done) / rate) if rate else "unknown"
        line.show(lambda: f"indexing  {done:,} of {total:,} vectors  {rate:,.0f}/s  {left} left")

    with LiveLine(PrintableConsole(stderr=True), is_kept=False) as line:
        yield tell

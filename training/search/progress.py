"""How far a graph is: a line now and then, with the rate and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.terminal.console import PrintableConsole
from pipeline.terminal.step_line import clock_of

__all__ = ["graph_progress"]

_EVERY_S = {True: 0.5, False: 30.0}
"""On a terminal, where the line is drawn again, and elsewhere."""


@contextmanager
def graph_progress() -> Iterator[Callable[[int, int], None]]:
    """What `build_index` tells, shown on standard error."""
    from rich.live import Live
    from rich.text import Text

    console = PrintableConsole(stderr=True)
    begun = shown = time.monotonic()
    live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def tell(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < _EVERY_S[live is not None]:
            return
        shown = now
        rate = done / (now - begun)
        line = f"indexing  {done:,} of {total:,} vectors  {rate:,.0f}/s  {clock_of((total - done) / rate)} left"
        if live is not None:
            live.update(Text(line, no_wrap=True, overflow="crop"), refresh=True)
        else:
            console.print(line, highlight=False, soft_wrap=True)

    if live is None:
        yield tell
        return
    with live:
        yield tell

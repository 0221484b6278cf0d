"""Progress bars on a terminal, one quiet line a step elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Progress"]


class Progress:
    """Draws one bar per step. `quiet` draws nothing (tests)."""

    def __init__(self, console: Console | None = None, *, quiet: bool | None = None) -> None:
        from pipeline.terminal.console import PrintableConsole

        self.console = console or PrintableConsole(stderr=True)
        self.quiet = console is None if quiet is None else quiet

    def say(self, line: str) -> None:
        """Print a line for people, unless quiet."""
        if not self.quiet:
            self.console.print(line, soft_wrap=True, markup=False, highlight=False)

    @contextmanager
    def step(self, title: str, *, total: int, skipped: int) -> Iterator[Callable[[int], None]]:
        """A bar of `total` tasks, `skipped` of them done before; call the result with rows per task."""
        if self.quiet:
            yield lambda rows: None
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        started = time.monotonic()
        rows_done = 0
        with Bars(
            SpinnerColumn(),
            TextColumn("{task.description:<34}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>16}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        ) as bars:
            bar = bars.add_task(title, total=total, completed=skipped, rate="")

            def advance(rows: int) -> None:
                nonlocal rows_done
                rows_done += rows
                seconds = max(time.monotonic() - started, 1e-6)
                bars.update(bar, advance=1, rate=f"{rows_done / seconds:,.0f} rows/s" if rows_done else "")

            yield advance
        seconds = time.monotonic() - started
        again = f", {skipped} already done" if skipped else ""
        self.console.print(f"  {title:<34} {total - skipped:>4} tasks{again}  {rows_done:>9,} rows  {seconds:6.1f} s")

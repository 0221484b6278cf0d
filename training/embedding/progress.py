"""How far the embedding is, or whatever else is made part by part, in one line."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from pipeline.terminal.console import PrintableConsole
from pipeline.terminal.live_line import LiveLine
from pipeline.terminal.step_line import clock_of

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["EmbedProgress", "console_of"]


class EmbedProgress:
    """Counts rows and parts of this process; shows nothing where `console` is None."""

    def __init__(self, *, parts: int, of_ranks: int, console: Console | None, doing: str = "embedding") -> None:
        """`parts`: how many this process makes, of those that `of_ranks` processes share; `doing`: the line's first
        word."""
        self._doing = doing
        self._parts, self._ranks = parts, of_ranks
        self._line = LiveLine(console)
        self._rows = self._done = 0
        self._share = 0.0
        self._begun: float | None = None
        """When the first rows were through: what is before is no pace."""
        self._rows_then = 0
        self._work_then = 0.0

    def __enter__(self) -> EmbedProgress:
        self._line.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.__exit__(kind, error, trace)

    def advance(self, rows: int, *, share: float) -> None:
        """So many more rows are through; `share` of the part that is made."""
        self._rows += rows
        self._share = share
        if self._begun is None:
            self._begun, self._rows_then, self._work_then = time.monotonic(), self._rows, self._share
        self._line.show(self.line)

    def end_part(self) -> None:
        """A part is made."""
        self._done, self._share = self._done + 1, 0.0
        self._line.show(self.line, at_once=self._done == self._parts)

    def line(self) -> str:
        """How far it is, how fast, and how long it will take."""
        words = [
            f"{self._rows:,} {'sample' if self._rows == 1 else 'samples'}",
            f"part {min(self._done + 1, self._parts):,} of {self._parts:,}",
        ]
        passed = 0.0 if self._begun is None else time.monotonic() - self._begun
        work = self._done + self._share - self._work_then
        if passed > 0 and self._rows > self._rows_then:
            words.append(f"{(self._rows - self._rows_then) / passed:,.0f} samples/s")
        if passed > 0 and work > 0:
            words.append(f"{clock_of((self._parts - self._done - self._share) * passed / work)} left")
        return f"{self._doing}  {'  '.join(words)}{f'  (one of {self._ranks} processes)' if self._ranks > 1 else ''}"


def console_of(*, shown: bool) -> Console | None:
    """Standard error, or nothing."""
    return PrintableConsole(stderr=True) if shown else None

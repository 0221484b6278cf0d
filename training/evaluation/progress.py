"""How far an evaluation is, in one line."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console

from pipeline.terminal.live_line import LiveLine
from pipeline.terminal.step_line import clock_of

__all__ = ["Progress"]


class Progress:
    """Counts pictures, over all models and sets that are still to be measured."""

    def __init__(self, *, pictures: int, console: Console | None) -> None:
        """`pictures`: how many times a picture goes through a model in all. Shows nothing without a console."""
        self._total = pictures
        self._done = 0
        self._what = ""
        self._began = time.monotonic()
        self._line = LiveLine(console)

    def __enter__(self) -> Progress:
        self._line.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.__exit__(kind, error, trace)

    def begin(self, what: str) -> None:
        """What is measured from now on."""
        self._what = what
        self._line.show(self.line, at_once=True)

    def advance(self, pictures: int) -> None:
        """So many more are through."""
        self._done += pictures
        self._line.show(self.line)

    def leave_out(self, pictures: int) -> None:
        """So many need not be done after all."""
        self._total -= pictures

    def line(self) -> str:
        """`what  1,200/5,000 pictures  350 pictures/s  0:00:11 left`."""
        took_s = time.monotonic() - self._began
        parts = [self._what, f"{self._done:,}/{self._total:,} pictures"]
        if self._done and took_s > 0:
            rate = self._done / took_s
            parts += [f"{rate:,.0f} pictures/s", f"{clock_of((self._total - self._done) / rate)} left"]
        return "  ".join(part for part in parts if part)

"""How far an evaluation is: a line that is drawn again on a terminal, a plain one now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline.terminal.console import PrintableConsole
from pipeline.terminal.step_line import clock_of

__all__ = ["Progress"]

_DRAW_EVERY_S = 0.5
_PLAIN_EVERY_S = 30.0


class Progress:
    """Counts pictures, over all models and sets that are still to be measured."""

    def __init__(self, *, pictures: int, console: Console | None = None) -> None:
        """`pictures`: how many times a picture goes through a model in all."""
        self.console = console or PrintableConsole(stderr=True)
        self._total = pictures
        self._done = 0
        self._what = ""
        self._began = time.monotonic()
        self._drawn = 0.0
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self, what: str) -> None:
        """What is measured from now on."""
        self._what = what
        self._draw(_DRAW_EVERY_S)

    def advance(self, pictures: int) -> None:
        """So many more are through."""
        self._done += pictures
        self._draw(_DRAW_EVERY_S if self._live is not None else _PLAIN_EVERY_S)

    def leave_out(self, pictures: int) -> None:
        """So many need not be done after all."""
        self._total -= pictures

    def _draw(self, every_s: float) -> None:
        now = time.monotonic()
        if now - self._drawn < every_s:
            return
        self._drawn = now
        if self._live is not None:
            self._live.update(Text(self.line(now), no_wrap=True, overflow="crop"), refresh=True)
        else:
            self.console.print(self.line(now), highlight=False, soft_wrap=True)

    def line(self, now: float) -> str:
        """`what  1,200/5,000 pictures  350 pictures/s  0:00:11 left`."""
        took_s = now - self._began
        parts = [self._what, f"{self._done:,}/{self._total:,} pictures"]
        if self._done and took_s > 0:
            rate = self._done / took_s
            parts += [f"{rate:,.0f} pictures/s", f"{clock_of((self._total - self._done) / rate)} left"]
        return "  ".join(part for part in parts if part)

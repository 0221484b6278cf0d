"""One line about work that goes on: drawn again on a terminal, printed now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["LiveLine"]

_DRAW_EVERY_S = 0.5
_PLAIN_EVERY_S = 30.0


class LiveLine:
    """Shows what it is given, as often as one can read it; nothing without a console."""

    def __init__(self, console: Console | None, *, is_kept: bool = True) -> None:
        """`is_kept`: the last line stays on the terminal."""
        from rich.live import Live

        self._console = console
        self._live: Live | None = None
        if console is not None and console.is_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=not is_kept)
        self._shown = time.monotonic() if self._live is None else 0.0

    @property
    def is_drawn(self) -> bool:
        """Whether it is drawn again and again, on a terminal."""
        return self._live is not None

    def __enter__(self) -> LiveLine:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, line: Callable[[], str], *, at_once: bool = False) -> None:
        """Show what `line` returns, if the last one has stood for long enough, or `at_once`."""
        now = time.monotonic()
        every_s = _PLAIN_EVERY_S if self._live is None else _DRAW_EVERY_S
        if self._console is None or (now - self._shown < every_s and not at_once):
            return
        self._shown = now
        if self._live is None:
            self._console.print(line(), highlight=False, soft_wrap=True)
            return
        from rich.text import Text

        self._live.update(Text(line(), no_wrap=True, overflow="crop"), refresh=True)

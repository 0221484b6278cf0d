"""A rich console for text from outside (see `printable.py`). Apart from it, since most lines need no rich."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from pipeline.terminal.printable import printable

__all__ = ["PrintableConsole"]


class PrintableConsole(Console):
    """A rich console that shows what it is given: no escapes of the data's, no [markup], no :emoji:."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)  # before it is measured, so that tables stay straight

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

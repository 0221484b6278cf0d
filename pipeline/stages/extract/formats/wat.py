"""WAT: the reader is `extract/wat.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.stages.extract.formats.source_format import SourceFormat

if TYPE_CHECKING:
    from pipeline.consent.signals import PageSignals
    from pipeline.records.outcome import Outcome
    from pipeline.stages.extract.config import ExtractConfig
    from pipeline.stages.extract.stretch import Stretch

__all__ = ["WAT"]


def _read(path: str, config: ExtractConfig, signals: PageSignals, stretch: Stretch) -> Iterator[Outcome]:
    from pipeline.stages.extract.wat import read_wat

    return read_wat(path, config, signals, stretch)


WAT = SourceFormat(name="wat", endings=(".wat",), says="Common Crawl's JSON about each page", read=_read, cut="archive")

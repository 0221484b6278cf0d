"""WARC: the reader is `extract/warc.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.stages.extract.formats.source_format import SourceFormat

if TYPE_CHECKING:
    from pipeline.consent.signals import PageSignals
    from pipeline.records.outcome import Outcome
    from pipeline.stages.extract.config import ExtractConfig
    from pipeline.stages.extract.stretch import Stretch

__all__ = ["WARC"]


def _read(path: str, config: ExtractConfig, signals: PageSignals, stretch: Stretch) -> Iterator[Outcome]:
    from pipeline.stages.extract.warc import read_warc

    return read_warc(path, config, signals, stretch)


WARC = SourceFormat(
    name="warc", endings=(".warc",), says="crawled pages, whose HTML is read", read=_read, cut="archive"
)

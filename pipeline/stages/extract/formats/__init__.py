"""The formats that `extract` reads: one file each in this directory, and its line in `FORMATS`.

What `source_format` takes, what `--help` says of it, which files `auto` knows and how a file is read all come from
here. Importing this loads no reader: each is imported when a source of its format is read.
"""

from __future__ import annotations

from typing import Annotated

from configs.load import ConfigError
from configs.options import OneOf
from pipeline.errors import InputError
from pipeline.stages.extract.formats.img2dataset import IMG2DATASET
from pipeline.stages.extract.formats.json_lines import JSONL
from pipeline.stages.extract.formats.parquet import PARQUET
from pipeline.stages.extract.formats.separated import CSV, TSV
from pipeline.stages.extract.formats.source_format import SourceFormat
from pipeline.stages.extract.formats.warc import WARC
from pipeline.stages.extract.formats.wat import WAT

__all__ = ["FORMATS", "Format", "SourceFormat", "format_of", "stores_pictures"]

FORMATS: tuple[SourceFormat, ...] = (
    WAT,
    WARC,
    PARQUET,
    CSV,
    TSV,
    JSONL,
    IMG2DATASET,
)
"""In the order in which they are told."""
_COMPRESSIONS = (".gz", ".bgz", ".zst", ".lz4")

Format = Annotated[str, OneOf({"auto": "told by each file's name", **{known.name: known.says for known in FORMATS}})]
"""The type of a config's field: the name of a format, or `auto`."""


def format_of(path: str, format: Format = "auto") -> SourceFormat:
    """The format of that name; with `auto`, that which the file's name tells.

    Raises InputError where the name tells none, ConfigError where there is no such format.
    """
    if format != "auto":
        return _named(format)
    stem = path.rsplit("/", 1)[-1].lower()
    for ending in _COMPRESSIONS:
        stem = stem.removesuffix(ending)
    for known in FORMATS:
        if stem.endswith(known.endings):
            return known
    told = ", ".join(known.name for known in FORMATS if known.endings)
    raise InputError(f"{path}: the name does not tell the format; set it to one of {told}")


def stores_pictures(format: Format) -> bool:
    """Whether sources of this format have their pictures beside them. Raises ConfigError as `format_of` does."""
    return format != "auto" and _named(format).stores_pictures


def _named(name: str) -> SourceFormat:
    for known in FORMATS:
        if known.name == name:
            return known
    raise ConfigError(f"there is no format {name!r}; name one of auto, {', '.join(known.name for known in FORMATS)}")

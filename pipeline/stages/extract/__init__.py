"""Extract: image links with their texts, from crawl archives and URL tables.

    WAT, WARC --archive--> records --.
                                      >-- links --> Outcome(kept: CANDIDATES, rejected, num_in, num_records)
    Parquet, CSV, TSV, JSONL, Parquet of img2dataset --> rows

The order of the tests on a link is fixed: opt_out, no_text, then not_http or bad_url.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.stages.extract.config import ExtractConfig, Format, MissingPictures

if TYPE_CHECKING:
    from pipeline.outcome import Outcome

__all__ = ["ExtractConfig", "Format", "MissingPictures", "check_source", "extract", "format_of"]

_COMPRESSIONS = (".gz", ".bgz", ".zst", ".lz4")
_ENDINGS: dict[str, Format] = {
    ".wat": "wat",
    ".warc": "warc",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


def extract(path: str, config: ExtractConfig, *, format: Format = "auto") -> Iterator[Outcome]:
    """The image links of one source, in its order, as batches of about `config.batch_rows` links.

    `path` is a local path or an fsspec URL; it becomes the rows' `source`. `record` is the byte offset
    of a record's compressed member in an archive, the number of the row (from 0) in a table; `link` the
    ordinal of the image link in its record (from 0; always 0 in a table), null for a rejected record.
    `num_in` counts links, `num_records` all records of the archive, or rows read.

    Raises InputError where the file cannot be opened, is not of its format, or lacks a needed column.
    A file that breaks in the middle yields what is good, and a rejection.
    """
    chosen = format_of(path) if format == "auto" else format
    if chosen == "wat":
        from pipeline.stages.extract.wat import read_wat

        return read_wat(path, config)
    if chosen == "warc":
        from pipeline.stages.extract.warc import read_warc

        return read_warc(path, config)
    from pipeline.stages.extract.tables import read_table

    return read_table(path, config, format=chosen)


def check_source(path: str, config: ExtractConfig, *, format: Format = "auto") -> None:
    """Raise InputError where a file on this machine is none of tables that `extract` can read: told by its head.

    Archives, and files elsewhere, are not looked at.
    """
    chosen = format_of(path) if format == "auto" else format
    if "://" in path or chosen in ("wat", "warc"):
        return
    from pipeline.stages.extract.tables import check_table

    check_table(path, config, format=chosen)


def format_of(path: str) -> Format:
    """The format that a file's name tells. Raises InputError where it tells none."""
    name = path.rsplit("/", 1)[-1].lower()
    stem = name
    for ending in _COMPRESSIONS:
        stem = stem.removesuffix(ending)
    for ending, found in _ENDINGS.items():
        if stem.endswith(ending):
            return found
    raise InputError(f"{path}: the name does not tell the format; set it to one of wat, warc, parquet, csv, tsv, jsonl")

"""Extract: image links with their texts, from crawl archives and URL tables.

    WAT, WARC --archive--> records --.
                                      >-- links --> Outcome(kept: CANDIDATES, rejected, num_in, num_records)
    Parquet, CSV, TSV, JSONL, Parquet of img2dataset --> rows

`formats/` lists what can be read, and imports a reader when a source of its format is.
The order of the tests on a link is fixed: what its page forbids, no_text, then not_http or bad_url.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.consent.signals import PageSignals
from pipeline.stages.extract.config import ExtractConfig, MissingPictures
from pipeline.stages.extract.formats import Format, format_of, stores_pictures
from pipeline.stages.extract.stretch import WHOLE, Stretch

if TYPE_CHECKING:  # heavy, where only the config or the list of formats is asked for
    from pipeline.records.outcome import Outcome

__all__ = [
    "STANDARD",
    "WHOLE",
    "ExtractConfig",
    "Format",
    "MissingPictures",
    "Stretch",
    "check_source",
    "extract",
    "format_of",
    "stores_pictures",
]


STANDARD = PageSignals()
"""What `consent.level: standard` honours of a page."""


def extract(
    path: str,
    config: ExtractConfig,
    signals: PageSignals = STANDARD,
    *,
    format: Format = "auto",
    stretch: Stretch = WHOLE,
) -> Iterator[Outcome]:
    """The image links of one source, or of a stretch of it, in its order, in batches of about `config.batch_rows`.

    `signals` says what of a page's word on the use of its links is honoured.

    `path` is a local path or an fsspec URL; it becomes the rows' `source`. `record` is the byte offset
    of a record's compressed member in an archive, the number of the row (from 0) in a table; `link` the
    ordinal of the image link in its record (from 0; always 0 in a table), null for a rejected record.
    `num_in` counts links, `num_records` all records of the archive, or rows read.

    Raises InputError where the file cannot be opened, is not of its format, or lacks a needed column.
    A file that breaks in the middle yields what is good, and a rejection.
    """
    return format_of(path, format).read(path, config, signals, stretch)


def check_source(path: str, config: ExtractConfig, *, format: Format = "auto") -> None:
    """Raise InputError where a file on this machine is no table that `extract` can read: told by its head.

    Archives, and files elsewhere, are not looked at.
    """
    check = format_of(path, format).check
    if check is not None and "://" not in path:
        check(path, config)

"""A row of a table, whatever its format, and which columns it is read from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

from pipeline.errors import InputError
from pipeline.stages.extract.config import ExtractConfig

__all__ = ["BadRow", "Columns", "Row", "RowReader", "Rows", "choose_columns", "json_of"]


@dataclass(frozen=True, slots=True)
class Row:
    """What is read from one row."""

    number: int
    """From 0."""
    url: str | None
    texts: Sequence[str | None]
    """One, or as many as the list of captions has; never none."""
    page_url: str | None = None
    license: str | None = None
    extra: str | None = None
    """JSON object of the other columns, as configured."""
    text_source: str = "alt"
    failure: str | None = None
    """Why the source has no picture for it."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row, or a stretch of the file, that cannot be read."""

    number: int | None
    reason: str
    detail: str


Rows = Iterator[Row | BadRow]
RowReader = Callable[[str, BinaryIO, ExtractConfig], Rows]
"""(path, the file open at its start, config) -> its rows in their order; the path is for errors. Raises InputError
where the file is not of the format, or lacks a column for the URL or the text; before the first row if its head
tells."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns to read; null where the table has none."""

    url: str
    text: str
    page_url: str | None
    license: str | None
    text_source: str | None
    """Read from Parquet only, where such lists come from."""
    extra: tuple[str, ...]

    def present(self) -> list[str]:
        """Each once."""
        named = (self.url, self.text, self.page_url, self.license, self.text_source, *self.extra)
        return list(dict.fromkeys(name for name in named if name is not None))


def choose_columns(path: str, names: Sequence[str], config: ExtractConfig, *, may_lack_extra: bool = False) -> Columns:
    """Which of the columns `names` to read. Raises InputError where one is missing, or stands there twice."""

    def first_of(wanted: tuple[str, ...]) -> str | None:
        return next((name for name in wanted if name in names), None)

    url, text = first_of(config.url_columns), first_of(config.text_columns)
    if url is None or text is None:
        option, wanted = ("url_columns", config.url_columns) if url is None else ("text_columns", config.text_columns)
        raise InputError(f"{path}: no column named {' or '.join(wanted)}; it has {_some(names)}; set extract.{option}")
    page_url, license_url = first_of(config.page_url_columns), first_of(config.license_columns)
    extra: dict[str, None] = {}
    for name in config.extra_columns:
        if name == "*":
            extra.update((other, None) for other in names if other not in (url, text, page_url, license_url))
        elif name in names:
            extra[name] = None
        elif not may_lack_extra:
            raise InputError(f"{path}: no column named {name}; it has {_some(names)}; correct extract.extra_columns")
    columns = Columns(
        url=url,
        text=text,
        page_url=page_url,
        license=license_url,
        text_source=first_of(config.text_source_columns),
        extra=tuple(extra),
    )
    for name in columns.present():
        if names.count(name) > 1:
            raise InputError(f"{path}: {names.count(name)} columns are named {name}; rename all but one")
    return columns


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:20]))[:300]


def json_of(names: Sequence[str], values: Sequence[object]) -> str:
    """A JSON object. NaN and infinities are null, as JSON has none."""
    return _ENCODER.encode(dict(zip(names, values, strict=True))).decode()


_ENCODER = msgspec.json.Encoder(enc_hook=str)

"""Which columns of a table hold what: told by its own names, and by what stands in its first rows.

head of a file --> names, some rows --> url, text, page_url, license
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from configs.load import ConfigError
from pipeline.errors import InputError, one_line
from pipeline.stages.extract.config import ExtractConfig
from pipeline.stages.extract.files import open_binary
from pipeline.stages.extract.tables.lines import lines_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Guess", "guess_columns"]

_ROWS = 50
_URL = re.compile(r"https?://\S+", re.IGNORECASE)
_PICTURE = re.compile(r"\.(jpe?g|png|gif|webp|avif|bmp)\b", re.IGNORECASE)
# In small letters, the likelier first.
_URLS = ("url", "image_url", "img_url", "imageurl", "image_link", "image", "img", "src", "image_src", "link")
_TEXTS = ("alt_text", "alt", "caption", "captions", "text", "description", "title", "prompt", "label")
_PAGES = ("page_url", "page", "source_page", "source_url", "landing_page", "referrer")
_LICENCES = ("license", "licence", "license_url", "rights")


@dataclass(frozen=True, kw_only=True)
class Guess:
    """The columns of a table, as they seem."""

    names: tuple[str, ...]
    """All of them, in order."""
    url: str
    text: str
    page_url: str | None
    license: str | None
    headless: bool
    """CSV and TSV whose first row is data: `names` are ours."""


def guess_columns(path: str, format: str) -> Guess:
    """The columns of a table of that format (parquet, csv, tsv or jsonl). Raises InputError where the file cannot be
    read, ConfigError where no column looks like the URL of a picture, or none like its text."""
    headless = False
    with open_binary(path) as file:
        if format == "parquet":
            names, rows = _parquet_head(path, file)
        elif format == "jsonl":
            names, rows = _json_head(file)
        else:
            names, rows, headless = _separated_head(file, comma=format == "csv")
    values = {name: [row[at] for row in rows if at < len(row)] for at, name in enumerate(names)}
    urls = [name for name in names if _share(values[name], _URL) >= 0.8]
    url = _named(_URLS, urls) or max(urls, key=lambda name: _share(values[name], _PICTURE), default=None)
    if url is None and (named := _named(_URLS, names)) is not None and not any(map(_text_of, values[named])):
        url = named  # an empty table
    if url is None:
        raise ConfigError(f"{path}: no column holds URLs; it has {_shown(names)}")
    others = [name for name in names if name not in urls and name != url]
    page = _named(_PAGES, [name for name in urls if name != url])
    license = _named(_LICENCES, [name for name in names if name != url])
    wordy = [name for name in others if name != license and _words(values[name])]
    text = _named(_TEXTS, others) or max(wordy, key=lambda name: _words(values[name]), default=None)
    if text is None:
        raise ConfigError(f"{path}: no column holds texts; it has {_shown(names)}")
    if headless:
        renamed = {url: "url", text: "caption"}
        names = [renamed.get(name, name) for name in names]
        url, text, page, license = "url", "caption", None, None
    return Guess(names=tuple(names), url=url, text=text, page_url=page, license=license, headless=headless)


def _parquet_head(path: str, file: BinaryIO) -> tuple[list[str], list[list[Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file, pre_buffer=False)
        schema = parquet.schema_arrow
        # Pictures and vectors are large, and neither is asked for.
        texts = [field.name for field in schema if _holds_text(field.type)]
        batch = next(parquet.iter_batches(_ROWS, columns=texts), None)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({one_line(error)})") from error
    rows = [] if batch is None else batch.to_pylist()
    return list(schema.names), [[row.get(name) for name in schema.names] for row in rows]


def _holds_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _json_head(file: BinaryIO) -> tuple[list[str], list[list[Any]]]:
    rows: list[Mapping[str, Any]] = []
    for line in _first_lines(file):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    return names, [[row.get(name) for name in names] for row in rows]


def _separated_head(file: BinaryIO, *, comma: bool) -> tuple[list[str], list[list[Any]], bool]:
    lines = _first_lines(file)
    reader = csv.reader(lines) if comma else csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        rows: list[list[Any]] = [row for row in reader if row]
    except csv.Error:
        rows = []
    if not rows:
        return [], [], False
    if any(_URL.match(value) for value in rows[0]):
        return [f"column_{number}" for number in range(1, len(rows[0]) + 1)], rows, True
    return [name.strip() for name in rows[0]], rows[1:], False


def _first_lines(file: BinaryIO) -> list[str]:
    lines = itertools.islice(lines_of(file, ExtractConfig()), _ROWS)
    return [line.decode("utf-8", "replace") for line in lines if isinstance(line, bytes)]


def _named(known: Sequence[str], names: Sequence[str]) -> str | None:
    small = {name.lower(): name for name in reversed(names)}
    return next((small[name] for name in known if name in small), None)


def _share(values: Sequence[Any], pattern: re.Pattern[str]) -> float:
    """Of the values that are there, the share in which the pattern is found."""
    texts = [text for value in values if (text := _text_of(value))]
    return sum(pattern.search(text) is not None for text in texts) / len(texts) if texts else 0.0


def _words(values: Sequence[Any]) -> float:
    """The mean number of spaces of the values that are texts."""
    texts = [text for value in values if (text := _text_of(value))]
    return sum(text.count(" ") for text in texts) / len(texts) if texts else 0.0


def _text_of(value: Any) -> str:
    """A text, or the first of a list of texts."""
    if isinstance(value, list) and value:
        value = value[0]
    return value.strip() if isinstance(value, str) else ""


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(name[:40] for name in names[:12]) + more if names else "none"

"""CSV and TSV: rows by Python's reader, of which a stray quote costs one."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from pipeline.errors import InputError, one_line
from pipeline.stages.extract.config import ExtractConfig
from pipeline.stages.extract.tables.lines import Lines, Oversized, end_of, lines_of
from pipeline.stages.extract.tables.rows import BadRow, Row, Rows, choose_columns, json_of

__all__ = ["separated_rows"]

_MAX_LINES_PER_ROW = 1000
"""A quoted field may hold line breaks; one that runs on longer was opened by a stray quote."""
_ESCAPE = re.compile(r'\\(["\\]?)')
_NOT_UTF8 = "not UTF-8"
_ESCAPE_HINT = '; where quotes are written as \\" (Spark), set extract.csv_escape'


def separated_rows(path: str, file: BinaryIO, config: ExtractConfig, *, comma: bool) -> Rows:
    """The rows of CSV (`comma`) or TSV. Raises InputError without a header, and for a missing or doubled column."""
    lines = lines_of(file, config)
    records = _separated_records(lines, config, comma=comma)
    names: Sequence[str] = config.column_names
    if not names:
        header = next(records, None)
        if header is None:
            yield from end_of(path, lines, 0, "CSV" if comma else "TSV")
            raise InputError(f"{path}: no header row; set extract.column_names")
        if not isinstance(header, list):
            remedy = "save it as UTF-8" if header.detail == _NOT_UTF8 else "set extract.column_names"
            raise InputError(f"{path}: its first row is no header ({header.detail}); {remedy}")
        names = [name.strip() for name in header]
    columns = choose_columns(path, names, config)
    at_url, at_text = names.index(columns.url), names.index(columns.text)
    at_page = names.index(columns.page_url) if columns.page_url is not None else None
    at_license = names.index(columns.license) if columns.license is not None else None
    at_extra = [names.index(name) for name in columns.extra]
    number = -1
    for record in records:
        number += 1
        if not isinstance(record, list):
            yield BadRow(number, record.reason, record.detail)
        elif len(record) != len(names):
            yield BadRow(number, "bad_record", f"{len(record)} fields, {len(names)} expected")
        else:
            yield Row(
                number,
                record[at_url],
                (record[at_text],),
                (record[at_page] or None) if at_page is not None else None,
                (record[at_license] or None) if at_license is not None else None,
                json_of(columns.extra, [record[at] for at in at_extra]) if at_extra else None,
            )
    yield from end_of(path, lines, number + 1, "CSV" if comma else "TSV")


def _separated_records(lines: Lines, config: ExtractConfig, *, comma: bool) -> Iterator[list[str] | BadRow]:
    """Rows as lists of fields. Where a quoted field runs away, or goes on behind its closing quote, its first line is
    given up as a bad row and reading goes on with the second."""
    csv.field_size_limit(max(csv.field_size_limit(), config.max_record_bytes))
    quoted = comma or config.tsv_quoting
    feed = _Feed(iter(lines), config.max_record_bytes, escape=quoted and bool(config.csv_escape))
    rules: dict[str, Any] = {"delimiter": "," if comma else "\t", "quoting": csv.QUOTE_NONE}
    if quoted:
        # Python's lenient reading makes `a \big\" dog"` of `"a \"big\" dog"`, and says nothing.
        rules |= {"quoting": csv.QUOTE_MINIMAL, "strict": True, "escapechar": config.csv_escape or None}
    reader = csv.reader(feed, **rules)
    while True:
        feed.begin_row()
        try:
            record = next(reader)
        except StopIteration:
            return
        except (_BadLineError, _RunawayError, csv.Error) as error:
            feed.give_back_all_but_first()
            reader = csv.reader(feed, **rules)
            reason = error.reason if isinstance(error, _BadLineError) else "bad_record"
            hint = _ESCAPE_HINT if isinstance(error, csv.Error) and quoted and not config.csv_escape else ""
            yield BadRow(None, reason, one_line(error) + hint)
            continue
        if record:  # an empty line is no row
            yield record


class _RunawayError(Exception):
    """A quoted field does not end."""


class _BadLineError(Exception):
    """A line too long to hold, or not UTF-8."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class _Feed:
    """Lines for a csv.reader; remembers those of the current row so that they can be read again."""

    def __init__(self, lines: Iterator[bytes | Oversized], max_chars: int, *, escape: bool) -> None:
        self._lines = lines
        self._escape = escape
        self._again: list[str | _BadLineError] = []
        self._row: list[str] = []
        self._max_chars = max_chars
        self._num_chars = 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if len(self._row) >= _MAX_LINES_PER_ROW or self._num_chars > self._max_chars:
            raise _RunawayError("a quoted field does not end")
        try:
            line = self._again.pop() if self._again else self._text_of(next(self._lines))
        except StopIteration:
            if self._row:  # asked for more in the middle of a row
                raise _RunawayError("a quoted field does not end") from None
            raise
        if isinstance(line, _BadLineError):
            if self._row:  # the row before it is bad for itself; this line gets its own turn
                self._again.append(line)
                raise _RunawayError("a quoted field does not end")
            raise line
        self._row.append(line)
        self._num_chars += len(line)
        return line

    def _text_of(self, line: bytes | Oversized) -> str | _BadLineError:
        text = _text_of(line)
        return _ESCAPE.sub(_lone_doubled, text) if self._escape and isinstance(text, str) else text

    def begin_row(self) -> None:
        self._row.clear()
        self._num_chars = 0

    def give_back_all_but_first(self) -> None:
        self._again.extend(reversed(self._row[1:]))


def _lone_doubled(escape: re.Match[str]) -> str:
    """Python's reader takes any character behind an escape for itself and drops the escape. Spark's reader and writer
    mean a quote or another escape alone, so that `C:\\new` keeps its backslash."""
    return escape[0] if escape[1] else "\\\\"


def _text_of(line: bytes | Oversized) -> str | _BadLineError:
    if isinstance(line, Oversized):
        return _BadLineError("oversized_record", f"{line.num_bytes} bytes")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return _BadLineError("bad_record", _NOT_UTF8)

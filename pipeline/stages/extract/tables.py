"""Tables of URLs and texts: Parquet, CSV, TSV, JSON lines; all but Parquet also as .gz or .zst.

    bytes --decompress--> lines --parse--> (url, text, page_url, license, extra) --> LinkBatch
    Parquet row groups ------------------------------^

A row is one record with one link, 0. Entities are decoded in neither column: a table holds text, not HTML.
The Parquet files of an img2dataset directory are such tables too, whose rows say whether their picture is stored.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal, cast

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.outcome import Outcome
from pipeline.schema import TEXT_SOURCES
from pipeline.stages.extract.batch import LinkBatch
from pipeline.stages.extract.config import ExtractConfig, Format
from pipeline.stages.extract.files import open_binary
from pipeline.urls import resolver

__all__ = ["read_table"]

_READ_BYTES = 1 << 16
_MAX_LINES_PER_ROW = 1000
"""A quoted field may hold line breaks; one that runs on longer was opened by a stray quote."""


def read_table(path: str, config: ExtractConfig, *, format: Format) -> Iterator[Outcome]:
    """Outcomes of one table; the unit is a row.

    Raises InputError where the file cannot be opened, is not of its format, or lacks a column for the
    URL or the text.
    """
    batch = LinkBatch(path, config)
    with open_binary(path) as file:
        if format in ("parquet", "img2dataset"):
            says_status = format == "img2dataset" and config.missing_pictures == "reject"
            rows = _parquet_rows(path, file, config, says_status=says_status)
        else:
            lines = _Lines(_decompressed(file), config.max_record_bytes)
            if format == "jsonl":
                rows = _json_rows(path, lines, config)
            else:
                rows = _separated_rows(path, lines, config, comma=format == "csv")
        yield from _outcomes(batch, rows)


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    url: str | None
    text: str | None
    page_url: str | None
    license: str | None
    extra: str | None
    text_source: str = "alt"
    failure: str | None = None
    """Why the source has no picture for it."""


@dataclass(frozen=True, slots=True)
class _BadRow:
    number: int | None
    reason: str
    detail: str


_Rows = Iterator[_Row | _BadRow]


def _outcomes(batch: LinkBatch, rows: _Rows) -> Iterator[Outcome]:
    resolve = resolver("")  # no base: trims, and leaves relative URLs without a host
    for row in rows:
        if isinstance(row, _BadRow):
            if row.number is not None:
                batch.count_record()
            batch.reject_record(row.number, row.reason, row.detail)
        elif not row.text:
            batch.count_record()
            batch.reject_link(row.number, 0, "no_text", row.url)
        elif row.failure is not None:
            batch.count_record()
            batch.reject_link(row.number, 0, "no_picture", row.failure)
        else:
            raw_url = row.url or ""
            batch.count_record(len(row.text) + len(raw_url) + len(row.extra or ""))
            batch.add_row(
                row.number,
                resolve(raw_url),
                raw_url,
                row.text,
                page_url=row.page_url,
                license_url=row.license,
                extra=row.extra,
                text_source=row.text_source,
            )
        if batch.full():
            yield batch.take()
    if batch.holds_anything():
        yield batch.take()


# --- columns ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Names of the columns to read; null where the table has none."""

    url: str
    text: str
    page_url: str | None
    license: str | None
    text_source: str | None  # read from Parquet only, where such lists come from
    extra: tuple[str, ...]

    def present(self) -> list[str]:
        named = (self.url, self.text, self.page_url, self.license, self.text_source, *self.extra)
        return list(dict.fromkeys(name for name in named if name is not None))


def _choose_columns(
    path: str, names: Sequence[str], config: ExtractConfig, *, may_lack_extra: bool = False
) -> _Columns:
    def first_of(wanted: tuple[str, ...]) -> str | None:
        return next((name for name in wanted if name in names), None)

    url, text = first_of(config.url_columns), first_of(config.text_columns)
    if url is None or text is None:
        option, wanted = ("url_columns", config.url_columns) if url is None else ("text_columns", config.text_columns)
        shown = ", ".join(map(str, names[:20]))
        raise InputError(f"{path}: no column named {' or '.join(wanted)}; it has {shown[:300]}; set extract.{option}")
    page_url, license_url = first_of(config.page_url_columns), first_of(config.license_columns)
    extra: dict[str, None] = {}
    for name in config.extra_columns:
        if name == "*":
            extra.update((other, None) for other in names if other not in (url, text, page_url, license_url))
        elif name in names:
            extra[name] = None
        elif not may_lack_extra:
            shown = ", ".join(map(str, names[:20]))
            raise InputError(f"{path}: no column named {name}; it has {shown[:300]}; correct extract.extra_columns")
    return _Columns(
        url=url,
        text=text,
        page_url=page_url,
        license=license_url,
        text_source=first_of(config.text_source_columns),
        extra=tuple(extra),
    )


def _json_of(names: Sequence[str], values: Sequence[object]) -> str:
    return _ENCODER.encode(dict(zip(names, values, strict=True))).decode()


_ENCODER = msgspec.json.Encoder(enc_hook=str)


# --- Parquet ----------------------------------------------------------------------------------


def _parquet_rows(path: str, file: BinaryIO, config: ExtractConfig, *, says_status: bool) -> _Rows:
    try:
        table = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(
            f"{path}: not a Parquet file, or its end is missing ({_one_line(error)}); fetch it again"
        ) from error
    schema = table.schema_arrow
    columns = _choose_columns(path, schema.names, config)
    if columns.text_source is not None and not pa.types.is_string(schema.field(columns.text_source).type):
        columns = replace(columns, text_source=None)  # a user's column that happens to have this name
    status = ("status", "error_message") if says_status else ()
    for name in status:
        if name not in schema.names:
            raise InputError(f"{path}: no column named {name}; source_format img2dataset reads what img2dataset wrote")
    start = 0
    for group in range(table.num_row_groups):
        number = start
        start += table.metadata.row_group(group).num_rows
        try:
            for part in table.iter_batches(
                batch_size=config.batch_rows,
                row_groups=[group],
                columns=list(dict.fromkeys([*columns.present(), *status])),
                use_threads=False,
            ):
                yield from _arrow_rows(part, columns, number, config, says_status=says_status)
                number += part.num_rows
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            yield _BadRow(number, "bad_record", f"rows {number} to {start - 1}: {_one_line(error)}")


def _arrow_rows(
    part: pa.RecordBatch, columns: _Columns, number: int, config: ExtractConfig, *, says_status: bool
) -> _Rows:
    values = [
        _strings(part.column(name)) if name is not None else [None] * part.num_rows
        for name in (columns.url, columns.text, columns.page_url, columns.license, columns.text_source)
    ]
    extras = _extras(part.select(list(columns.extra))) if columns.extra else [None] * part.num_rows
    failures = _failures(part) if says_status else [None] * part.num_rows
    for offset, (url, text, page_url, license_url, said, extra, failure) in enumerate(
        zip(*values, extras, failures, strict=True)
    ):
        if isinstance(url, _NotText) or isinstance(text, _NotText):
            yield _BadRow(number + offset, "bad_record", "not UTF-8")
        elif len(text or "") > config.max_record_bytes:
            yield _BadRow(number + offset, "oversized_record", f"{len(text or '')} characters")
        else:
            text_source = said if isinstance(said, str) and said in TEXT_SOURCES else "alt"
            yield _Row(
                number + offset, url, text, _optional(page_url), _optional(license_url), extra, text_source, failure
            )


def _failures(part: pa.RecordBatch) -> list[str | None]:
    """What img2dataset says of rows that are no success."""
    pairs = zip(part.column("status").to_pylist(), part.column("error_message").to_pylist(), strict=True)
    return [None if status == "success" else f"{status}: {message}" for status, message in pairs]


def _extras(part: pa.RecordBatch) -> Sequence[str | None]:
    try:
        return [_json_of(part.schema.names, row) for row in zip(*map(_plain_values, part.columns), strict=True)]
    except (pa.ArrowException, UnicodeDecodeError, ValueError, TypeError):
        return [None] * part.num_rows  # of a type without a Python value


def _plain_values(column: pa.Array) -> list[object]:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return [None if isinstance(value, _NotText) else value for value in _strings(column)]
    return cast("list[object]", column.to_pylist())


class _NotText:
    """Stands for bytes that are not UTF-8."""


def _strings(column: pa.Array) -> list[str | _NotText | None]:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        if pa.types.is_dictionary(column.type):
            return _strings(column.dictionary_decode())
        if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
            return _strings(column.cast(pa.string()))
    try:
        # Parquet files may claim text and hold other bytes; pyarrow finds out only here.
        return cast("list[str | _NotText | None]", column.cast(pa.string()).to_pylist())
    except (UnicodeDecodeError, pa.ArrowInvalid):
        return [_decoded(value) for value in column.cast(pa.binary()).to_pylist()]


def _decoded(value: bytes | None) -> str | _NotText | None:
    if value is None:
        return None
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return _NotText()


def _optional(value: str | _NotText | None) -> str | None:
    return value if isinstance(value, str) and value else None


# --- lines ------------------------------------------------------------------------------------


class _BrokenError(Exception):
    """The compressed stream ends early or is damaged; what came before it is good."""


def _decompressed(file: BinaryIO) -> BinaryIO:
    """The stream behind gzip or Zstandard, told by the file's first bytes rather than its name."""
    first = file.read(4)
    file.seek(0)
    if first[:2] == b"\x1f\x8b":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))
    if first == b"\x28\xb5\x2f\xfd":
        # Not zstandard's own reader, which takes the end of a cut file for the end of the data.
        return cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"))
    return file


@dataclass(frozen=True, slots=True)
class _Oversized:
    num_bytes: int


class _Lines:
    """Lines of a stream with their line ends, each at most `max_bytes`; a longer one is passed over
    without being held. Afterwards `damage` says whether the stream broke."""

    def __init__(self, stream: BinaryIO, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self.damage: str | None = None
        self.num_bytes = 0

    def __iter__(self) -> Iterator[bytes | _Oversized]:
        pending = bytearray()
        skipped = 0  # bytes of an oversized line that are gone already
        first = True
        while chunk := self._read():
            if first and chunk.startswith(b"\xef\xbb\xbf"):
                chunk = chunk[3:]
            first = False
            self.num_bytes += len(chunk)
            *whole, rest = chunk.split(b"\n")
            for line in whole:
                if skipped or len(pending) + len(line) > self._max_bytes:
                    yield _Oversized(skipped + len(pending) + len(line))
                    skipped = 0
                    pending.clear()
                elif pending:
                    pending += line
                    yield bytes(pending) + b"\n"
                    pending.clear()
                else:
                    yield line + b"\n"
            if skipped or len(pending) + len(rest) > self._max_bytes:
                skipped += len(pending) + len(rest)
                pending.clear()
            else:
                pending += rest
        if skipped:
            yield _Oversized(skipped)
        elif pending and self.damage is None:  # after damage, half a line is no row
            yield bytes(pending)

    def _read(self) -> bytes:
        try:
            return self._stream.read(_READ_BYTES)
        except (EOFError, zlib.error, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the storage failed, not the data
            self.damage = _one_line(error)
            return b""


def _end_of(path: str, lines: _Lines, num_rows: int, format_name: str) -> _Rows:
    if lines.damage is not None:
        if not num_rows:
            raise InputError(f"{path}: cannot be decompressed ({lines.damage}); fetch it again")
        yield _BadRow(None, "truncated_file", lines.damage)
    elif not lines.num_bytes:
        raise InputError(f"{path}: the file is empty; a {format_name} file was expected")


def _json_rows(path: str, lines: _Lines, config: ExtractConfig) -> _Rows:
    names = {*config.url_columns, *config.text_columns, *config.page_url_columns, *config.license_columns}
    decode = _json_decoder(sorted(names))
    number = -1
    num_good = 0
    columns: _Columns | None = None
    first_problem = ""
    for line in lines:
        if isinstance(line, bytes) and line.isspace():
            continue
        number += 1
        if isinstance(line, _Oversized):
            yield _BadRow(number, "oversized_record", f"{line.num_bytes} bytes")
            continue
        try:
            row = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            first_problem = first_problem or _one_line(error)
            yield _BadRow(number, "bad_record", _one_line(error))
            continue
        if columns is None or row.get(columns.url) is None or row.get(columns.text) is None:
            try:
                columns = _choose_columns(path, list(row), config, may_lack_extra=True)
            except InputError:
                # JSON lines may leave out what is null; a file in which every row does is an error.
                if columns is None:
                    yield _BadRow(number, "bad_record", "no field for the URL or the text")
                    first_problem = first_problem or f"no field {' or '.join(config.url_columns)}, or text"
                    continue
        num_good += 1
        yield _Row(
            number,
            row.get(columns.url),
            row.get(columns.text),
            row.get(columns.page_url) if columns.page_url else None,
            row.get(columns.license) if columns.license else None,
            _json_extra(line, columns, config) if config.extra_columns else None,
        )
    yield from _end_of(path, lines, number + 1, "JSONL")
    if number >= 0 and not num_good and lines.damage is None and first_problem:
        raise InputError(f"{path}: no usable row in {number + 1} ({first_problem}); is it JSON lines?")


def _json_extra(line: bytes, columns: _Columns, config: ExtractConfig) -> str:
    """The other fields of one line, each value as it was written."""
    fields = _FIELDS_DECODER.decode(line)
    read = (columns.url, columns.text, columns.page_url, columns.license)
    names: dict[str, None] = {}
    for name in config.extra_columns:
        names.update((other, None) for other in fields if (other not in read if name == "*" else other == name))
    return "{" + ",".join(f"{_ENCODER.encode(name).decode()}:{bytes(fields[name]).decode()}" for name in names) + "}"


_FIELDS_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _json_decoder(names: list[str]) -> Callable[[bytes], dict[str, str | None]]:
    """A function from a line to those of the named fields that it has. Other fields are not built."""
    fields = [(f"f{i}", str | None | msgspec.UnsetType, msgspec.UNSET) for i in range(len(names))]
    row_type = msgspec.defstruct("Row", fields, rename={f"f{i}": name for i, name in enumerate(names)}, gc=False)
    decoder = msgspec.json.Decoder(row_type)
    attributes = [(f"f{i}", name) for i, name in enumerate(names)]

    def decode(line: bytes) -> dict[str, str | None]:
        row = decoder.decode(line)
        return {
            name: value for attribute, name in attributes if (value := getattr(row, attribute)) is not msgspec.UNSET
        }

    return decode


# --- comma- and tab-separated -----------------------------------------------------------------


def _separated_rows(path: str, lines: _Lines, config: ExtractConfig, *, comma: bool) -> _Rows:
    records = _separated_records(lines, config, comma=comma)
    names: Sequence[str] = config.column_names
    if not names:
        header = next(records, None)
        if header is None:
            yield from _end_of(path, lines, 0, "CSV" if comma else "TSV")
            raise InputError(f"{path}: no header row; set extract.column_names")
        if not isinstance(header, list):
            raise InputError(f"{path}: its first row is no header ({header.detail}); set extract.column_names")
        names = [name.strip() for name in header]
    columns = _choose_columns(path, names, config)
    at_url, at_text = names.index(columns.url), names.index(columns.text)
    at_page = names.index(columns.page_url) if columns.page_url is not None else None
    at_license = names.index(columns.license) if columns.license is not None else None
    at_extra = [names.index(name) for name in columns.extra]
    number = -1
    for record in records:
        number += 1
        if not isinstance(record, list):
            yield _BadRow(number, record.reason, record.detail)
        elif len(record) != len(names):
            yield _BadRow(number, "bad_record", f"{len(record)} fields, {len(names)} expected")
        else:
            yield _Row(
                number,
                record[at_url],
                record[at_text],
                (record[at_page] or None) if at_page is not None else None,
                (record[at_license] or None) if at_license is not None else None,
                _json_of(columns.extra, [record[at] for at in at_extra]) if at_extra else None,
            )
    yield from _end_of(path, lines, number + 1, "CSV" if comma else "TSV")


def _separated_records(lines: _Lines, config: ExtractConfig, *, comma: bool) -> Iterator[list[str] | _BadRow]:
    """Rows as lists of fields. Where a quoted field runs away, its first line is given up as a bad row
    and reading goes on with the second."""
    csv.field_size_limit(max(csv.field_size_limit(), config.max_record_bytes))
    feed = _Feed(iter(lines), config.max_record_bytes)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if comma or config.tsv_quoting else csv.QUOTE_NONE
    reader = csv.reader(feed, delimiter="," if comma else "\t", quoting=quoting)
    while True:
        feed.begin_row()
        try:
            record = next(reader)
        except StopIteration:
            return
        except (_BadLineError, _RunawayError, csv.Error) as error:
            feed.give_back_all_but_first()
            reader = csv.reader(feed, delimiter="," if comma else "\t", quoting=quoting)
            reason = error.reason if isinstance(error, _BadLineError) else "bad_record"
            yield _BadRow(None, reason, _one_line(error))
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

    def __init__(self, lines: Iterator[bytes | _Oversized], max_chars: int) -> None:
        self._lines = lines
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
            line = self._again.pop() if self._again else _text_of(next(self._lines))
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

    def begin_row(self) -> None:
        self._row.clear()
        self._num_chars = 0

    def give_back_all_but_first(self) -> None:
        self._again.extend(reversed(self._row[1:]))


def _text_of(line: bytes | _Oversized) -> str | _BadLineError:
    if isinstance(line, _Oversized):
        return _BadLineError("oversized_record", f"{line.num_bytes} bytes")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return _BadLineError("bad_record", "not UTF-8")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

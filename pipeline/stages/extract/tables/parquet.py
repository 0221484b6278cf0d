"""Parquet: row groups in turn, of which a damaged one costs only its own rows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import InputError, one_line
from pipeline.records.schema import TEXT_SOURCES
from pipeline.stages.extract.config import ExtractConfig
from pipeline.stages.extract.stretch import Stretch
from pipeline.stages.extract.tables.rows import BadRow, Columns, Row, Rows, choose_columns, json_of

__all__ = ["parquet_rows"]

_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
_WRITTEN_OUT = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_date,
    pa.types.is_timestamp,
    pa.types.is_null,
)
"""Types that hold no text, of which the writing of each value is taken, as CSV would have it."""
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def parquet_rows(path: str, file: BinaryIO, config: ExtractConfig, stretch: Stretch, *, says_status: bool) -> Rows:
    """The rows of a Parquet file, of a stretch those of the row groups that begin in it. Raises InputError where it is
    none, or where a column that is to be read is missing, doubled, or of a type that holds no text."""
    try:
        table = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(
            f"{path}: not a Parquet file, or its end is missing ({one_line(error)}); fetch it again"
        ) from error
    schema = table.schema_arrow
    columns = choose_columns(path, schema.names, config)
    if columns.text_source is not None and not _is_any(schema.field(columns.text_source).type, _TEXT):
        columns = replace(columns, text_source=None)  # a user's column that happens to have this name
    _check_types(path, schema, columns)
    status = ("status", "error_message") if says_status else ()
    for name in status:
        if schema.names.count(name) != 1:
            raise InputError(f"{path}: no column named {name}; source_format img2dataset reads what img2dataset wrote")
    start = 0
    most = sys.maxsize if stretch.max_rows is None else stretch.max_rows
    for group in range(table.num_row_groups):
        number = start
        start += table.metadata.row_group(group).num_rows
        if not _lies_in(stretch, table.metadata, group):
            continue
        if number >= most:
            return
        try:
            for part in table.iter_batches(
                batch_size=min(config.batch_rows, most - number),
                row_groups=[group],
                columns=list(dict.fromkeys([*columns.present(), *status])),
                use_threads=False,
            ):
                yield from _arrow_rows(part, columns, number, config, says_status=says_status)
                number += part.num_rows
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            detail = f"rows {number} to {start - 1}: {one_line(error)}"
            for lost in range(number, start):
                yield BadRow(lost, "bad_record", detail)


def _lies_in(stretch: Stretch, about: pq.FileMetaData, group: int) -> bool:
    """Whether a row group begins in the stretch. Each does in one, whatever a damaged footer says of its place: the
    first stretch takes all before it, the last has no end."""
    column = about.row_group(group).column(0)
    offset = column.data_page_offset
    if column.has_dictionary_page and column.dictionary_page_offset is not None:
        offset = min(offset, column.dictionary_page_offset)
    return (stretch.is_first or offset >= stretch.begin) and (stretch.end is None or offset < stretch.end)


def _is_any(kind: pa.DataType, families: Sequence[object]) -> bool:
    return any(is_of(kind) for is_of in families)  # type: ignore[operator]  # pyarrow has no types


def _check_types(path: str, schema: pa.Schema, columns: Columns) -> None:
    """Raise InputError for a column whose type has no reading: what is not read at all must not look read."""
    readable: dict[str, tuple[str | None, tuple[object, ...]]] = {
        "url_columns": (columns.url, (*_TEXT, *_BYTES, pa.types.is_null)),
        "text_columns": (columns.text, (*_TEXT, *_BYTES, *_WRITTEN_OUT)),
        "page_url_columns": (columns.page_url, (*_TEXT, *_BYTES, *_WRITTEN_OUT)),
        "license_columns": (columns.license, (*_TEXT, *_BYTES, *_WRITTEN_OUT)),
    }
    for option, (name, families) in readable.items():
        if name is None:
            continue
        kind = schema.field(name).type
        inner = kind.value_type if option == "text_columns" and _is_any(kind, _LISTS) else kind
        inner = inner.value_type if pa.types.is_dictionary(inner) else inner
        if not _is_any(inner, families):
            raise InputError(f"{path}: the column {name} is of {kind}, which holds no text; set extract.{option}")


def _arrow_rows(
    part: pa.RecordBatch, columns: Columns, number: int, config: ExtractConfig, *, says_status: bool
) -> Rows:
    urls, *others = (
        _strings(part.column(name)) if name is not None else [None] * part.num_rows
        for name in (columns.url, columns.page_url, columns.license, columns.text_source)
    )
    texts = _texts(part.column(columns.text))
    extras = _extras(part.select(list(columns.extra))) if columns.extra else [None] * part.num_rows
    failures = _failures(part) if says_status else [None] * part.num_rows
    for offset, (url, captions, page_url, license_url, said, extra, failure) in enumerate(
        zip(urls, texts, *others, extras, failures, strict=True)
    ):
        size = sum(len(caption) for caption in captions if isinstance(caption, str))
        if isinstance(url, _NotText) or any(isinstance(caption, _NotText) for caption in captions):
            yield BadRow(number + offset, "bad_record", "not UTF-8")
        elif size > config.max_record_bytes:
            yield BadRow(number + offset, "oversized_record", f"{size} characters")
        else:
            yield Row(
                number + offset,
                url,
                cast("Sequence[str | None]", captions),
                _optional(page_url),
                _optional(license_url),
                extra,
                said if isinstance(said, str) and said in TEXT_SOURCES else "alt",
                failure,
            )


def _texts(column: pa.Array) -> Sequence[Sequence[str | _NotText | None]]:
    """The captions of each row: one, or those of its list."""
    if not _is_any(column.type, _LISTS):
        return [(text,) for text in _strings(column)]
    sizes = pc.fill_null(pc.list_value_length(column), 0).to_pylist()
    values = iter(_strings(column.flatten()))  # leaves out what stands behind nulls
    return [[next(values) for _ in range(size)] or (None,) for size in sizes]


def _failures(part: pa.RecordBatch) -> list[str | None]:
    """What img2dataset says of rows that are no success."""
    pairs = zip(part.column("status").to_pylist(), part.column("error_message").to_pylist(), strict=True)
    return [None if status == "success" else f"{status}: {message}" for status, message in pairs]


def _extras(part: pa.RecordBatch) -> Sequence[str | None]:
    rows = zip(*map(_plain_values, part.columns), strict=True)
    return [_json_or_nulls(part.schema.names, row) for row in rows]


def _json_or_nulls(names: Sequence[str], row: Sequence[object]) -> str:
    """What cannot be written as JSON is null; the other values of its row stay."""
    try:
        return json_of(names, row)
    except (UnicodeDecodeError, ValueError, TypeError):
        return json_of(names, [value if _is_json(value) else None for value in row])


def _is_json(value: object) -> bool:
    try:
        json_of(["value"], [value])
    except (UnicodeDecodeError, ValueError, TypeError):
        return False
    return True


def _plain_values(column: pa.Array) -> list[object]:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return [None if isinstance(value, _NotText) else value for value in _strings(column)]
    try:
        return cast("list[object]", column.to_pylist())
    except (pa.ArrowException, UnicodeDecodeError, ValueError, TypeError, OverflowError):
        return [_plain_value(value) for value in column]


def _plain_value(value: pa.Scalar) -> object:
    """Null where Python has no such value: a date of the year 5,881,580, text that is not UTF-8 inside a list."""
    try:
        return value.as_py()
    except (pa.ArrowException, UnicodeDecodeError, ValueError, TypeError, OverflowError):
        return None


class _NotText:
    """Stands for bytes that are not UTF-8."""


def _strings(column: pa.Array) -> list[str | _NotText | None]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _strings(column.dictionary_decode())
    if not _is_any(kind, (*_TEXT, *_BYTES)):
        if pa.types.is_floating(kind):  # float16 has no writing of its own; NaN is how pandas spells null
            column = column.cast(pa.float64()) if pa.types.is_float16(kind) else column
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        return _strings(column.cast(pa.string()))
    if pa.types.is_fixed_size_binary(kind):
        column = column.cast(pa.binary())
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

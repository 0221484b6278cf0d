"""JSON lines: an object a row, read by a compiled decoder that builds the named fields alone.

    line --msgspec, the named fields as text--> row
            | refused: NaN, half a surrogate, a number or a list for a caption, damage
            `--json, any value--> row, or why not

What stands in fields that nobody reads costs no row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import msgspec

from pipeline.errors import InputError, one_line
from pipeline.stages.extract.config import ExtractConfig
from pipeline.stages.extract.tables.lines import Oversized, end_of, lines_of
from pipeline.stages.extract.tables.rows import BadRow, Columns, Row, Rows, choose_columns, json_of

__all__ = ["json_rows"]


def json_rows(path: str, file: BinaryIO, config: ExtractConfig) -> Rows:
    """The rows of JSON lines. Raises InputError where no line has a URL or a text."""
    lines = lines_of(file, config)
    names = {*config.url_columns, *config.text_columns, *config.page_url_columns, *config.license_columns}
    decode = _decoder(sorted(names))
    number = -1
    num_good = 0
    columns: Columns | None = None
    first_problem = ""
    for line in lines:
        if isinstance(line, bytes) and line.isspace():
            continue
        number += 1
        if isinstance(line, Oversized):
            yield BadRow(number, "oversized_record", f"{line.num_bytes} bytes")
            continue
        try:
            row: Mapping[str, Any] = decode(line)
            strict = True
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            strict = False
        try:
            if not strict:
                row = _decode_anything(line)
            if columns is None or row.get(columns.url) is None or row.get(columns.text) is None:
                columns = _columns_of(path, row, config) or columns  # lines may leave out what is null
            if columns is None:
                raise _BadLineError(f"no field {' or '.join(config.url_columns)}, or text")
            yield _row(number, row, columns, _extra(line, columns, config) if config.extra_columns else None)
            num_good += 1
        except _BadLineError as error:
            first_problem = first_problem or one_line(error)
            yield BadRow(number, "bad_record", one_line(error))
    yield from end_of(path, lines, number + 1, "JSONL")
    if number >= 0 and not num_good and lines.damage is None and first_problem:
        raise InputError(f"{path}: no usable row in {number + 1} ({first_problem}); is it JSON lines?")


class _BadLineError(Exception):
    """A line of which no row can be made."""


def _columns_of(path: str, row: Mapping[str, Any], config: ExtractConfig) -> Columns | None:
    try:
        return choose_columns(path, list(row), config, may_lack_extra=True)
    except InputError:
        return None


def _row(number: int, row: Mapping[str, Any], columns: Columns, extra: str | None) -> Row:
    """Raises _BadLineError where the URL or the text is none."""
    text = row.get(columns.text)
    return Row(
        number,
        _text_of(row.get(columns.url), columns.url),
        [_text_of(one, columns.text) for one in _captions(text)],
        _optional(row.get(columns.page_url or "")),
        _optional(row.get(columns.license or "")),
        extra,
    )


def _captions(value: Any) -> Sequence[Any]:
    """One, or those of a list; a number is taken as it is written, as in Parquet and CSV."""
    values = (value or [None]) if isinstance(value, list) else [value]
    return [str(one) if isinstance(one, _Number) else one for one in values]


class _Number(str):
    """A number as it is written."""


def _text_of(value: Any, name: str) -> str | None:
    if value is None or (type(value) is str and _is_text(value)):
        return value
    raise _BadLineError(f"{name} holds {'half a character' if type(value) is str else 'no text'}")


def _optional(value: Any) -> str | None:
    return value if value and _is_text(value) else None


def _is_text(value: Any) -> bool:
    """Whether it is text that can be written: JSON may spell half of a surrogate pair."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value))


def _decoder(names: list[str]) -> Callable[[bytes], dict[str, str | None]]:
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


def _decode_anything(line: bytes) -> Mapping[str, Any]:
    """The fields of a line, numbers as they are written; NaN and Infinity, which Python writes, are null.

    Raises _BadLineError where it is no JSON object.
    """
    try:
        text = line.decode("utf-8", "surrogateescape")
        row = json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise _BadLineError(one_line(error)) from error
    if not isinstance(row, dict):
        raise _BadLineError("not a JSON object")
    return row


def _extra(line: bytes, columns: Columns, config: ExtractConfig) -> str:
    """The other fields of one line, each value as it was written; what JSON does not allow is mended."""
    try:
        values: Mapping[str, Any] = _FIELDS_DECODER.decode(line)
        names = _extra_names(values, columns, config)
        written = {name: bytes(values[name]).decode() for name in names}
    except (msgspec.DecodeError, UnicodeDecodeError):
        values = json.loads(line.decode("utf-8", "replace"), parse_constant=lambda _: None)
        names = _extra_names(values, columns, config)
        return json_of(list(map(_mended, names)), [_mended(values[name]) for name in names])
    return "{" + ",".join(f"{_ENCODER.encode(name).decode()}:{value}" for name, value in written.items()) + "}"


_FIELDS_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODER = msgspec.json.Encoder()


def _extra_names(fields: Mapping[str, Any], columns: Columns, config: ExtractConfig) -> Sequence[str]:
    read = (columns.url, columns.text, columns.page_url, columns.license)
    names: dict[str, None] = {}
    for name in config.extra_columns:
        names.update((other, None) for other in fields if (other not in read if name == "*" else other == name))
    return list(names)


def _mended(value: Any) -> Any:
    """`value` with a replacement character for half a surrogate pair."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_mended(one) for one in value]
    if isinstance(value, dict):
        return {_mended(name): _mended(one) for name, one in value.items()}
    return value

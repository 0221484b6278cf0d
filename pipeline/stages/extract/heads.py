"""Where the blocks of WARC records begin and end, for headers in the usual spelling. Compiled."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from pipeline.compiled.declare import kernel, part
from pipeline.matching.vectors import lowest_bit
from pipeline.stages.extract.json_scan import string_marks

__all__ = ["find_blocks"]

_START = np.frombuffer(b"WARC/1.", np.uint8)
_TYPE = np.frombuffer(b"WARC-Type: ", np.uint8)
_LENGTH = np.frombuffer(b"Content-Length: ", np.uint8)
_RETURN, _LINE_FEED, _SPACE, _ZERO, _NINE = b"\r\n 09"
_ONE = np.uint64(1)
_MAX_DIGITS = 12


def find_blocks(
    data: bytes, ends: npt.NDArray[np.int64], *, wanted: bytes, max_bytes: int
) -> tuple[npt.NDArray[np.int64], list[tuple[int, bytes]]]:
    """What stands in `data`, made of N pieces up to `ends` (int64[N]), as far as each piece is one whole record with a
    block of at most `max_bytes`.

    Returns where the blocks start, int64[M], M <= N, with 0 for those of a WARC-Type that is not `wanted`; and these
    as (number, type). Each block ends 4 bytes before its piece does.
    """
    starts = np.empty(len(ends), np.int64)
    types = np.empty((len(ends), 2), np.int64)
    count, num_others = _find_blocks(
        np.frombuffer(data, np.uint8), ends, np.frombuffer(wanted, np.uint8), max_bytes, starts, types
    )
    others = []
    if num_others:
        others = [(int(i), data[types[i, 0] : types[i, 1]]) for i in np.flatnonzero(starts[:count] == 0)]
    return starts[:count], others


@part
def _is_at(data, i, end, text):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """bool: whether data[i:end] starts with `text`."""
    if end - i < text.shape[0]:
        return False
    for k in range(text.shape[0]):  # noqa: SIM110  # compiled code has no any()
        if data[i + k] != text[k]:
            return False
    return True


@part
def _control(data, i):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the first index from `i` of a control character."""
    while True:
        marks = string_marks(data, i)
        while marks != 0:
            at = i + lowest_bit(marks)
            if data[at] < _SPACE:
                return at
            marks &= marks - _ONE
        i += 64


@part
def _number(data, i, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the number that data[i:end] is, or -1."""
    if not 0 < end - i <= _MAX_DIGITS:
        return -1
    value = 0
    for k in range(i, end):
        if not _ZERO <= data[k] <= _NINE:
            return -1
        value = value * 10 + numba.int64(data[k]) - _ZERO
    return value


@part
def _read_head(data, start, end, kind):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """(int64, int64): index behind the header, -1 if it is not as usual, and length of the block. `kind` int64[2] gets
    the span of its type."""
    length = kind[0] = -1
    if not _is_at(data, start, end, _START):
        return -1, 0
    line = start
    while True:
        stop = _control(data, line)
        if stop + 1 >= end or data[stop] != _RETURN or data[stop + 1] != _LINE_FEED:
            return -1, 0
        if stop == line:
            return (line + 2 if kind[0] >= 0 and length >= 0 else -1), length
        if kind[0] < 0 and _is_at(data, line, stop, _TYPE):
            kind[0], kind[1] = line + _TYPE.shape[0], stop
        elif length < 0 and _is_at(data, line, stop, _LENGTH):
            length = _number(data, line + _LENGTH.shape[0], stop)
            if length < 0:
                return -1, 0
        line = stop + 2


@kernel
def _find_blocks(  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    data, ends, wanted, max_bytes, starts, types
):
    num_others = 0
    start = np.int64(0)  # of Python's 0, functions would be compiled anew
    for record in range(ends.shape[0]):
        end = ends[record]
        kind = types[record]
        block, length = _read_head(data, start, end, kind)
        if block < 0 or length > max_bytes or block + length + 4 != end:
            return record, num_others
        for k in range(end - 4, end, 2):
            if data[k] != _RETURN or data[k + 1] != _LINE_FEED:
                return record, num_others
        if kind[1] - kind[0] == wanted.shape[0] and _is_at(data, kind[0], kind[1], wanted):
            starts[record] = block
        else:
            starts[record] = 0
            num_others += 1
        start = end
    return ends.shape[0], num_others

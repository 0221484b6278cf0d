"""JSON without making anything of it: where values end, and the characters of a string. For compiled code.

    value_end --> past a value of any kind          string_end --> the quote that closes a string
    copy_string --> a string's UTF-8, escapes decoded

Errs on one side only: what is accepted here is JSON (RFC 8259), but not all JSON is accepted. Fractions, literals
other than true, false and null, and nesting beyond 64 are answered with UNSURE, for a full parser to judge.

No function checks bounds. Each stops at a control character inside a string and at anything that is no JSON, so 64
bytes of zeros behind the data are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # the language that numba itself compiles to
from numba import types

from pipeline.compiled.declare import inlined, intrinsic, part
from pipeline.matching.vectors import load8, lowest_bit

__all__ = [
    "UNSURE",
    "copy_bytes",
    "copy_string",
    "is_utf8",
    "letter_marks",
    "plain_string_end",
    "put_character",
    "skip_white",
    "string_end",
    "string_marks",
    "value_end",
]

UNSURE = -1

_MAX_DEPTH = 64
_ONE = np.uint64(1)
_HIGH_BITS = np.uint64(0x8080808080808080)
_BLOCK = ir.VectorType(ir.IntType(8), 64)

_TAB, _LINE_FEED, _RETURN, _SPACE = b"\t\n\r "
_QUOTE, _COMMA, _MINUS, _SLASH, _ZERO, _NINE, _COLON = b'",-/09:'
_BACKSLASH, _OPEN_ARRAY, _CLOSE_ARRAY, _OPEN_OBJECT, _CLOSE_OBJECT = b"\\[]{}"
_A, _B, _E, _F, _L, _N, _R, _S, _T, _U = b"abeflnrstu"


def _load(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    loaded = builder.load(builder.bitcast(builder.gep(data, [arguments[1]]), _BLOCK.as_pointer()))
    loaded.align = 1
    return loaded


@intrinsic
def string_marks(_typing: Any, array: Any, index: Any) -> tuple[Any, Callable[..., Any]]:
    """uint64: which of the 64 bytes from `index` end the plain part of a string: quote, backslash, control."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        loaded = _load(context, builder, signature, arguments)
        marks = builder.icmp_unsigned("<", loaded, ir.Constant(_BLOCK, [_SPACE] * 64))
        for character in (_QUOTE, _BACKSLASH):
            same = builder.icmp_unsigned("==", loaded, ir.Constant(_BLOCK, [character] * 64))
            marks = builder.or_(marks, same)
        return builder.bitcast(marks, ir.IntType(64))

    return types.uint64(array, types.int64), implement


@intrinsic
def letter_marks(_typing: Any, array: Any, index: Any, letter: Any) -> tuple[Any, Callable[..., Any]]:
    """uint64: which of the 64 bytes from `index` are a letter (uint8, lower case), in either case."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        loaded = _load(context, builder, signature, arguments)
        undefined = ir.Constant(_BLOCK, ir.Undefined)
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
        single = builder.insert_element(undefined, arguments[2], ir.Constant(ir.IntType(32), 0))
        splat = builder.shuffle_vector(single, undefined, lanes)
        lower = builder.or_(loaded, ir.Constant(_BLOCK, [0x20] * 64))
        return builder.bitcast(builder.icmp_unsigned("==", lower, splat), ir.IntType(64))

    return types.uint64(array, types.int64, types.uint8), implement


@inlined
def skip_white(data, i):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the first index from `i` that is no white space."""
    while data[i] <= _SPACE and (data[i] == _SPACE or data[i] == _LINE_FEED or data[i] == _RETURN or data[i] == _TAB):
        i += 1
    return i


@part
def _hex_value(data, i):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the value of four hexadecimal digits, or UNSURE."""
    value = 0
    for j in range(i, i + 4):
        digit = numba.int64(data[j])
        if _ZERO <= digit <= _NINE:
            value = value * 16 + digit - _ZERO
        elif _A <= digit | 32 <= _F:
            value = value * 16 + (digit | 32) - _A + 10
        else:
            return UNSURE
    return value


@part
def _escape_end(data, i):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the index behind the escape whose backslash is at `i`, or UNSURE."""
    kind = data[i + 1]
    if kind == _U:
        return i + 6 if _hex_value(data, i + 2) >= 0 else UNSURE
    if kind in (_QUOTE, _BACKSLASH, _SLASH, _N, _R, _T, _B, _F):
        return i + 2
    return UNSURE


@inlined
def _next_mark(data, i):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the first index from `i` that `string_marks` marks."""
    marks = string_marks(data, i)
    while marks == 0:
        i += 64
        marks = string_marks(data, i)
    return i + lowest_bit(marks)


@part
def plain_string_end(data, i):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """As `string_end`, but UNSURE also where the string has escapes."""
    i = _next_mark(data, i)
    return i if data[i] == _QUOTE else UNSURE


@part
def string_end(data, i):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the index of the quote that closes the string whose first character is at `i`, or UNSURE."""
    while True:
        i = _next_mark(data, i)
        if data[i] == _QUOTE:
            return i
        if data[i] != _BACKSLASH:
            return UNSURE
        i = _escape_end(data, i)
        if i < 0:
            return UNSURE


@part
def _scalar_end(data, i):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the index behind the integer, true, false or null at `i`, or UNSURE."""
    if data[i] == _T:
        return i + 4 if data[i + 1] == _R and data[i + 2] == _U and data[i + 3] == _E else UNSURE
    if data[i] == _F:
        ok = data[i + 1] == _A and data[i + 2] == _L and data[i + 3] == _S and data[i + 4] == _E
        return i + 5 if ok else UNSURE
    if data[i] == _N:
        return i + 4 if data[i + 1] == _U and data[i + 2] == _L and data[i + 3] == _L else UNSURE
    if data[i] == _MINUS:
        i += 1
    first = i
    while _ZERO <= data[i] <= _NINE:
        i += 1
    if i == first or (data[first] == _ZERO and i > first + 1):
        return UNSURE
    return i


@part
def _key_end(data, i):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the index behind the colon of the key at `i`, or UNSURE."""
    if data[i] != _QUOTE:
        return UNSURE
    end = string_end(data, i + 1)
    if end < 0:
        return UNSURE
    i = skip_white(data, end + 1)
    return i + 1 if data[i] == _COLON else UNSURE


@part
def value_end(data, i):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the index behind the value at `i` (white space may come before it), or UNSURE."""
    objects = np.uint64(0)  # a bit for each open bracket, the innermost lowest: 1 where it is a brace
    depth = 0
    while True:
        i = skip_white(data, i)
        c = data[i]
        if c == _QUOTE:
            i = string_end(data, i + 1) + 1  # 0 where UNSURE
        elif c in (_OPEN_OBJECT, _OPEN_ARRAY):
            is_object = c == _OPEN_OBJECT
            i = skip_white(data, i + 1)
            if data[i] == (_CLOSE_OBJECT if is_object else _CLOSE_ARRAY):
                i += 1
            else:
                if depth == _MAX_DEPTH:
                    return UNSURE
                depth += 1
                objects = objects << _ONE
                if is_object:
                    objects |= _ONE
                    i = _key_end(data, i)
                    if i < 0:
                        return UNSURE
                continue
        else:
            i = _scalar_end(data, i)
        if i <= 0:
            return UNSURE
        while True:  # behind a value
            if depth == 0:
                return i
            i = skip_white(data, i)
            in_object = objects & _ONE != 0
            if data[i] == _COMMA:
                i += 1
                if in_object:
                    i = _key_end(data, skip_white(data, i))
                    if i < 0:
                        return UNSURE
                break
            if data[i] != (_CLOSE_OBJECT if in_object else _CLOSE_ARRAY):
                return UNSURE
            i += 1
            depth -= 1
            objects = objects >> _ONE


@part
def put_character(code, out, n):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: `n` behind the UTF-8 of a code point."""
    if code < 0x80:
        out[n] = code
        return n + 1
    if code < 0x800:
        out[n] = 0xC0 | code >> 6
    else:
        if code < 0x10000:
            out[n] = 0xE0 | code >> 12
        else:
            out[n] = 0xF0 | code >> 18
            n += 1
            out[n] = 0x80 | code >> 12 & 0x3F
        n += 1
        out[n] = 0x80 | code >> 6 & 0x3F
    out[n + 1] = 0x80 | code & 0x3F
    return n + 2


@part
def _next_high(data, i, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the first index from `i` that is not ASCII, or one from `end` on."""
    while i < end:
        high = load8(data, i) & _HIGH_BITS
        if high != 0:
            return i + (lowest_bit(high) >> 3)
        i += 8
    return i


@part
def is_utf8(data, start, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """bool: whether data[start:end] is well-formed (Unicode Standard, table 3-7)."""
    i = start
    while True:
        i = _next_high(data, i, end)
        if i >= end:
            return True
        lead = data[i]
        i += 1
        num_more = 1 + (lead >= 0xE0) + (lead >= 0xF0)
        if not 0xC2 <= lead <= 0xF4 or i + num_more > end:
            return False
        lowest, highest = 0x80, 0xBF
        if lead == 0xE0:
            lowest = 0xA0  # else it could be shorter
        elif lead == 0xED:
            highest = 0x9F  # else it would be half a surrogate pair
        elif lead == 0xF0:
            lowest = 0x90
        elif lead == 0xF4:
            highest = 0x8F  # else it would be beyond Unicode
        if not lowest <= data[i] <= highest:
            return False
        for k in range(i + 1, i + num_more):
            if not 0x80 <= data[k] <= 0xBF:
                return False
        i += num_more


@part
def copy_bytes(data, start, end, out, n):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: `n` behind a copy of data[start:end] in `out`."""
    # An index without a sign cannot count from the array's end, and many bytes are copied at once.
    source, target = np.uint64(start), np.uint64(n)
    for k in range(np.uint64(end - start)):
        out[target + k] = data[source + k]
    return n + end - start


@part
def copy_string(data, start, end, out, n):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: `n` behind the characters data[start:end] of a string that `string_end` accepted, or UNSURE.

    Escapes are decoded. UNSURE where one gives NUL or half a surrogate pair, and where bytes are not UTF-8.
    """
    i = start
    first = n
    while True:
        stop = _next_mark(data, i)
        n = copy_bytes(data, i, stop, out, n)
        i = stop
        if i >= end:
            return n if is_utf8(out, first, n) else UNSURE
        kind = data[i + 1]
        i += 2
        if kind != _U:
            if kind == _N:
                kind = np.uint8(_LINE_FEED)
            elif kind == _R:
                kind = np.uint8(_RETURN)
            elif kind == _T:
                kind = np.uint8(_TAB)
            elif kind == _B:
                kind = np.uint8(8)
            elif kind == _F:
                kind = np.uint8(12)
            out[n] = kind
            n += 1
            continue
        code = _hex_value(data, i)
        i += 4
        if 0xD800 <= code < 0xDC00 and i + 6 <= end and data[i] == _BACKSLASH and data[i + 1] == _U:
            low = _hex_value(data, i + 2)
            if not 0xDC00 <= low < 0xE000:
                return UNSURE
            code = 0x10000 + (code - 0xD800 << 10) + low - 0xDC00
            i += 6
        if code == 0 or 0xD800 <= code < 0xE000:
            return UNSURE
        n = put_character(code, out, n)

"""The URL and the text of a picture link, from the bytes that the page wrote, in compiled code.

    unescape --> entities decoded, in place        base_parts, join --> absolute URL        canonical --> its identity

Errs on one side only: what is accepted comes out as `unescape_attribute` (`links.py`), `resolver`
(`pipeline/web/urls.py`) and `canonical_url` (`pipeline/records/identity.py`) give it, byte for byte; those have to
judge what is answered with UNSURE. Tests hold each function to its model.

No function checks bounds: whoever calls sees to it that there is room for what is written.
"""

from __future__ import annotations

import string

import numba
import numpy as np

from pipeline.compiled.declare import part
from pipeline.stages.extract.json_scan import UNSURE, copy_bytes, put_character

__all__ = ["base_parts", "canonical", "join", "unescape"]

_RETURN, _SPACE = b"\r "
_AMPERSAND, _HASH, _SEMICOLON, _EQUALS, _PERCENT = b"&#;=%"
_SLASH, _QUESTION, _COLON, _DOT, _BACKSLASH = b"/?:.\\"
_ZERO, _TWO, _NINE, _UPPER_A, _UPPER_Z, _E, _S, _X = b"029AZesx"
_HTTP = np.frombuffer(b"http", np.uint8)
_NOT_ASCII = 0x80
_MAX_DIGITS, _MAX_PORT_DIGITS = 6, 4

# --- classes of characters --------------------------------------------------------------------

_SIMPLE, _IN_PATH, _IN_QUERY, _UNRESERVED, _HOST, _WORD, _HEX, _DECIMAL = (np.uint8(1 << bit) for bit in range(8))


def _classes() -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    word = string.ascii_letters + string.digits
    printed = "".join(map(chr, range(0x21, 0x7F)))
    members = {
        _SIMPLE: word + "_~!$&'()*+,;=:@.-",  # what a canonical URL has as it stands, in its path and query
        # What a URL is spelt with (URL Standard, path and special-query percent-encode sets; here "'" is not escaped).
        _IN_PATH: "".join(c for c in printed if c not in '"#<>?^`{}\\'),
        _IN_QUERY: "".join(c for c in printed if c not in '"#<>\\'),
        _UNRESERVED: word + "-._~",  # what a canonical URL does not escape (RFC 3986, section 2.3)
        _HOST: word + "_.-",
        _WORD: word,
        _HEX: string.hexdigits,
        _DECIMAL: string.digits,
    }
    table = np.zeros(256, np.uint8)
    for bit, characters in members.items():
        table[list(characters.encode())] |= bit
    return table


_CLASSES = _classes()
_HEX_DIGITS = np.frombuffer(b"0123456789ABCDEF", np.uint8)
_ENTITIES = ((b"amp", "&"), (b"quot", '"'), (b"lt", "<"), (b"gt", ">"), (b"apos", "'"), (b"nbsp", "\xa0"))
"""The named ones that are decoded here; the rest are rare."""
_MAX_NAME = 4
_NAMES = np.array([int.from_bytes(name, "big") for name, _ in _ENTITIES], np.int64)
_NAMED = np.array([ord(character) for _, character in _ENTITIES], np.int64)


@part
def _is(character, kind):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    return _CLASSES[character] & kind != 0


@part
def _digit(character):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the value of a hexadecimal digit."""
    character = numba.int64(character)
    return character - _ZERO if character <= _NINE else (character & 0x1F) + 9


# --- entities ---------------------------------------------------------------------------------


@part
def _reference(text, i, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """(int64, int64): the character that the ampersand at `i` stands for, and the index behind its reference; or
    UNSURE. An ampersand may stand for itself."""
    at = i + 1
    if at < end and text[at] == _HASH:
        at += 1
        base, digits = 10, _DECIMAL
        if at < end and text[at] | 0x20 == _X:
            base, digits = 16, _HEX
            at += 1
        code = 0
        first = at
        while at < end and at - first < _MAX_DIGITS and _is(text[at], digits):
            code = code * base + _digit(text[at])
            at += 1
        if at == end or text[at] != _SEMICOLON or not _is_usual(code):
            return UNSURE, UNSURE
        return code, at + 1
    name = 0  # its last eight letters
    while at < end and _is(text[at], _WORD):
        name = name << 8 | text[at]
        at += 1
    length = at - i - 1
    if length == 0 or _is(text[i + 1], _DECIMAL) or (at < end and text[at] == _EQUALS):
        return _AMPERSAND, i + 1
    if at < end and text[at] == _SEMICOLON and length <= _MAX_NAME:
        for k in range(_NAMES.shape[0]):
            if _NAMES[k] == name:
                return _NAMED[k], at + 1
    return UNSURE, UNSURE


@part
def _is_usual(code):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """bool: whether a code point is a character, and means itself in a reference: 0x80 to 0x9F are Windows-1252."""
    return _SPACE <= code < 0x7F or 0xA0 <= code < 0xD800 or 0xE000 <= code < 0x110000


@part
def unescape(text, start, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the end of an attribute text[start:end] after its entities were decoded in place, or UNSURE."""
    has_any = False
    for i in range(np.uint64(start), np.uint64(end)):  # no sign, no way out: many are compared at once
        has_any |= (text[i] == _AMPERSAND) | (text[i] == _RETURN)
    if not has_any:
        return end
    i = n = start
    while i < end:
        if text[i] == _RETURN:
            return UNSURE
        if text[i] == _AMPERSAND:
            code, i = _reference(text, i, end)
            if i < 0:
                return UNSURE
            n = put_character(code, text, n)  # never longer than its reference
        else:
            text[n] = text[i]
            n += 1
            i += 1
    return n


# --- absolute URLs ----------------------------------------------------------------------------


@part
def _put_escape(code, out, n):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    out[n] = _PERCENT
    out[n + 1] = _HEX_DIGITS[code >> 4]
    out[n + 2] = _HEX_DIGITS[code & 0xF]
    return n + 3


@part
def _scheme_end(text, start, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the index behind `http://` or `https://`, or UNSURE."""
    for k in range(_HTTP.shape[0]):
        if start + k >= end or text[start + k] != _HTTP[k]:
            return UNSURE
    at = start + _HTTP.shape[0]
    if at < end and text[at] == _S:
        at += 1
    if at + 3 <= end and text[at] == _COLON and text[at + 1] == _SLASH and text[at + 2] == _SLASH:
        return at + 3
    return UNSURE


@part
def _is_letter(character):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    return _is(character, _WORD) and character > _NINE


@part
def _host_end(text, at, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the index behind the host and port at `at`, which are as they should be but for capitals; or UNSURE."""
    label = at
    while at < end and _is(text[at], _HOST):
        if text[at] == _DOT:
            if at == label:
                return UNSURE
            label = at + 1
        at += 1
    # A last label that begins with a digit may be part of an IPv4 address.
    if at == label or not _is_letter(text[label]):
        return UNSURE
    if at < end and text[at] == _COLON:
        port = 0
        first = at + 1
        at = first
        while at < end and _is(text[at], _DECIMAL) and at - first < _MAX_PORT_DIGITS:
            port = port * 10 + _digit(text[at])
            at += 1
        if at == first or text[first] == _ZERO or port in (80, 443):
            return UNSURE
    if at < end and text[at] not in (_SLASH, _QUESTION, _HASH):
        return UNSURE
    return at


@part
def _may_be_dots(text, at, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """bool: whether the segment at `at` begins as one that stands for a folder does."""
    return at < end and (
        text[at] == _DOT
        or (at + 2 < end and text[at] == _PERCENT and text[at + 1] == _TWO and text[at + 2] | 0x20 == _E)
    )


@part
def base_parts(text, start, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """(int64, int64, bool): the index behind the host of the base URL text[start:end], and that behind its last folder
    (equal where it has no path); or UNSURE. And whether what stands before that is canonical."""
    host = _scheme_end(text, start, end)
    root = _host_end(text, host, end) if host >= 0 else np.int64(UNSURE)
    if root < 0:
        return UNSURE, UNSURE, False
    for at in range(host, root):
        if _UPPER_A <= text[at] <= _UPPER_Z:
            return UNSURE, UNSURE, False
    folder = root
    is_canonical = so_far = True
    for at in range(root, end):
        c = text[at]
        if c in (_QUESTION, _HASH):
            break
        if not _is(c, _IN_PATH) or (c == _SLASH and _may_be_dots(text, at + 1, end)):
            return UNSURE, UNSURE, False
        if c == _SLASH:
            folder = at + 1
            is_canonical = so_far
        else:
            so_far = so_far and _is(c, _SIMPLE)
    return root, folder, is_canonical


@part
def _put_path(text, at, end, out, n):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """(int64, bool): `n` behind the path and query at `at`, as they are spelt; or UNSURE. And whether that is as
    canonical as what stands before it."""
    is_canonical = True
    if out[n - 1] == _SLASH and _may_be_dots(text, at, end):
        return UNSURE, False
    while at < end:
        c = text[at]
        at += 1
        if _is(c, _SIMPLE):
            out[n] = c
            n += 1
        elif c == _SLASH:
            out[n] = c
            n += 1
            if _may_be_dots(text, at, end):
                return UNSURE, False
        elif _is(c, _IN_PATH):
            out[n] = c
            n += 1
            is_canonical = False
        elif c in (_QUESTION, _HASH):
            at -= 1
            break
        elif c <= _SPACE or c == _BACKSLASH:
            return UNSURE, False
        else:
            n = _put_escape(c, out, n)
    if at == end or text[at] == _HASH:
        return n, is_canonical
    out[n] = _QUESTION
    n += 1
    at += 1
    if at == end or text[at] == _HASH:
        return n, False
    while at < end and text[at] != _HASH:
        c = text[at]
        at += 1
        if _is(c, _IN_QUERY):
            out[n] = c
            n += 1
            is_canonical = is_canonical and (_is(c, _SIMPLE) or c in (_SLASH, _QUESTION))
        elif c <= _SPACE or c == _BACKSLASH:
            return UNSURE, False
        else:
            n = _put_escape(c, out, n)
    return n, is_canonical


@part
def _put_absolute(text, start, host, end, out, n):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """(int64, bool): as `_put_path`, of a URL or its rest from text[start], whose host is at text[host]."""
    path = _host_end(text, host, end)
    if path < 0:
        return UNSURE, False
    for at in range(start, path):
        out[n] = text[at] | 0x20 if _UPPER_A <= text[at] <= _UPPER_Z else text[at]
        n += 1
    if path == end or text[path] != _SLASH:
        out[n] = _SLASH
        n += 1
    return _put_path(text, path, end, out, n)


@part
def join(text, start, end, base, parts, out, n):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """(int64, bool): `n` behind the URL that text[start:end] means, in `out`; or UNSURE. And whether it is canonical.

    The base URL begins at text[base] and has these `base_parts`. At most three times as many bytes are written as the
    URL has, those of the base, and one."""
    root, folder, is_canonical = parts
    if start == end or text[end - 1] >= _NOT_ASCII:  # might be white space, which is dropped
        return UNSURE, False
    host = _scheme_end(text, start, end)
    if host >= 0:
        return _put_absolute(text, start, host, end, out, n)
    if root < 0:
        return UNSURE, False
    at = start
    if text[start] == _SLASH:
        if start + 1 < end and text[start + 1] == _SLASH:
            scheme = base
            while text[scheme] != _SLASH:
                scheme += 1
            return _put_absolute(text, start, start + 2, end, out, copy_bytes(text, base, scheme, out, n))
        folder = root
        is_canonical = True
        needs_root = False
    else:
        while at + 2 < end and text[at] == _DOT and text[at + 1] == _DOT and text[at + 2] == _SLASH:
            at += 3
            if folder > root + 1:  # at the root, ".." leads nowhere
                folder -= 1
                while text[folder - 1] != _SLASH:
                    folder -= 1
        for k in range(at, end):
            if text[k] == _SLASH:
                break
            if text[k] in (_COLON, _QUESTION, _HASH):
                if text[k] == _COLON or k == at:  # a scheme; the page itself
                    return UNSURE, False
                break
        needs_root = folder == root
    n = copy_bytes(text, base, folder, out, n)
    if needs_root:
        out[n] = _SLASH
        n += 1
    n, rest_is_canonical = _put_path(text, at, end, out, n)
    return n, is_canonical and rest_is_canonical


# --- canonical URLs ---------------------------------------------------------------------------


@part
def canonical(text, start, end, out, n):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: `n` behind the canonical form of the URL text[start:end], as `join` gave it, in `out`.

    At most three times as many bytes are written."""
    at = _scheme_end(text, start, end)
    while text[at] != _SLASH:
        at += 1
    n = copy_bytes(text, start, at, out, n)
    in_query = False
    while at < end:
        c = text[at]
        at += 1
        if c == _QUESTION and not in_query:
            in_query = True
            if at == end:
                break
        elif c == _PERCENT and at + 1 < end and _is(text[at], _HEX) and _is(text[at + 1], _HEX):
            c = np.uint8(_digit(text[at]) << 4 | _digit(text[at + 1]))
            at += 2
            if not _is(c, _UNRESERVED):
                n = _put_escape(c, out, n)
                continue
        elif c not in (_PERCENT, _QUESTION, _SLASH) and not _is(c, _SIMPLE):
            n = _put_escape(c, out, n)
            continue
        out[n] = c
        n += 1
    return n

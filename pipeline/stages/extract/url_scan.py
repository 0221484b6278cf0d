"""The URL and the text of a picture link, from the bytes that the page wrote, in compiled code.

    unescape --> entities decoded, in place        base_parts, join --> absolute URL        canonical --> its identity

Errs on one side only: what is accepted comes out as `unescape_attribute`, `resolver` (`links.py`) and `canonical_url`
(`identity.py`) give it, byte for byte; those have to judge what is answered with UNSURE. Tests hold each function to
its model.

No function checks bounds: whoever calls sees to it that there is room for what is written.
"""

from __future__ import annotations

import string

import numba
import numpy as np

from pipeline.stages.extract.json_scan import UNSURE, copy_bytes, put_character

__all__ = ["base_parts", "canonical", "join", "unescape"]

_RETURN, _SPACE = b"\r "
_AMPERSAND, _HASH, _SEMICOLON, _EQUALS, _PERCENT = b"&#;=%"
_SLASH, _QUESTION, _COLON, _DOT, _BACKSLASH, _OPEN_BRACKET, _CLOSE_BRACKET = b"/?:.\\[]"
_ZERO, _NINE, _UPPER_A, _UPPER_Z, _S, _X = b"09AZsx"
_HTTP = np.frombuffer(b"http", np.uint8)
_NOT_ASCII = 0x80
_MAX_DIGITS, _MAX_PORT_DIGITS = 6, 4

# --- classes of characters --------------------------------------------------------------------

_SEGMENT, _QUERY, _PLAIN, _UNRESERVED, _HOST, _WORD, _HEX, _DECIMAL = (np.uint8(1 << bit) for bit in range(8))


def _classes() -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    word = string.ascii_letters + string.digits
    members = {
        _SEGMENT: word + "_~%+,=@!$&'()*-.",  # of a relative URL that is joined without a parser; a dot not at first
        _QUERY: word + "_~%+,=@!$&'()*.:/?-",  # likewise
        _PLAIN: word + "_~!$&'()*+,;=:@.-/",  # what a canonical URL has as it stands, in its path and query
        _UNRESERVED: word + "-._~",  # what it does not escape (RFC 3986, section 2.3)
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


@numba.njit
def _is(character, kind):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    return _CLASSES[character] & kind != 0


@numba.njit
def _digit(character):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the value of a hexadecimal digit."""
    character = numba.int64(character)
    return character - _ZERO if character <= _NINE else (character & 0x1F) + 9


# --- entities ---------------------------------------------------------------------------------


@numba.njit
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


@numba.njit
def _is_usual(code):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """bool: whether a code point is a character, and means itself in a reference: 0x80 to 0x9F are Windows-1252."""
    return _SPACE <= code < 0x7F or 0xA0 <= code < 0xD800 or 0xE000 <= code < 0x110000


@numba.njit
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


@numba.njit
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


@numba.njit
def base_parts(text, start, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """(int64, int64): the index behind the host of the base URL text[start:end], and that behind its last folder (equal
    where it has no path); or UNSURE."""
    host = _scheme_end(text, start, end)
    if host < 0:
        return UNSURE, UNSURE
    root = host
    while root < end and text[root] not in (_SLASH, _QUESTION, _HASH):
        if text[root] <= _SPACE or text[root] in (_BACKSLASH, _OPEN_BRACKET, _CLOSE_BRACKET):
            return UNSURE, UNSURE
        root += 1
    if root == host:
        return UNSURE, UNSURE
    if root == end or text[root] != _SLASH:
        return root, root
    folder = root + 1
    is_plain = True  # so far in the segment that begins at `folder`
    for at in range(folder, end):
        c = text[at]
        if c in (_QUESTION, _HASH):
            break
        if c != _SLASH:
            is_plain = is_plain and _is(c, _SEGMENT)
        elif is_plain and at > folder and text[folder] != _DOT:
            folder = at + 1
        else:
            return UNSURE, UNSURE
    return root, folder


@numba.njit
def _is_plain_path(text, start, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """bool: whether text[start:end] is one or more segments without dots at their head, perhaps with a query."""
    at = segment = start
    while at < end and text[at] != _QUESTION:
        if text[at] == _SLASH:
            if at == segment:
                return False
            segment = at + 1
        elif not _is(text[at], _SEGMENT) or (at == segment and text[at] == _DOT):
            return False
        at += 1
    if at == end:
        return at > start
    if at == start or at + 1 == end:
        return False
    for k in range(at + 1, end):  # noqa: SIM110  # compiled code has no all()
        if not _is(text[k], _QUERY):
            return False
    return True


@numba.njit
def _is_plain_host(text, start, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """bool: whether text[start:end] begins with a host without a port, and a plain path follows it."""
    at = start
    while at < end and _is(text[at], _HOST):
        at += 1
    return at > start and at < end and text[at] == _SLASH and _is_plain_path(text, at + 1, end)


@numba.njit
def join(text, start, end, base, root, folder, out, n):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: `n` behind the URL that text[start:end] means, in `out`; or UNSURE.

    The base URL begins at text[base]; `root` and `folder` are its `base_parts`. At most as many bytes are written as
    both URLs have, and one."""
    host = _scheme_end(text, start, end)
    if host >= 0:
        if host == end or text[host] == _SLASH:
            return UNSURE
        for k in range(host, end):
            if text[k] <= _SPACE or text[k] == _BACKSLASH:
                return UNSURE
        return copy_bytes(text, start, end, out, n)
    if root < 0 or start == end:
        return UNSURE
    if text[start] == _SLASH:
        if start + 1 < end and text[start + 1] == _SLASH:
            if not _is_plain_host(text, start + 2, end):
                return UNSURE
            scheme = base
            while text[scheme] != _SLASH:
                scheme += 1
            return copy_bytes(text, start, end, out, copy_bytes(text, base, scheme, out, n))
        if not _is_plain_path(text, start + 1, end):
            return UNSURE
        return copy_bytes(text, start, end, out, copy_bytes(text, base, root, out, n))
    at = start
    while at + 2 < end and text[at] == _DOT and text[at + 1] == _DOT and text[at + 2] == _SLASH:
        at += 3
        if folder > root + 1:  # at the root, ".." leads nowhere
            folder -= 1
            while text[folder - 1] != _SLASH:
                folder -= 1
    if not _is_plain_path(text, at, end):
        return UNSURE
    n = copy_bytes(text, base, folder, out, n)
    if folder == root:
        out[n] = _SLASH
        n += 1
    return copy_bytes(text, at, end, out, n)


# --- canonical URLs ---------------------------------------------------------------------------


@numba.njit
def _put_escape(code, out, n):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    out[n] = _PERCENT
    out[n + 1] = _HEX_DIGITS[code >> 4]
    out[n + 2] = _HEX_DIGITS[code & 0xF]
    return n + 3


@numba.njit
def _copy_host(text, at, end, out, n):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """(int64, int64): the index behind the host and port at `at`, and `n` behind their canonical form; or UNSURE."""
    first = at
    while at < end and _is(text[at], _HOST):
        out[n] = text[at] | 0x20 if _UPPER_A <= text[at] <= _UPPER_Z else text[at]
        n += 1
        at += 1
    if at == first or text[first] == _DOT:
        return UNSURE, UNSURE
    if at < end and text[at] == _COLON:
        port = 0
        out[n] = _COLON
        first = at + 1
        at = first
        while at < end and _is(text[at], _DECIMAL) and at - first < _MAX_PORT_DIGITS:
            port = port * 10 + _digit(text[at])
            out[n + 1 + at - first] = text[at]
            at += 1
        if at == first or text[first] == _ZERO or port in (80, 443):
            return UNSURE, UNSURE
        n += 1 + at - first
    if at < end and text[at] not in (_SLASH, _QUESTION, _HASH):
        return UNSURE, UNSURE
    return at, n


@numba.njit
def canonical(text, start, end, out, n):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: `n` behind the canonical form of the URL text[start:end], as `join` gave it, in `out`; or UNSURE.

    At most three times as many bytes are written, and one."""
    host = _scheme_end(text, start, end)
    if host < 0 or text[end - 1] >= _NOT_ASCII:  # might be white space, which is stripped
        return UNSURE
    at, n = _copy_host(text, host, end, out, copy_bytes(text, start, host, out, n))
    if at < 0:
        return UNSURE
    if at == end or text[at] != _SLASH:
        out[n] = _SLASH
        n += 1
    in_query = False
    while at < end and text[at] != _HASH:
        c = text[at]
        at += 1
        if c == _QUESTION and not in_query:
            in_query = True
            if at == end or text[at] == _HASH:
                break
            out[n] = c
            n += 1
            continue
        if c == _PERCENT and at + 1 < end and _is(text[at], _HEX) and _is(text[at + 1], _HEX):
            c = np.uint8(_digit(text[at]) << 4 | _digit(text[at + 1]))
            at += 2
            if not _is(c, _UNRESERVED):
                n = _put_escape(c, out, n)
                continue
        elif c not in (_PERCENT, _QUESTION) and not _is(c, _PLAIN):
            n = _put_escape(c, out, n)
            continue
        if c == _DOT and not in_query and out[n - 1] == _SLASH:
            return UNSURE
        out[n] = c
        n += 1
    return n

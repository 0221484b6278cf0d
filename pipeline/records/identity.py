"""Identities and keyed hashes: canonical URL v1, `url_id`, `uid`, and the only randomness there is.

All of it is stable for ever; `tests/pipeline/test_identity.py` holds the vectors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

import ada_url
import idna
import numpy as np
import numpy.typing as npt
import xxhash

__all__ = [
    "canonical_url",
    "first_64_bits",
    "ids_of",
    "keyed_hash",
    "keyed_hashes",
    "keyed_state",
    "text_hash",
    "uid_of",
    "url_id_of",
]

_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_KEPT_ESCAPE = r"%(?:[0189A-F][0-9A-F]|2[0-9A-CF]|3[A-F]|[46]0|5[B-E]|7[BCDF])"  # of no unreserved character
_IN_PATH = r"[A-Za-z0-9_~!$&'()*+,;=:@.-]"
_IN_QUERY = r"[A-Za-z0-9_~!$&'()*+,;=:@./?-]"
_is_canonical = re.compile(
    r"https?://[a-z0-9_-][a-z0-9_.-]*+(?::(?!80/|443/)[1-9][0-9]{0,3})?"
    rf"(?:/(?!\.){_IN_PATH}*+(?:{_KEPT_ESCAPE}{_IN_PATH}*+)*+)++"
    rf"(?:\?(?:{_IN_QUERY}++|{_KEPT_ESCAPE})++)?"
).fullmatch
"""Matches URLs that are canonical as they stand; the bulk of the web, so they skip the parser."""
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_KEEP_IN_PATH = frozenset("!$&'()*+,;=:@/%") | _UNRESERVED
_KEEP_IN_QUERY = _KEEP_IN_PATH | frozenset("?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def canonical_url(url: str) -> str:
    """Canonical URL v1 of an absolute http(s) URL: equal for spellings that must mean the same thing.

    Conservative, after RFC 3986 section 6.2.2: scheme and host in lower case, international host
    names in punycode, default port and fragment removed, an empty path is "/", dot segments resolved,
    percent-escapes in upper-case hex and decoded where they stand for an unreserved character, white
    space and non-ASCII characters escaped as UTF-8. Query parameters, their order, user info, a
    trailing dot or slash and "www." are left alone: a server may tell them apart. (What links are
    identified by comes from `pipeline.web.urls`, which leaves no user info.)

    Raises ValueError where there is no http(s) scheme or no host.
    """
    return url if _is_canonical(url) else _canonical_by_parts(url)


def _canonical_by_parts(url: str) -> str:
    parts = urlsplit(url.strip())
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError("not an absolute http(s) URL")
    userinfo, at, _ = parts.netloc.rpartition("@")
    port = parts.port  # raises ValueError beyond 65535
    netloc = f"{userinfo}{at}{_canonical_host(parts.hostname)}"
    if port is not None and str(port) != _DEFAULT_PORTS[scheme]:
        netloc = f"{netloc}:{port}"
    path = _remove_dot_segments(_escape(parts.path, _KEEP_IN_PATH)) or "/"
    query = "?" + _escape(parts.query, _KEEP_IN_QUERY) if parts.query else ""
    return f"{scheme}://{netloc}{path}{query}"


def url_id_of(canonical: str) -> bytes:
    """16 bytes: xxh3-128 of a canonical URL, big-endian."""
    return xxhash.xxh3_128_digest(canonical.encode("utf-8", "surrogatepass"))


def uid_of(canonical: str, text_source: str, source_text: str) -> bytes:
    """16 bytes: xxh3-128 of canonical URL, NUL, text source, NUL, source text (UTF-8), big-endian."""
    text = f"{canonical}\0{text_source}\0{source_text}"
    return xxhash.xxh3_128_digest(text.encode("utf-8", "surrogatepass"))


def ids_of(data: bytes, starts: Sequence[int], ends: Sequence[int]) -> bytes:
    """16 bytes each, end to end: the hashes of N pieces data[start:end], which are what `url_id_of` or `uid_of` would
    hash, in UTF-8."""
    digest = xxhash.xxh3_128_digest
    return b"".join([digest(data[start:end]) for start, end in zip(starts, ends, strict=True)])


def text_hash(text: str) -> int:
    """64-bit xxh3 of UTF-8 text: how a query enters keyed draws, whatever its place in the list."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def first_64_bits(ids: npt.NDArray[np.void] | npt.NDArray[np.uint8] | bytes) -> npt.NDArray[np.uint64]:
    """uint64[N] from N 16-byte identities laid end to end: the first eight bytes, big-endian."""
    data = ids if isinstance(ids, bytes) else np.ascontiguousarray(ids).tobytes()
    return np.frombuffer(data, dtype=">u8")[::2].astype(np.uint64)


def keyed_hash(
    seed: int, ids: npt.NDArray[np.uint64], queries: npt.NDArray[np.uint64] | None = None
) -> npt.NDArray[np.uint64]:
    """uint64[N]: uniform hash of (seed, id [, query hash]), one per row.

    `ids` uint64[N] are first 64 bits of identities; `queries` uint64[N] are `text_hash`es. The mixer is
    MurmurHash3's 64-bit finaliser, applied once per key with odd multipliers between.
    """
    state = keyed_state(seed)
    with np.errstate(over="ignore"):
        mixed = _mix(ids * np.uint64(0x9E3779B97F4A7C15) + state)
        if queries is not None:
            mixed = _mix(mixed ^ (queries * np.uint64(0xD6E8FEB86659FD93) + state))
    return mixed


def keyed_hashes(states: npt.NDArray[np.uint64], ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """uint64[N, C]: `keyed_hash(seed, ids)` under each of C seeds, given by their `keyed_state` uint64[C]: for many
    draws of few rows."""
    with np.errstate(over="ignore"):
        return _mix((ids * np.uint64(0x9E3779B97F4A7C15))[:, None] + states)


def keyed_state(seed: int) -> np.uint64:
    """What `keyed_hash` makes of a seed, once for many rows."""
    return np.uint64(_mix_int((seed + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF))


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = x ^ (x >> np.uint64(33))
    x = x * np.uint64(0xFF51AFD7ED558CCD)
    x = x ^ (x >> np.uint64(33))
    x = x * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


def _mix_int(x: int) -> int:
    with np.errstate(over="ignore"):
        return int(_mix(np.array([x], np.uint64))[0])


def _canonical_host(host: str) -> str:
    if host.isascii():
        return f"[{host}]" if ":" in host else host.lower()
    try:
        return idna.encode(host, uts46=True).decode("ascii")  # UTS 46, non-transitional
    except UnicodeError:
        pass  # no name to register, but browsers open it: symbols, underscores, hyphens in odd places
    try:
        return ada_url.URL(f"http://{host}/").hostname
    except ValueError:
        raise ValueError("the host name is not valid") from None


def _escape(text: str, keep: frozenset[str]) -> str:
    def unescape(match: re.Match[str]) -> str:
        character = chr(int(match.group(1), 16))
        return character if character in _UNRESERVED else f"%{match.group(1).upper()}"

    text = _ESCAPE.sub(unescape, text)
    if keep.issuperset(text):
        # A lone "%" that starts no escape stays: servers read it as it is.
        return text
    return "".join(c if c in keep else _percent(c) for c in text)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _remove_dot_segments(path: str) -> str:
    """RFC 3986 section 5.2.4 for absolute paths."""
    if "/." not in path:
        return path
    output: list[str] = []
    segments = path.split("/")
    for i, segment in enumerate(segments):
        last = i == len(segments) - 1
        if segment == ".":
            if last:
                output.append("")
        elif segment == "..":
            if len(output) > 1:
                output.pop()
            if last:
                output.append("")
        else:
            output.append(segment)
    return "/".join(output)

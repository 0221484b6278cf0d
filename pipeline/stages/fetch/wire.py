"""What goes over the wire: the URL that is requested, and where a redirect leads. After the URL Standard, as browsers.

    URL as its page gave it --wire_url--> URL on the wire --Location, joined--> URL on the wire

Escapes stay as they were written: a server may have signed them, or tell `%2D` from `-`. Only what cannot stand in a
request line is encoded. The canonical spelling (`pipeline.identity`) says which URLs are one; nothing is asked by it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote

from pipeline.identity import canonical_url

__all__ = ["OtherSchemeError", "joined", "target_of", "wire_url"]

_C0_AND_SPACE = "".join(map(chr, range(0x21)))
_STRAY = re.compile("[\t\n\r]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_AFTER_SLASHES = re.compile(r"([^/\\?#]*)([^?#]*)(\?[^#]*)?")  # authority, path, query
_RELATIVE = re.compile(r"([^?#]*)(\?[^#]*)?")
_ON_THE_WIRE = re.compile(r"(https?)://([^/]*)([^?]*)(.*)")
# URL Standard, "forbidden domain code point", without the colon and the brackets, which a port and IPv6 may bring.
_NO_HOST = re.compile(r"[\x00-\x20#/<>?@\\^|%\x7f]")
# URL Standard, "path percent-encode set" and "query percent-encode set". It also encodes an apostrophe in queries,
# which may stand in a request line (RFC 3986, section 3.4) and so stays.
_NOT_IN_PATH = re.compile(r"[^!$-;=@-\]_a-z|~]")
_NOT_IN_QUERY = re.compile(r"[^!#-;=?-~]")


class OtherSchemeError(ValueError):
    """The URL is neither http nor https; the message is its scheme."""


def wire_url(url: str) -> str:
    """The URL to request for absolute `url`: ASCII, without user info and fragment; otherwise as it is written.

    The host is spelt as `canonical_url` spells it. As in browsers, white space around the URL and tabs and line breaks
    in it are dropped, a backslash before the query is a slash, dot segments are resolved.

    Raises OtherSchemeError, or ValueError where there is no scheme or no host.
    """
    text = _STRAY.sub("", url.strip(_C0_AND_SPACE))
    scheme = _SCHEME.match(text)
    if scheme is None:
        raise ValueError("not an absolute URL")
    return _absolute(_http_or_https(scheme[1]), text[scheme.end() :])


def joined(base: str, location: bytes) -> str:
    """Where `location`, the value of a Location header, leads from `base`, a URL on the wire: one on the wire.

    Bytes beyond ASCII are encoded as they are, whatever charset they were meant in: Latin-1 `/\\xe9` is `/%E9`.
    Raises as `wire_url` does.
    """
    text = "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in location)
    text = _STRAY.sub("", text.strip(_C0_AND_SPACE))
    parts = _ON_THE_WIRE.fullmatch(base)
    if parts is None:
        raise ValueError("the base is not absolute")
    own_scheme, authority, own_path, own_query = parts.groups()
    scheme = _SCHEME.match(text)
    if scheme is not None:
        name, text = _http_or_https(scheme[1]), text[scheme.end() :]
        if name != own_scheme:
            return _absolute(name, text)
        # "http:b.jpg" on an http page is relative: URL Standard, "special relative or authority state"
    if text[:1] in ("/", "\\") and text[1:2] in ("/", "\\"):
        return _absolute(own_scheme, text)
    relative = _RELATIVE.match(text)
    assert relative is not None  # it matches anything
    path, query = relative[1], relative[2]
    if not path:
        return f"{own_scheme}://{authority}{own_path}{own_query if query is None else _query(query)}"
    if path[0] not in "/\\":
        path = f"{own_path.rpartition('/')[0]}/{path}"
    return f"{own_scheme}://{authority}{_path(path)}{_query(query or '')}"


def target_of(url: str) -> str:
    """The request target of a URL on the wire: its path and query."""
    return "/" + url.split("/", 3)[3]


def _http_or_https(scheme: str) -> str:
    name = scheme.lower()
    if name not in ("http", "https"):
        raise OtherSchemeError(name)
    return name


def _absolute(scheme: str, rest: str) -> str:
    """From what follows the colon; any number of slashes leads to the host."""
    match = _AFTER_SLASHES.match(rest.lstrip("/\\"))
    assert match is not None  # it matches anything
    authority, path, query = match.groups()
    return f"{scheme}://{_host_and_port(scheme, authority)}{_path(path)}{_query(query or '')}"


@lru_cache(maxsize=4096)
def _host_and_port(scheme: str, authority: str) -> str:
    authority = authority.rpartition("@")[2]
    if "%" in authority and "[" not in authority:
        authority = unquote(authority, errors="strict")
    if not authority or _NO_HOST.search(authority):
        raise ValueError("no host, or characters that no host has")
    spelt = canonical_url(f"{scheme}://{authority}/")[len(scheme) + 3 : -1]
    spelt.encode("ascii")  # raises
    return spelt


def _path(path: str) -> str:
    """As it is written, but for dot segments, backslashes and what cannot stand in a request line."""
    if "\\" in path:
        path = path.replace("\\", "/")
    if "/." in path or "/%2" in path:
        path = _without_dot_segments(path)
    return _NOT_IN_PATH.sub(_escaped, path) or "/"


def _without_dot_segments(path: str) -> str:
    """URL Standard, "path state": `.` and `..`, also in escapes, which are no names but ways."""
    kept: list[str] = []
    name = ""
    for segment in path.split("/")[1:]:
        name = segment.lower().replace("%2e", ".")
        if name == "..":
            del kept[-1:]
        elif name != ".":
            kept.append(segment)
    if name in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _query(query: str) -> str:
    return _NOT_IN_QUERY.sub(_escaped, query)


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))

"""What goes over the wire: the URL that is requested, and where a redirect leads. After the URL Standard, as browsers.

    URL as its page gave it --wire_url--> URL on the wire --Location, joined--> URL on the wire

Both are read as `pipeline.web.urls` reads a page's: escapes stay as they were written, since a server may have signed
them, or tell `%2D` from `-`, and only what cannot stand in a request line is encoded. The canonical spelling
(`pipeline.records.identity`) says which URLs are one; nothing is asked by it.
"""

from __future__ import annotations

from pipeline.web.urls import SCHEME, resolver

__all__ = ["OtherSchemeError", "joined", "target_of", "wire_url"]

_C0_AND_SPACE = bytes(range(0x21))
_absolute = resolver("")


class OtherSchemeError(ValueError):
    """The URL is neither http nor https; the message is its scheme."""


def wire_url(url: str) -> str:
    """The URL to request for absolute `url`: ASCII, without user info and fragment; otherwise as it is written.

    Raises OtherSchemeError, or ValueError where there is no scheme or no host.
    """
    return _http_or_https(_absolute(url))


def joined(base: str, location: bytes) -> str:
    """Where `location`, the value of a Location header, leads from `base`, a URL on the wire: one on the wire.

    Bytes beyond ASCII are encoded as they are, whatever charset they were meant in: Latin-1 `/\\xe9` is `/%E9`.
    Raises as `wire_url` does.
    """
    text = "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in location.strip(_C0_AND_SPACE))
    if not text or text.startswith("#"):
        return base
    return _http_or_https(resolver(base)(text))


def target_of(url: str) -> str:
    """The request target of a URL on the wire: its path and query."""
    return "/" + url.split("/", 3)[3]


def _http_or_https(url: str) -> str:
    if url.startswith(("http://", "https://")):
        return url
    scheme = SCHEME.match(url)
    if scheme is not None:
        raise OtherSchemeError(scheme[1].lower())
    raise ValueError("not an absolute URL")

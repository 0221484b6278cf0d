"""Which of the URLs of an `img` is its picture.

This one is taken, the first that is there and no stand-in:

    src
    data-src and its kin, as lazy-loading scripts name them; then whatever other attribute holds a picture's URL
    the largest candidate of srcset, then of data-srcset and its kin
    the largest candidate of the first `source` of its `picture` whose type we can decode
    src after all, whatever it is

A stand-in is what is no http(s) URL of another document (data:, about:blank, javascript:, "//:0", "#"), or is named
like one (blank.gif, spacer, 1x1, loading ...).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["best_of_srcset", "image_url_of"]

_LAZY_ATTRIBUTES = (
    "data-src",
    "data-original",
    "data-lazy-src",
    "data-lazy",
    "data-original-src",
    "data-actualsrc",
    "data-hi-res-src",
    "data-image",
    "data-url",
    "data-echo",
    "data-cfsrc",
    "data-lazyload",
    "lazy-src",
    "lazysrc",
)
"""The common ones, the surest first."""
_MAY_BE_LAZY = re.compile(r"(?!.*(?:placeholder|fallback|error|loading))(?:data-|.*(?:lazy|src))")
_OF_A_SET = re.compile("src-?set")
_NOT_IN_URLS = re.compile(r"[\s,{}<>\"]")
_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".gif", ".tif", ".tiff", ".bmp", ".jp2")
_MAX_NAME_CHARS = 1024
"""No stand-in has a longer URL; the search for its name would take long."""
_STAND_IN = re.compile(
    r"(?:^|[/_.-])(?:blank|spacer|pixel|transparent|trans|clear|empty|dummy|grey|gray|1x1|placeholder|lazy|lazyload"
    r"|loading|loader|preload|ajax-loader)(?:[_.-][a-z0-9_-]*)?\.(?:gif|png|svg|jpe?g|webp)(?:[?#]|\Z)",
    re.IGNORECASE,
)
_DECODED_TYPES = frozenset(
    {
        "image/jpeg", "image/jpg", "image/pjpeg", "image/png", "image/x-png", "image/apng", "image/webp", "image/avif",
        "image/gif", "image/tiff", "image/bmp", "image/x-bmp", "image/x-ms-bmp", "image/jp2", "image/jpx", "image/j2k",
    }
)  # fmt: skip
"""Of what the image check decodes: JPEG, PNG, WEBP, AVIF, GIF, TIFF, BMP, JPEG2000."""


def image_url_of(node: Any, resolve: Callable[[str], str], document: str) -> str | None:
    """The URL of an `img` node by the module's rule, as the page wrote it; null if it has none at all.

    `resolve` makes a URL absolute, or "" of what is none; `document` is the page's own URL as it gives it.
    """
    attributes: dict[str, str | None] = node.attributes
    src = attributes.get("src")

    def is_picture(value: str | None) -> bool:
        if not value or (len(value) <= _MAX_NAME_CHARS and _STAND_IN.search(value.strip()) is not None):
            return False
        url = resolve(value)
        return url.startswith(("http://", "https://")) and url != document

    if is_picture(src):
        return src
    for value in _lazy_values(attributes):
        if is_picture(value):
            return value
    candidates = [best for srcset in _srcsets(node, attributes) if srcset and (best := best_of_srcset(srcset))]
    chosen = next(filter(is_picture, candidates), None)
    if chosen is None and src is None and candidates:
        return candidates[0]
    return chosen or src


def _lazy_values(attributes: dict[str, str | None]) -> Iterator[str]:
    for name in _LAZY_ATTRIBUTES:
        value = (attributes.get(name) or "").strip()
        if ("/" in value or "." in value) and value[0] not in "{[":
            yield value
    for name, said in attributes.items():
        if name != "src" and said and _MAY_BE_LAZY.match(name) is not None and _OF_A_SET.search(name) is None:
            value = said.strip()
            if _names_picture(value):
                yield value


def _names_picture(value: str) -> bool:
    """Whether a text that could be anything is the URL of a picture."""
    path = value.partition("#")[0].partition("?")[0]
    return path.lower().endswith(_ENDINGS) and _NOT_IN_URLS.search(value) is None


def _srcsets(node: Any, attributes: dict[str, str | None]) -> Iterator[str | None]:
    """The sets of candidates in the order in which they count."""
    yield attributes.get("srcset")
    yield from (value for name, value in attributes.items() if name != "srcset" and _OF_A_SET.search(name))
    parent = node.parent
    if parent is None or parent.tag != "picture":
        return
    for source in parent.css("source"):
        said: dict[str, str | None] = source.attributes
        # As browsers do (HTML Standard, section 4.8.4.3.7, "update the source set"), which do not look at names: a
        # source without a type counts.
        kind = (said.get("type") or "").partition(";")[0].strip().lower()
        if not kind or kind in _DECODED_TYPES:
            yield said.get("srcset")
            yield from (value for name, value in said.items() if name != "srcset" and _OF_A_SET.search(name))


_SRCSET_ITEM = re.compile(r"[\s,]*(\S+)\s*([^,(]*(?:\([^)]*(?:\)|\Z)[^,(]*)*)")


def best_of_srcset(srcset: str) -> str | None:
    """The URL with the widest `w`, else the greatest `x`, of a srcset; the first of equals; null if none.

    data: URLs do not count. A URL may hold commas; one that ends in a comma ends there (HTML Standard,
    section 4.8.4.2.1).
    """
    best: tuple[float, str] | None = None
    at = 0
    while (item := _SRCSET_ITEM.match(srcset, at)) is not None:
        url, descriptors = item[1], item[2]
        at = item.end()
        if url.endswith(","):
            url, descriptors = url.rstrip(","), ""
            at = item.end(1)
        size = 1.0
        for word in descriptors.split():
            if word[-1] in "wx":
                try:
                    size = float(word[:-1])
                except ValueError:
                    continue
        if url and url[:5].lower() != "data:" and (best is None or size > best[0]):
            best = (size, url)
    return best[1] if best is not None else None

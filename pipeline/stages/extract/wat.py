"""WAT files: Common Crawl's JSON about each page, one metadata record per page.

The image links are the entries of `HTML-Metadata.Links` whose path is `IMG@/src`. Their url and alt are
the attributes' raw characters, with HTML entities. There is no srcset, data-src, picture or noscript:
those need the WARC.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from pipeline.errors import InputError
from pipeline.outcome import Outcome
from pipeline.stages.extract.archive import Damage, read_blocks
from pipeline.stages.extract.config import ExtractConfig
from pipeline.stages.extract.links import (
    LinkBatch,
    directives_of,
    license_among,
    resolver,
    unescape_attribute,
)

__all__ = ["read_wat"]

_IMAGE = "IMG@/src"
_EMPTY = msgspec.Raw(b"null")


class _Link(msgspec.Struct, gc=False):
    path: str = ""
    url: str = ""
    alt: str = ""
    title: str = ""


class _Head(msgspec.Struct, rename={"base": "Base", "metas": "Metas", "links": "Link"}, gc=False):
    base: str | None = None
    metas: msgspec.Raw = _EMPTY
    links: msgspec.Raw = _EMPTY


class _Html(msgspec.Struct, rename={"head": "Head", "links": "Links"}, gc=False):
    head: _Head | None = None
    links: msgspec.Raw = _EMPTY


class _Response(msgspec.Struct, rename={"headers": "Headers", "html": "HTML-Metadata"}, gc=False):
    headers: msgspec.Raw = _EMPTY
    html: _Html | None = None


class _Payload(msgspec.Struct, rename={"response": "HTTP-Response-Metadata"}, gc=False):
    response: _Response | None = None


class _Warc(msgspec.Struct, rename={"target": "WARC-Target-URI"}, gc=False):
    target: str = ""


class _Envelope(msgspec.Struct, rename={"payload": "Payload-Metadata", "warc": "WARC-Header-Metadata"}, gc=False):
    payload: _Payload | None = None
    warc: _Warc | None = None


class _Page(msgspec.Struct, rename={"envelope": "Envelope"}, gc=False):
    envelope: _Envelope | None = None


_DECODER = msgspec.json.Decoder(_Page)
_LINKS_DECODER = msgspec.json.Decoder(list[_Link] | None)

_RECORDS_PER_LOOK = 16
"""Of records without pictures, so many may pass before the batch is asked whether it is full."""

# Most links of a page are no pictures, and making objects of them would take most of the time. In the
# compact form that the usual writers give, a picture's path stands between these bytes and a brace ends
# its entry. Where strings hold braces, the JSON cut out so is not well-formed, and all links are decoded.
_BEFORE_PATH = b'{"path":"'
_LICENSE_REL = re.compile(rb'"rel":\s*"[^"]*license', re.IGNORECASE)


def read_wat(path: str, config: ExtractConfig) -> Iterator[Outcome]:
    """Outcomes of one WAT file; the unit is an IMG@/src link, the record a page's metadata.

    Raises InputError where the file cannot be read or holds no metadata records.
    """
    batch = LinkBatch(path, config)
    robots = _Robots(config.robots_directives if config.respect_page_robots else ())
    num_metadata = 0
    others: set[str] = set()
    for item in read_blocks(path, record_type="metadata", others=others, max_record_bytes=config.max_record_bytes):
        num_metadata += 1
        if isinstance(item, Damage):
            batch.count_record()
            batch.reject_record(item.offset, item.reason, item.detail)
        else:
            offset, block = item
            batch.count_record(len(block))
            # Most records tell of requests or of pages without pictures.
            if b"IMG@/src" in block or not block.rstrip().endswith(b"}"):
                _read_page(batch, offset, block, config, robots)
            elif num_metadata % _RECORDS_PER_LOOK:
                continue  # nothing was added but a count
        if batch.full():
            yield batch.take()
    others.discard("warcinfo")
    if not num_metadata and others:
        raise InputError(
            f"{path}: not a WAT file: it holds {', '.join(sorted(others))} records and no metadata; "
            "set the format to warc if these are pages"
        )
    if batch.holds_anything():
        yield batch.take()


def _read_page(batch: LinkBatch, offset: int, block: bytes, config: ExtractConfig, robots: _Robots) -> None:
    try:
        page, images, raw_links = _decode(block)
    except _BadPageError as error:
        batch.reject_record(offset, "bad_record", str(error))
        return
    envelope = page.envelope
    response = envelope.payload.response if envelope is not None and envelope.payload is not None else None
    html = response.html if response is not None else None
    if envelope is None or response is None or html is None or not images:
        return
    page_url = envelope.warc.target.strip("<> \t\r\n") if envelope.warc is not None else ""
    if len(page_url) > config.max_url_chars:
        batch.reject_record(offset, "bad_record", f"the page's URL has {len(page_url)} characters")
        return
    head = html.head or _Head()
    forbidden = robots.forbid(response.headers, head.metas)
    if forbidden:
        for ordinal in range(len(images)):
            batch.reject_link(offset, ordinal, "opt_out", forbidden)
        return
    raw_urls = [link.url for link in images]
    if config.text_sources == ("alt",):
        texts = [unescape_attribute(link.alt) if link.alt else "" for link in images]
        text_sources = ["alt"] * len(images)
    else:
        found = [_first_text(link, config.text_sources) for link in images]
        texts = [text for _, text in found]
        text_sources = [source for source, _ in found]
    resolve: Callable[[str], str] = str
    license_url = None
    if any(texts):
        base = page_url
        if head.base:
            base = resolver(page_url)(unescape_attribute(head.base)) or page_url
            if len(base) > config.max_url_chars:
                base = ""
        resolve = resolver(base)
        license_url = _license(head.links, raw_links)
        if license_url is not None:
            license_url = resolve(unescape_attribute(license_url))
            if not 0 < len(license_url) <= config.max_url_chars:
                license_url = None
    batch.add_page(
        offset,
        raw_urls,
        texts,
        text_sources,
        resolve,
        page_url=page_url or None,
        license_url=license_url,
        decode=unescape_attribute,
    )


def _first_text(link: _Link, sources: Sequence[str]) -> tuple[str, str]:
    """The first text that is not blank; failing that, the first that is not empty; else ("alt", "")."""
    blank = ("alt", "")
    for source in sources:
        if source == "figcaption":
            continue
        text = unescape_attribute(link.alt if source == "alt" else link.title)
        if text and not text.isspace():
            return source, text
        if text and not blank[1]:
            blank = (source, text)
    return blank


class _Robots:
    """The robots directives of a page, as far as they forbid the use."""

    def __init__(self, directives: Sequence[str]) -> None:
        self._directives = frozenset(directives)
        self._words = [word.encode() for word in directives]

    def forbid(self, headers: msgspec.Raw, metas: msgspec.Raw) -> str:
        """The directives that forbid, for the ledger; "" if there are none. Both arguments are JSON."""
        raw = b"%b%b" % (headers, metas)
        lowered = raw.lower()
        if b"robots" not in lowered:
            return ""
        for word in self._words:
            if word in lowered:
                break
        else:
            if b"&#" not in lowered or not self._words:
                return ""
        found: list[str] = []
        for name, value in _items(headers):
            if name.lower() == "x-robots-tag":
                found.extend(map(str, value if isinstance(value, list) else [value]))
        for meta in _mappings(metas):
            if str(meta.get("name", "")).strip().lower() == "robots":
                found.append(unescape_attribute(str(meta.get("content", ""))))
        return ", ".join(sorted(directives_of(found) & self._directives)) if found else ""


def _license(head_links: msgspec.Raw, links: bytes) -> str | None:
    raws = [raw for raw in (bytes(head_links), links) if _may_name_license(raw)]
    return license_among(
        (str(link.get("rel", "")), str(link.get("url", ""))) for raw in raws for link in _mappings(raw)
    )


def _may_name_license(links: bytes) -> bool:
    # A plain search first: the pattern takes ten times as long.
    return b"license" in links.lower() and _LICENSE_REL.search(links) is not None


def _items(raw: msgspec.Raw) -> list[tuple[str, Any]]:
    value = msgspec.json.decode(raw)
    return list(value.items()) if isinstance(value, dict) else []


def _mappings(raw: bytes | msgspec.Raw) -> list[dict[str, Any]]:
    value = msgspec.json.decode(raw)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


# --- records that are not quite as they should be ---------------------------------------------


class _BadPageError(Exception):
    """The record's JSON cannot be read at all."""


def _decode(block: bytes) -> tuple[_Page, list[_Link], bytes]:
    """The typed page, its image links and the JSON of all its links.

    By a second, tolerant reading where bytes are not UTF-8, half a surrogate pair was escaped, or a field
    has another type than it should. Raises _BadPageError.
    """
    try:
        page = _DECODER.decode(block)
        return page, *_images_of(page)
    except RecursionError:
        raise _BadPageError("nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        first_error = str(error)
    try:
        page = _page_of(json.loads(block.decode("utf-8", "replace")))
        return page, *_images_of(page)
    except RecursionError:
        raise _BadPageError("nested too deeply") from None
    except ValueError:
        raise _BadPageError(f"bad JSON: {first_error}") from None


def _images_of(page: _Page) -> tuple[list[_Link], bytes]:
    envelope = page.envelope
    response = envelope.payload.response if envelope is not None and envelope.payload is not None else None
    if response is None or response.html is None:
        return [], b"null"
    raw = bytes(response.html.links)
    before, *entries = raw.split(b"IMG@/src")
    if not entries:
        return [], raw
    if before.endswith(_BEFORE_PATH) and all(entry.endswith(_BEFORE_PATH) for entry in entries[:-1]):
        cut = b'},{"path":"'.join([entry[: entry.find(b"}")] for entry in entries])
        try:
            images = _LINKS_DECODER.decode(b'[{"path":"%b}]' % cut) or []
        except msgspec.DecodeError:
            images = []
        if images and not any(image.path for image in images):  # else something like IMG@/srcset
            return images, raw
    return [link for link in _LINKS_DECODER.decode(raw) or [] if link.path == _IMAGE], raw


def _page_of(loose: Any) -> _Page:
    envelope = _mapping(_mapping(loose).get("Envelope"))
    response = _mapping(_mapping(envelope.get("Payload-Metadata")).get("HTTP-Response-Metadata"))
    html = _mapping(response.get("HTML-Metadata"))
    head = _mapping(html.get("Head"))
    links = html.get("Links")
    return _Page(
        envelope=_Envelope(
            warc=_Warc(target=_text(_mapping(envelope.get("WARC-Header-Metadata")).get("WARC-Target-URI"))),
            payload=_Payload(
                response=_Response(
                    headers=_raw(response.get("Headers")),
                    html=_Html(
                        head=_Head(
                            base=_text(head.get("Base")),
                            metas=_raw(head.get("Metas")),
                            links=_raw(head.get("Link")),
                        ),
                        links=_raw(
                            [
                                {name: _text(value) for name, value in link.items()}
                                for link in (links if isinstance(links, list) else [])
                                if isinstance(link, dict)
                            ]
                        ),
                    ),
                )
            ),
        )
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """A string without halves of surrogate pairs; the first string of a list; else ""."""
    if isinstance(value, list):
        value = next((item for item in value if isinstance(item, str)), "")
    if not isinstance(value, str):
        return ""
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _raw(value: Any) -> msgspec.Raw:
    text = json.dumps(value, ensure_ascii=False)
    return msgspec.Raw(_text(text).encode())

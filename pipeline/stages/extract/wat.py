"""WAT files: Common Crawl's JSON about each page, one metadata record per page.

The image links are the entries of `HTML-Metadata.Links` whose path is `IMG@/src`. Their url and alt are
the attributes' raw characters, with HTML entities. There is no srcset, data-src, picture or noscript:
those need the WARC.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from fastwarc.warc import WarcRecord, WarcRecordType

from pipeline.errors import InputError
from pipeline.outcome import Outcome
from pipeline.stages.extract.archive import Damage, read_records
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
    rel: str = ""


class _Head(msgspec.Struct, rename={"base": "Base", "metas": "Metas", "links": "Link"}, gc=False):
    base: str | None = None
    metas: msgspec.Raw = _EMPTY
    links: msgspec.Raw = _EMPTY


class _Html(msgspec.Struct, rename={"head": "Head", "links": "Links"}, gc=False):
    head: _Head | None = None
    links: list[_Link] | None = None


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


def read_wat(path: str, config: ExtractConfig) -> Iterator[Outcome]:
    """Outcomes of one WAT file; the unit is an IMG@/src link, the record a page's metadata.

    Raises InputError where the file cannot be read or holds no metadata records.
    """
    batch = LinkBatch(path, config)
    num_metadata = 0
    others: set[str] = set()

    def is_metadata(head: WarcRecord) -> bool:
        if head.record_type == WarcRecordType.metadata:
            return True
        if head.record_type != WarcRecordType.warcinfo:
            others.add(str(head.headers.get("WARC-Type")))
        return False

    for item in read_records(path, wanted=is_metadata, max_record_bytes=config.max_record_bytes):
        num_metadata += 1
        if isinstance(item, Damage):
            batch.count_record()
            batch.reject_record(item.offset, item.reason, item.detail)
        else:
            batch.count_record(len(item.block))
            _read_page(batch, item.offset, item.block, config)
        if batch.full():
            yield batch.take()
    if not num_metadata and others:
        raise InputError(
            f"{path}: not a WAT file: it holds {', '.join(sorted(others))} records and no metadata; "
            "set the format to warc if these are pages"
        )
    if batch.holds_anything():
        yield batch.take()


def _read_page(batch: LinkBatch, offset: int, block: bytes, config: ExtractConfig) -> None:
    if b"IMG@/src" not in block and block.rstrip().endswith(b"}"):
        return  # most records tell of requests or of pages without pictures
    try:
        page = _decode(block)
    except _BadPageError as error:
        batch.reject_record(offset, "bad_record", str(error))
        return
    envelope = page.envelope
    response = envelope.payload.response if envelope is not None and envelope.payload is not None else None
    html = response.html if response is not None else None
    if envelope is None or response is None or html is None or not html.links:
        return
    page_url = envelope.warc.target.strip("<> \t\r\n") if envelope.warc is not None else ""
    if len(page_url) > config.max_url_chars:
        batch.reject_record(offset, "bad_record", f"the page's URL has {len(page_url)} characters")
        return
    head = html.head or _Head()
    if config.respect_page_robots:
        directives = _directives(response.headers, head.metas)
        forbidden = directives.intersection(config.robots_directives) if directives else None
        if forbidden:
            detail = ", ".join(sorted(forbidden))
            images = sum(link.path == _IMAGE for link in html.links)
            for ordinal in range(images):
                batch.reject_link(offset, ordinal, "opt_out", detail)
            return
    base = page_url
    if head.base:
        base = resolver(page_url)(unescape_attribute(head.base)) or page_url
        if len(base) > config.max_url_chars:
            base = ""
    resolve = resolver(base)
    license_url: str | None = None
    if b"icense" in block or b"ICENSE" in block:
        license_url = _license(head.links, html.links)
        if license_url is not None:
            license_url = resolve(unescape_attribute(license_url))
            if not 0 < len(license_url) <= config.max_url_chars:
                license_url = None
    sources = [source for source in config.text_sources if source != "figcaption"]
    only_alt = sources == ["alt"]
    ordinal = -1
    for link in html.links:
        if link.path != _IMAGE:
            continue
        ordinal += 1
        text_source = "alt"
        text = link.alt
        if only_alt:
            if text:
                text = unescape_attribute(text)
        else:
            text_source, text = _first_text(link, sources)
        if not text:
            batch.reject_link(offset, ordinal, "no_text", link.url)
            continue
        raw_url = unescape_attribute(link.url)
        batch.add(
            url=resolve(raw_url),
            raw_url=raw_url,
            text=text,
            text_source=text_source,
            page_url=page_url or None,
            license_url=license_url,
            record=offset,
            link=ordinal,
        )


def _first_text(link: _Link, sources: Sequence[str]) -> tuple[str, str]:
    """The first text that is not blank; failing that, the first that is not empty; else ("alt", "")."""
    blank = ("alt", "")
    for source in sources:
        text = unescape_attribute(link.alt if source == "alt" else link.title)
        if text and not text.isspace():
            return source, text
        if text and not blank[1]:
            blank = (source, text)
    return blank


def _directives(headers: msgspec.Raw, metas: msgspec.Raw) -> set[str]:
    found: list[str] = []
    raw = bytes(headers)
    if b"robots-tag" in raw.lower():
        for name, value in _items(raw):
            if name.lower() == "x-robots-tag":
                found.extend(value if isinstance(value, list) else [value])
    raw = bytes(metas)
    if b"robots" in raw.lower():
        for meta in _list_of_mappings(raw):
            if str(meta.get("name", "")).strip().lower() == "robots":
                found.append(unescape_attribute(str(meta.get("content", ""))))
    return directives_of(str(value) for value in found) if found else set()


def _license(head_links: msgspec.Raw, links: list[_Link]) -> str | None:
    in_head = [(str(link.get("rel", "")), str(link.get("url", ""))) for link in _list_of_mappings(bytes(head_links))]
    return license_among([*in_head, *((link.rel, link.url) for link in links if link.rel)])


def _items(raw: bytes) -> list[tuple[str, Any]]:
    value = msgspec.json.decode(raw)
    return list(value.items()) if isinstance(value, dict) else []


def _list_of_mappings(raw: bytes) -> list[dict[str, Any]]:
    value = msgspec.json.decode(raw)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


# --- records that are not quite as they should be ---------------------------------------------


class _BadPageError(Exception):
    """The record's JSON cannot be read at all."""


def _decode(block: bytes) -> _Page:
    """The typed page; a second, tolerant reading where bytes are not UTF-8, half a surrogate pair was
    escaped, or a field has another type than it should. Raises _BadPageError."""
    try:
        return _DECODER.decode(block)
    except RecursionError:
        raise _BadPageError("nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        first_error = str(error)
    try:
        loose = json.loads(block.decode("utf-8", "replace"))
    except RecursionError:
        raise _BadPageError("nested too deeply") from None
    except ValueError:
        raise _BadPageError(f"bad JSON: {first_error}") from None
    return _page_of(loose)


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
                        links=[
                            _Link(**{name: _text(link.get(name)) for name in _Link.__struct_fields__})
                            for link in (links if isinstance(links, list) else [])
                            if isinstance(link, dict)
                        ],
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

"""WARC files: the pages themselves, read with a browser-grade HTML parser (lexbor).

One link per `img` element; `pictures.py` says which of its URLs.

`noscript` is read as a browser without scripts does, so the picture behind a lazy loader is found there.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from fastwarc.warc import WarcRecord, WarcRecordType
from selectolax.lexbor import LexborHTMLParser

from pipeline.errors import InputError
from pipeline.outcome import Outcome
from pipeline.stages.extract.archive import Damage, Record, read_records
from pipeline.stages.extract.batch import LinkBatch
from pipeline.stages.extract.charset import decode_html
from pipeline.stages.extract.config import ExtractConfig
from pipeline.stages.extract.figcaption import Figcaptions
from pipeline.stages.extract.links import license_among
from pipeline.stages.extract.pictures import image_url_of
from pipeline.stages.extract.robots import PageRobots
from pipeline.urls import base_url, resolver

__all__ = ["read_warc"]

_HTML_TYPES = ("text/html", "application/xhtml+xml")
_MAX_DEPTH = 2000
"""The parser's time grows with the square of the depth: a page of a million open divs would take hours.
Browsers themselves stop at 512."""
_BLOCK_TAG = re.compile(
    rb"<(/?)(?:div|section|article|aside|main|nav|header|footer|ul|ol|dl|blockquote|center|fieldset|figure|details"
    rb"|address|dir|menu|pre|listing|form|summary|hgroup|search|dialog|figcaption)[\s>/]",
    re.IGNORECASE,
)


def read_warc(path: str, config: ExtractConfig) -> Iterator[Outcome]:
    """Outcomes of one WARC file; the unit is an `img` with a URL, the record a response or resource.

    Raises InputError where the file cannot be read or holds no such records.
    """
    batch = LinkBatch(path, config)
    num_pages = 0
    others: set[str] = set()

    def may_be_page(head: WarcRecord) -> bool:
        if head.record_type == WarcRecordType.response:
            return True
        if head.record_type == WarcRecordType.resource:
            return (head.headers.get("Content-Type") or "").split(";")[0].strip().lower() in _HTML_TYPES
        if head.record_type != WarcRecordType.warcinfo:
            others.add(str(head.headers.get("WARC-Type")))
        return False

    for item in read_records(path, wanted=may_be_page, max_record_bytes=config.max_record_bytes):
        num_pages += 1
        if isinstance(item, Damage):
            batch.count_record()
            batch.reject_record(item.offset, item.reason, item.detail)
        else:
            batch.count_record(len(item.block))
            _read_record(batch, item, config)
        if batch.full():
            yield batch.take()
    if not num_pages and others and others <= {"metadata", "conversion"}:
        raise InputError(
            f"{path}: holds {' and '.join(sorted(others))} records and no pages; a WAT file needs the format wat"
        )
    if batch.holds_anything():
        yield batch.take()


def _read_record(batch: LinkBatch, item: Record, config: ExtractConfig) -> None:
    page_url = (item.head.headers.get("WARC-Target-URI") or "").strip("<> \t\r\n")
    headers: list[tuple[str, str]] = []
    if item.head.record_type == WarcRecordType.response:
        if not item.block.startswith(b"HTTP/"):
            return  # a DNS answer, FTP and the like: no page
        http, body = _parse_http(item.block, config.max_record_bytes)
        if http is None:
            return
        if body is None:
            batch.reject_record(item.offset, "oversized_record", f"more than {config.max_record_bytes} bytes unpacked")
            return
        charset = http.http_charset
        headers.extend(http.http_headers.to_tuples())
    else:
        body = item.block
        charset = _charset_parameter(item.head.headers.get("Content-Type") or "")
    if len(page_url) > config.max_url_chars:
        batch.reject_record(item.offset, "bad_record", f"the page's URL has {len(page_url)} characters")
        return
    if b"<img" not in body.lower() and b"\0" not in body[:64]:
        return  # no pictures, and not UTF-16 either
    if _is_nested_absurdly(body):
        batch.reject_record(item.offset, "bad_record", f"block elements nested deeper than {_MAX_DEPTH}")
        return
    _read_page(batch, item.offset, decode_html(body, charset), page_url, headers, config)


def _parse_http(block: bytes, max_bytes: int) -> tuple[WarcRecord | None, bytes | None]:
    """Headers and decoded body of an HTML answer; (null, null) for other types, a null body if it is
    larger than `max_bytes`.

    The record is set up afresh from its bytes: a wrong Content-Encoding would otherwise end the
    reading of the whole archive.
    """
    for decode in ("all", "none"):
        http = WarcRecord()
        http.init_headers(WarcRecordType.response)
        http.set_bytes_content(block)
        http.is_http = True
        try:
            http.parse_http(auto_decode=decode)
            if (http.http_content_type or "").lower() not in _HTML_TYPES:
                return None, None
            body = http.reader.read(max_bytes + 1)
        except OSError:
            continue  # crawlers store bodies unpacked under the old headers: read them as they are
        return http, body if len(body) <= max_bytes else None
    return None, None


def _is_nested_absurdly(body: bytes) -> bool:
    if body.count(b"<") <= _MAX_DEPTH:
        return False
    steps = (-1 if slash else 1 for slash in _BLOCK_TAG.findall(body))
    return max(itertools.accumulate(steps), default=0) > _MAX_DEPTH


def _charset_parameter(content_type: str) -> str | None:
    found = re.search(r"charset\s*=\s*[\"']?([^\s;\"']+)", content_type, re.IGNORECASE)
    return found[1] if found is not None else None


def _read_page(
    batch: LinkBatch, offset: int, html: str, page_url: str, headers: Sequence[tuple[str, str]], config: ExtractConfig
) -> None:
    """Adds the pictures of one page; `headers` are those of the response."""
    tree = LexborHTMLParser(html)
    base = page_url
    base_node = tree.css_first("base[href]")
    if base_node is not None:
        base = base_url(page_url, base_node.attributes.get("href") or "")
        if len(base) > config.max_url_chars:
            base = ""
    resolve = resolver(base)
    document = resolver("")(page_url)
    images, urls = [], []
    for node in tree.css("img"):
        url = image_url_of(node, resolve, document)
        if url is not None:
            images.append(node)
            urls.append(url)
    if not images:
        return
    forbidden = PageRobots(config).forbid(headers, _metas(tree))
    if forbidden:
        for ordinal in range(len(images)):
            batch.reject_link(offset, ordinal, "opt_out", forbidden)
        return
    license_url = license_among(
        (node.attributes.get("rel") or "", node.attributes.get("href") or "")
        for node in tree.css("link[rel][href], a[rel][href]")
    )
    if license_url is not None:
        license_url = resolve(license_url)
        if not 0 < len(license_url) <= config.max_url_chars:
            license_url = None
    captions = Figcaptions()
    texts = [_first_text(node, captions, config) for node in images]
    textless = [i for i, (_, text) in enumerate(texts) if not text]
    with_text = [i for i, (_, text) in enumerate(texts) if text]
    batch.add_page(
        offset,
        with_text,
        [urls[i] for i in with_text],
        [texts[i][1] for i in with_text],
        [texts[i][0] for i in with_text],
        resolve,
        page_url=page_url or None,
        license_url=license_url,
        textless=(textless, [urls[i] for i in textless]),
    )


def _metas(tree: LexborHTMLParser) -> Iterator[tuple[str, str]]:
    for node in tree.css("meta[name]"):
        yield node.attributes.get("name") or "", node.attributes.get("content") or ""


def _first_text(node: Any, captions: Figcaptions, config: ExtractConfig) -> tuple[str, str]:
    """The first text that is not blank; failing that, the first that is not empty; else ("alt", "")."""
    blank = ("alt", "")
    for source in config.text_sources:
        text = captions.of(node) if source == "figcaption" else node.attributes.get(source) or ""
        if text and not text.isspace():
            return source, text
        if text and not blank[1]:
            blank = (source, text)
    return blank

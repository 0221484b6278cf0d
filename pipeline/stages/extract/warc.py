"""WARC files: the pages themselves, read with a browser-grade HTML parser (lexbor).

One link per `img` element; `pictures.py` says which of its URLs.

`noscript` is read as a browser without scripts does, so the picture behind a lazy loader is found there.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fastwarc.warc import WarcRecord, WarcRecordType
from selectolax.lexbor import LexborHTMLParser

from pipeline.consent.pages import PageRules
from pipeline.consent.signals import PageSignals
from pipeline.errors import InputError
from pipeline.records.outcome import Outcome
from pipeline.stages.extract.archive import Damage, Record, read_records
from pipeline.stages.extract.batch import LinkBatch
from pipeline.stages.extract.charset import ForbiddenEncodingError, decode_html
from pipeline.stages.extract.config import ExtractConfig
from pipeline.stages.extract.figcaption import Figcaptions
from pipeline.stages.extract.http_message import (
    Answer,
    OversizedBodyError,
    UnreadableAnswerError,
    parse_answer,
    starts_answer,
    unpack,
)
from pipeline.stages.extract.links import license_among
from pipeline.stages.extract.media_type import MediaType, holds_binary, looks_like_html, media_type_of
from pipeline.stages.extract.pictures import image_url_of
from pipeline.stages.extract.stretch import WHOLE, Stretch
from pipeline.web.urls import base_url, resolver

__all__ = ["read_warc"]

_MAX_DEPTH = 2000
"""The parser's time grows with the square of the depth: a page of a million open divs would take hours.
Browsers themselves stop at 512."""
_BLOCK_TAG = re.compile(
    rb"<(/?)(?:div|section|article|aside|main|nav|header|footer|ul|ol|dl|blockquote|center|fieldset|figure|details"
    rb"|address|dir|menu|pre|listing|form|summary|hgroup|search|dialog|figcaption)[\s>/]",
    re.IGNORECASE,
)


def read_warc(path: str, config: ExtractConfig, signals: PageSignals, stretch: Stretch = WHOLE) -> Iterator[Outcome]:
    """Outcomes of one WARC file, or of a stretch of it; the unit is an `img` with a URL, the record any of the file.

    Each record ends as read, as rejected, or as passed over: `other_record` where its type holds no page,
    `not_a_page` where the answer is of another media type. Raises InputError where the file cannot be read or holds
    only the records of a WAT or WET file.
    """
    batch, rules = LinkBatch(path, config, one_by_one=True), PageRules(signals)
    num_pages = 0
    others: set[str] = set()

    def may_be_page(head: WarcRecord) -> bool:
        if head.record_type == WarcRecordType.response:
            return True
        reason = "other_record"
        if head.record_type == WarcRecordType.resource:
            media_type = _declared_type(head)
            if media_type.is_html or media_type.essence is None:
                return True
            reason = "not_a_page"
        elif head.record_type != WarcRecordType.warcinfo:
            others.add(str(head.headers.get("WARC-Type")))
        batch.count_record()
        batch.pass_over(reason)
        return False

    records = read_records(path, wanted=may_be_page, max_record_bytes=config.max_record_bytes, stretch=stretch)
    for item in records:
        num_pages += 1
        if isinstance(item, Damage):
            batch.count_record()
            batch.reject_record(item.offset, item.reason, item.detail)
        else:
            batch.count_record(len(item.block))
            _read_record(batch, item, config, rules)
        if batch.full():
            yield batch.take()
    if stretch.is_first and not num_pages and others and others <= {"metadata", "conversion"}:
        raise InputError(
            f"{path}: holds {' and '.join(sorted(others))} records and no pages; a WAT file needs the format wat"
        )
    if batch.holds_anything():
        yield batch.take()


class _Body(NamedTuple):
    """The HTML of a record, and what is said about it elsewhere."""

    html: bytes
    charset: str | None
    headers: Sequence[tuple[str, str]]
    """Of the response; names in lower case."""


def _read_record(batch: LinkBatch, item: Record, config: ExtractConfig, rules: PageRules) -> None:
    try:
        body = _body_of(item, config.max_record_bytes)
    except OversizedBodyError as error:
        batch.reject_record(item.offset, "oversized_record", str(error))
        return
    except UnreadableAnswerError as error:
        batch.reject_record(item.offset, "bad_record", str(error))
        return
    if body is None:
        batch.pass_over("not_a_page")
        return
    page_url = (item.head.headers.get("WARC-Target-URI") or "").strip("<> \t\r\n")
    if len(page_url) > config.max_url_chars:
        batch.reject_record(item.offset, "bad_record", f"the page's URL has {len(page_url)} characters")
        return
    if not _names_pictures(body.html) and not _may_be_utf16(body.html):
        batch.count_read()
        return
    if _is_nested_absurdly(body.html):
        batch.reject_record(item.offset, "bad_record", f"block elements nested deeper than {_MAX_DEPTH}")
        return
    try:
        html = decode_html(body.html, body.charset)
    except ForbiddenEncodingError as error:
        batch.reject_record(item.offset, "bad_record", str(error))
        return
    batch.count_read()
    _read_page(batch, item.offset, html, page_url, body.headers, config, rules)


def _body_of(item: Record, max_bytes: int) -> _Body | None:
    """The page that a record holds; null if what it holds is none."""
    answer = _answer_of(item)
    declared = media_type_of(answer.values("content-type"))
    identified = media_type_of([item.head.headers.get("WARC-Identified-Payload-Type") or ""])
    is_html = declared.is_html or identified.is_html  # the latter as the writer of Common Crawl's WAT files has it
    if not is_html and declared.essence is not None:
        return None
    html = unpack(answer, max_bytes)
    if not is_html:
        forbids_sniffing = "nosniff" in (value.lower() for value in answer.values("x-content-type-options"))
        if forbids_sniffing or not looks_like_html(html):
            return None
    elif holds_binary(html) and not _names_pictures(html) and not _may_be_utf16(html):
        codings = answer.codings()
        if codings:
            raise UnreadableAnswerError(f"the body cannot be unpacked: {', '.join(codings)}")
        return None  # a picture or the like, called a page
    return _Body(html, declared.charset or identified.charset, answer.headers)


def _answer_of(item: Record) -> Answer:
    """The answer in a record; one without a header, where the record holds a file and not an answer."""
    is_response = item.head.record_type == WarcRecordType.response
    if is_response and starts_answer(item.block):
        return parse_answer(item.block)
    value = item.head.headers.get("Content-Type") or ""
    if not is_response or _declared_type(item.head).essence not in (None, "application/http"):
        return Answer([("content-type", value)], item.block)
    if not looks_like_html(item.block):
        raise UnreadableAnswerError("no HTTP answer: it does not begin with a status line")
    return Answer([], item.block)


def _declared_type(head: WarcRecord) -> MediaType:
    return media_type_of([head.headers.get("Content-Type") or ""])


def _names_pictures(html: bytes) -> bool:
    lower = html.lower()
    return b"<img" in lower or b"<\0i\0m\0g" in lower  # the latter in UTF-16 of either order


def _may_be_utf16(html: bytes) -> bool:
    return b"<\0" in html[:64] or b"\0<" in html[:64]


def _is_nested_absurdly(body: bytes) -> bool:
    if body.count(b"<") <= _MAX_DEPTH:
        return False
    steps = (-1 if slash else 1 for slash in _BLOCK_TAG.findall(body))
    return max(itertools.accumulate(steps), default=0) > _MAX_DEPTH


def _read_page(
    batch: LinkBatch,
    offset: int,
    html: str,
    page_url: str,
    headers: Sequence[tuple[str, str]],
    config: ExtractConfig,
    rules: PageRules,
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
    refusal = rules.forbid(headers, _metas(tree))
    if refusal is not None:
        for ordinal in range(len(images)):
            batch.reject_link(offset, ordinal, refusal.reason, refusal.detail)
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

"""WAT files: Common Crawl's JSON about each page, one metadata record per page.

    Blocks --wat_scan--> columns of links ---------------------.
       |        `------> Page, for what it leaves to judge --> LinkBatch --> Outcome
       | what it cannot read, and small files  ^
       `--wat_json-----------------------------'

The image links are the entries of `HTML-Metadata.Links` whose path is `IMG@/src`. Their url and alt are
the attributes' raw characters, with HTML entities. There is no srcset, data-src, picture or noscript:
those need the WARC.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.consent.answers import Refusal
from pipeline.consent.pages import PageRules
from pipeline.consent.signals import PageSignals
from pipeline.errors import InputError
from pipeline.records.outcome import Outcome
from pipeline.stages.extract.archive import read_blocks
from pipeline.stages.extract.batch import LinkBatch
from pipeline.stages.extract.blocks import Blocks
from pipeline.stages.extract.config import ExtractConfig
from pipeline.stages.extract.files import size_of
from pipeline.stages.extract.links import license_among, unescape_attribute
from pipeline.stages.extract.page import Page
from pipeline.stages.extract.stretch import WHOLE, Stretch
from pipeline.stages.extract.wat_json import BadPageError, parse_page, parse_tolerantly
from pipeline.stages.extract.wat_scan import Scanner
from pipeline.web.remote import is_web
from pipeline.web.urls import base_url, resolver

__all__ = ["read_wat"]

_COMPILED_FROM_BYTES = 1 << 20
"""Smaller files are read by the full parser alone: the scan takes a quarter of a minute to compile, once an
installation."""
_LICENSE_REL = re.compile(rb'"rel":\s*"[^"]*license', re.IGNORECASE)


def read_wat(path: str, config: ExtractConfig, signals: PageSignals, stretch: Stretch = WHOLE) -> Iterator[Outcome]:
    """Outcomes of one WAT file, or of a stretch of it; the unit is an IMG@/src link, the record a page's metadata.

    Raises InputError where the file cannot be read or holds no metadata records.
    """
    rules = _Rules(signals)
    scanner = None
    if is_web(path) or size_of(path) >= _COMPILED_FROM_BYTES:
        scanner = Scanner(config.text_sources, rules.words, config.max_url_chars)
    batch = LinkBatch(path, config, scanner.columns if scanner is not None else None, one_by_one=True)
    found_any = False
    others: Counter[str] = Counter()
    num_others = 0
    blocks = read_blocks(
        path, record_type="metadata", others=others, max_record_bytes=config.max_record_bytes, stretch=stretch
    )
    for item in blocks:
        found_any = True
        num_others = _count_others(batch, others, num_others)
        if isinstance(item, Blocks):
            yield from _read_blocks(batch, item, scanner, config, rules)
        else:
            if item.offset is None and batch.holds_anything():
                yield batch.take()  # it has its place behind these
            batch.count_record()
            batch.reject_record(item.offset, item.reason, item.detail)
        if batch.full():
            yield batch.take()
    _count_others(batch, others, num_others)
    del others["warcinfo"]
    if not found_any and others and stretch.is_first:
        raise InputError(
            f"{path}: not a WAT file: it holds {', '.join(sorted(others))} records and no metadata; "
            "set the format to warc if these are pages"
        )
    if batch.holds_anything():
        yield batch.take()


def _count_others(batch: LinkBatch, others: Counter[str], num_before: int) -> int:
    """Enters the records of other types that came since; returns how many there are now."""
    num_others = others.total()
    batch.count_records(num_others - num_before)
    batch.pass_over("other_record", num_others - num_before)
    return num_others


def _read_blocks(
    batch: LinkBatch, blocks: Blocks, scanner: Scanner | None, config: ExtractConfig, rules: _Rules
) -> Iterator[Outcome]:
    first, num_records, num_bytes = 0, len(blocks.offsets), len(blocks.data)
    while first < num_records:
        if scanner is None:
            following = first + 1
            pages: list[tuple[int, Page | None]] = [(first, None)]
        else:
            if not scanner.columns.has_room(num_bytes):
                if batch.holds_anything():
                    yield batch.take()
                scanner.columns.make_room(num_bytes)
            following, pages, num_read, num_not_pages = scanner.scan(blocks, first, batch.room())
            batch.count_read(num_read)
            batch.pass_over("not_a_page", num_not_pages)
        for number, page in pages:
            _judge(batch, blocks, number, page, config, rules)
        batch.count_records(following - first)
        first = following
        if batch.full():
            yield batch.take()
    batch.count_records(0, num_bytes)


def _judge(
    batch: LinkBatch, blocks: Blocks, number: int, page: Page | None, config: ExtractConfig, rules: _Rules
) -> None:
    """Adds a page; null stands for a record that is still to be read."""
    offset = blocks.offsets[number]
    if page is None:
        block = blocks.block(number)
        # A record that is cut short is told of, one of which no picture could be read anyway is not.
        if b"IMG@/src" in block or not block.rstrip().endswith(b"}"):
            try:
                page = parse_page(block, config.text_sources)
            except BadPageError as error:
                batch.reject_record(offset, "bad_record", str(error))
                return
        if page is None:  # has no pictures
            if b"html-met" in block.lower():  # HTML-Metadata, by as much of it as compiled code looks at
                batch.count_read()
            else:
                batch.pass_over("not_a_page")
            return
    _add_page(batch, offset, page, config, rules)


def _add_page(batch: LinkBatch, offset: int, page: Page, config: ExtractConfig, rules: _Rules) -> None:
    page_url = page.target.strip("<> \t\r\n")
    if len(page_url) > config.max_url_chars:
        batch.reject_record(offset, "bad_record", f"the page's URL has {len(page_url)} characters")
        return
    batch.count_read()
    refusal = rules.forbid(*page.directives) if page.directives is not None else None
    if refusal is not None:
        for ordinal in range(len(page.ordinals) + len(page.textless_ordinals)):
            batch.reject_link(offset, ordinal, refusal.reason, refusal.detail)
        return
    textless = page.textless_ordinals, page.textless_urls
    if not page.ordinals:
        batch.reject_textless(offset, *textless)
        return
    texts, text_sources = _texts(page, config.text_sources)
    base = page_url
    if page.base:
        base = base_url(page_url, unescape_attribute(page.base))
        if len(base) > config.max_url_chars:
            base = ""
    resolve = resolver(base)
    license_url = _license(page.licenses) if page.licenses is not None else None
    if license_url is not None:
        license_url = resolve(unescape_attribute(license_url))
        if not 0 < len(license_url) <= config.max_url_chars:
            license_url = None
    batch.add_page(
        offset,
        page.ordinals,
        _unescaped(page.urls),
        texts,
        text_sources,
        resolve,
        page_url=page_url or None,
        license_url=license_url,
        textless=textless,
    )


def _texts(page: Page, sources: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of each link the first text that is not blank, or else the first that is not empty; and their sources."""
    found = {"alt": page.alts, "title": page.titles}
    asked = [(source, _unescaped(texts)) for source in sources if (texts := found.get(source)) is not None]
    if len(asked) == 1:
        ((source, texts),) = asked
        return texts, [source] * len(texts)
    chosen = []
    for i in range(len(page.ordinals)):
        full = [(source, texts[i]) for source, texts in asked if texts[i]]
        chosen.append(next(((source, text) for source, text in full if not text.isspace()), full[0]))
    return [text for _, text in chosen], [source for source, _ in chosen]


def _unescaped(raw: Sequence[str]) -> list[str]:
    # The tests of `unescape_attribute` itself, without a call for each of the many that need nothing.
    return [unescape_attribute(text) if "&" in text or "\r" in text or "\0" in text else text for text in raw]


class _Rules:
    """What a page says of its use, as far as it forbids."""

    def __init__(self, signals: PageSignals) -> None:
        self._rules = PageRules(signals)
        self.words = self._rules.words
        self._words = [word.encode() for word in self.words]

    def forbid(self, headers: bytes, metas: bytes) -> Refusal | None:
        """What forbids, or None. Both arguments are JSON."""
        lowered = (headers + metas).lower()
        for word in self._words:
            if word in lowered:
                break
        else:
            # Any word could be written with character references; that is looked for only where `robots` stands too.
            if b"&#" not in lowered or b"robots" not in lowered or not self._words:
                return None
        return self._rules.forbid(_headers(headers), _metas(metas))


def _headers(raw: bytes) -> Iterator[tuple[str, str]]:
    for name, value in _items(raw):
        for each in value if isinstance(value, list) else [value]:
            yield name, str(each)


def _metas(raw: bytes) -> Iterator[tuple[str, str]]:
    for meta in _mappings(raw):
        yield unescape_attribute(str(meta.get("name", ""))), unescape_attribute(str(meta.get("content", "")))


def _license(links: Sequence[bytes]) -> str | None:
    raws = [raw for raw in links if _may_name_license(raw)]
    return license_among(
        (str(link.get("rel", "")), str(link.get("url", ""))) for raw in raws for link in _mappings(raw)
    )


def _may_name_license(links: bytes) -> bool:
    # A plain search first: the pattern takes ten times as long.
    return b"license" in links.lower() and _LICENSE_REL.search(links) is not None


def _items(raw: bytes) -> list[tuple[str, Any]]:
    value = parse_tolerantly(raw)
    return list(value.items()) if isinstance(value, dict) else []


def _mappings(raw: bytes) -> list[dict[str, Any]]:
    value = parse_tolerantly(raw)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []

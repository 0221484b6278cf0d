"""The picture links of many WAT records in one pass over their bytes, in compiled code.

    record that names pictures --find_page--> where things stand --url_scan--> LinkColumns
      | not sure                                | not sure of a link, or what Python has to judge first:
      `--> None: for a full parser to judge     `--> Page                   robots, licence, base

Errs on one side only, as `json_scan` does: what it is sure of are the strings that a full parser would give, and the
links that `wat.py` would make of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled.declare import kernel, part
from pipeline.stages.extract.blocks import Blocks
from pipeline.stages.extract.columns import LINKS, MIN_LINK_BYTES, PAGES, TEXTLESS, LinkColumns
from pipeline.stages.extract.json_scan import UNSURE, copy_bytes, copy_string, skip_white
from pipeline.stages.extract.page import Page
from pipeline.stages.extract.url_scan import base_parts, canonical, join, unescape
from pipeline.stages.extract.wat_walk import (
    ALT,
    BASE,
    HEAD_LINKS,
    HEADERS,
    METAS,
    NUM_MEMBERS,
    TARGET,
    TITLE,
    URL,
    Places,
    Word,
    find_page,
    has_no_pictures,
    holds_word,
    names_html,
    names_license,
    names_robots,
    word_of,
)

__all__ = ["Scan", "Scanner"]

_MAY_FORBID, _MAY_LICENSE, _HAS_BASE, _HAS_ODD_URL = 1, 2, 4, 8
_NULL = b"null"
_TEXTS = {"alt": ALT, "title": TITLE}
_FIRST = np.int64(0)
_AROUND_PAGE_URL = np.frombuffer(b"<> \t\r\n", np.uint8)
_VISIBLE_FROM, _VISIBLE_TO = b"!~"
_SLASH, _BACKSLASH, _QUESTION, _HASH, _AT = b"/\\?#@"


class _Rules(NamedTuple):
    """The config, for compiled code."""

    texts: npt.NDArray[np.int64]
    """The sources of text, in order, as `find_page` numbers them."""
    labels: npt.NDArray[np.uint8]
    """NUL, source, NUL of each of them, end to end; up to `label_ends`."""
    label_ends: npt.NDArray[np.int64]
    words: npt.NDArray[np.uint64]
    """What a page that has to be judged says, the first only beside `robots`; and how many bytes of it."""
    word_lengths: npt.NDArray[np.int64]
    max_url_chars: int


class _Records(NamedTuple):
    """The records of `Blocks`, for compiled code."""

    data: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    """In the file."""


class _Row(NamedTuple):
    """A page of which something is left to judge. Spans of values are 0 and 0 where there is none."""

    record: int
    num_with_text: int
    """Links; UNSURE where the record is for a full parser."""
    num_textless: int
    flags: int
    headers: int
    headers_end: int
    metas: int
    metas_end: int
    head_links: int
    head_links_end: int
    links: int
    links_end: int


_FIRST_SPAN = _Row._fields.index("headers")


class _Left(NamedTuple):
    """What compiled code leaves to judge."""

    rows: npt.NDArray[np.int64]
    """int64[N, 12], as `_Row` has them."""
    ordinals: npt.NDArray[np.int32]
    """Of the pages' links, those with a text before the others."""
    strings: npt.NDArray[np.uint8]
    """Target, base, and the links' URLs and texts, a NUL behind each."""


class Scan(NamedTuple):
    """What came of some records."""

    following: int
    """Number of the record to go on from."""
    pages: list[tuple[int, Page | None]]
    """What is left to judge, by the numbers of its records: pages, and null where a record is for a full parser. Of
    the links of a page that stand in `columns` none is in its `Page`."""
    num_read: int
    """Records that were read to the end, be there links or none; those in `pages` are not among them."""
    num_not_pages: int
    """Records that tell of no HTML: of requests, pictures and the like."""


class Scanner:
    """Reads WAT records under one config."""

    def __init__(self, text_sources: Sequence[str], words: Sequence[str], max_url_chars: int) -> None:
        """`words`: one of them stands in the headers or metas of each page that has to be left to Python, which then
        sees whether it forbids the use of its pictures."""
        self._sources = [name for name in text_sources if name in _TEXTS]
        self.columns = LinkColumns(self._sources)
        """The links that the pass was sure of."""
        labels = [f"\0{name}\0".encode() for name in self._sources]
        # Any word could be written with character references. Long ones are told by their beginnings.
        words = [word for word in ("&#", *words) if word] if words else []
        self._rules = _Rules(
            np.array([_TEXTS[name] for name in self._sources], np.int64),
            np.frombuffer(b"".join(labels), np.uint8),
            np.cumsum([0, *map(len, labels)]),
            np.array([word_of(word).letters for word in words], np.uint64),
            np.array([word_of(word).length for word in words], np.int64),
            max_url_chars,
        )

    def scan(self, blocks: Blocks, first: int, max_links: int) -> Scan:
        """Goes through the records from number `first` until `max_links` links are found, or one more page's.

        There must be room in `columns`.
        """
        data = np.frombuffer(blocks.data, np.uint8)
        max_images = len(data) // MIN_LINK_BYTES + 1
        images = np.empty((max_images, 3, 2), np.int64)
        left = _Left(
            rows=np.empty((len(blocks.starts), len(_Row._fields)), np.int64),
            ordinals=np.empty(max_images, np.int32),
            strings=np.empty(2 * len(data), np.uint8),
        )
        records = _Records(data, blocks.starts, blocks.ends, np.array(blocks.offsets, np.int64))
        record, num_pages, num_links, num_bytes, num_read, num_not_pages = _scan(
            records, first, max_links, self._rules, self.columns.arrays, images, left
        )
        strings = left.strings[:num_bytes].tobytes().decode().split("\0")
        rows = list(map(_Row._make, left.rows[:num_pages].tolist()))
        pages = _pages(rows, strings, left.ordinals[:num_links].tolist(), blocks.data, self._sources)
        return Scan(record, pages, num_read, num_not_pages)


def _pages(
    rows: list[_Row], strings: list[str], ordinals: list[int], data: bytes, sources: Sequence[str]
) -> list[tuple[int, Page | None]]:
    pages: list[tuple[int, Page | None]] = []
    at = link = 0
    width = 1 + len(sources)
    for row in rows:
        if row.num_with_text < 0:
            pages.append((row.record, None))
            continue
        first, end = at + 2, at + 2 + row.num_with_text * width
        textless = link + row.num_with_text
        end_link = textless + row.num_textless
        headers, metas = data[row.headers : row.headers_end], data[row.metas : row.metas_end]
        head_links, links = data[row.head_links : row.head_links_end], data[row.links : row.links_end]
        texts = {name: strings[first + 1 + i : end : width] for i, name in enumerate(sources)}
        page = Page(
            target=strings[at],
            base=strings[at + 1],
            directives=(headers or _NULL, metas or _NULL) if row.flags & _MAY_FORBID else None,
            licenses=(head_links or _NULL, links) if row.flags & _MAY_LICENSE else None,
            ordinals=ordinals[link:textless],
            urls=strings[first:end:width],
            alts=texts.get("alt"),
            titles=texts.get("title"),
            textless_ordinals=ordinals[textless:end_link],
            textless_urls=strings[end : end + row.num_textless],
        )
        pages.append((row.record, page))
        at, link = end + row.num_textless, end_link
    return pages


# --- pages for Python to judge ----------------------------------------------------------------


@part
def _copy(data, start, end, out, n):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: `n` behind a string (empty where there is none) and a NUL in `out`, or UNSURE."""
    if n >= 0 and start >= 0:
        n = copy_string(data, start, end, out, n)
    if n < 0:
        return UNSURE
    out[n] = 0
    return n + 1


@part
def _has_text(images, k, texts):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    for t in range(texts.shape[0]):
        which = texts[t] - URL
        if images[k, which, 1] > images[k, which, 0]:
            return True
    return False


@part
def _copy_link(data, images, k, texts, out, n, starts):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: `n` behind the URL and the texts of a link in `out`, or UNSURE. `starts` gets their places, and `n`."""
    starts[0] = n
    n = _copy(data, images[k, 0, 0], images[k, 0, 1], out, n)
    for t in range(texts.shape[0]):
        starts[1 + t] = n
        which = texts[t] - URL
        n = _copy(data, images[k, which, 0], images[k, which, 1], out, n)
    starts[1 + texts.shape[0]] = n
    return n


@part
def _copy_page(  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    data, places, texts, left, n, num_links, starts
):
    """(int64, int64): `n` behind all strings of a page in `left`, and how many links have text; or UNSURE."""
    spans, images, num_images = places.spans, places.images, places.counts[0]
    ordinals, out = left.ordinals, left.strings
    n = _copy(data, spans[TARGET, 0], spans[TARGET, 1], out, n)
    n = _copy(data, spans[BASE, 0], spans[BASE, 1], out, n)
    num_with_text = 0
    for k in range(num_images):
        if _has_text(images, k, texts):
            n = _copy_link(data, images, k, texts, out, n, starts)
            ordinals[num_links + num_with_text] = k
            num_with_text += 1
    num_links += num_with_text
    for k in range(num_images):
        if not _has_text(images, k, texts):
            n = _copy(data, images[k, 0, 0], images[k, 0, 1], out, n)
            ordinals[num_links] = k
            num_links += 1
    return n, num_with_text


# --- links that are sure ----------------------------------------------------------------------


@part
def _put_text(strings, starts, data, n):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """(int64, int64): `n` behind the text of a link in `data`, and the number of its source; or UNSURE. `strings` has
    the texts from starts[1], in the order of their sources."""
    num_texts = starts.shape[0] - 2
    for source in range(num_texts):
        start, end = starts[1 + source], starts[2 + source] - 1
        if end > start:
            stop = unescape(data, n, copy_bytes(strings, start, end, data, n))
            # One of only white space might have to give way to another text.
            if num_texts == 1 or _is_visible(data, n, stop):
                return stop, source
            return UNSURE, UNSURE
    return UNSURE, UNSURE


@part
def _is_visible(data, start, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    for k in range(start, end):  # noqa: SIM110  # compiled code has no any()
        if _VISIBLE_FROM <= data[k] <= _VISIBLE_TO:
            return True
    return False


@part
def _add_link(  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    strings, starts, base, base_end, parts, rules, columns
):
    """bool: whether the link was added to `columns`, whose strings are at `starts`, as `_copy_link` wrote them."""
    link = columns.used[LINKS]
    url_start, text_start, id_start = columns.url.ends[link], columns.text.ends[link], columns.identity.ends[link]
    url, text, identity = columns.url.data, columns.text.data, columns.identity.data
    text_end, source = _put_text(strings, starts, text, text_start)
    end = starts[-1]  # what is behind it is free
    raw_end = unescape(strings, end, copy_bytes(strings, starts[0], starts[1] - 1, strings, end))
    if text_end < 0 or raw_end < 0:
        return False
    most = 3 * (raw_end - end) + base_end - base + 1
    if url_start + most > url.shape[0]:
        return False
    url_end, is_canonical = join(strings, end, raw_end, base, parts, url, url_start)
    if url_end < 0 or url_end - url_start > rules.max_url_chars:
        return False
    most_id = 3 * (url_end - url_start) + rules.label_ends[-1] + text_end - text_start
    if id_start + most_id > identity.shape[0]:
        return False
    if is_canonical:
        n = copy_bytes(url, url_start, url_end, identity, id_start)
    else:
        n = canonical(url, url_start, url_end, identity, id_start)
    columns.canonical_end[link] = n
    n = copy_bytes(rules.labels, rules.label_ends[source], rules.label_ends[source + 1], identity, n)
    columns.identity.ends[link + 1] = copy_bytes(text, text_start, text_end, identity, n)
    columns.url.ends[link + 1] = url_end
    columns.text.ends[link + 1] = text_end
    columns.link_source[link] = source
    columns.used[LINKS] += 1
    return True


@part
def _page_url(strings, start, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """(int64, int64): strings[start:end] without white space and angle brackets around it."""
    while start < end and _is_around(strings[start]):
        start += 1
    while end > start and _is_around(strings[end - 1]):
        end -= 1
    return start, end


@part
def _is_around(character):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    for k in range(_AROUND_PAGE_URL.shape[0]):  # noqa: SIM110  # compiled code has no any()
        if character == _AROUND_PAGE_URL[k]:
            return True
    return False


@part
def _may_have_user_info(text, start, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """bool: whether `without_user_info` might take something from the URL text[start:end]."""
    num_slashes = 0
    in_host = False
    for at in range(start, end):
        c = text[at]
        if c in (_SLASH, _BACKSLASH):
            if in_host:
                return False
            num_slashes += 1
        elif c in (_QUESTION, _HASH):
            return False
        elif num_slashes >= 2:
            if c == _AT:
                return True
            in_host = True
    return False


@part
def _add_page(  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    data, places, rules, columns, left, n, num_links, starts
):
    """(int64, int64): `n` behind the strings in `left` of the page and its links that are not sure, and the number of
    these; `n` is UNSURE where the record is. The other links are added to `columns`."""
    spans, images, num_images = places.spans, places.images, places.counts[0]
    ordinals, out = left.ordinals, left.strings
    page, links, textless = columns.used[PAGES], columns.used[LINKS], columns.used[TEXTLESS]
    first = n
    n = _copy(data, spans[TARGET, 0], spans[TARGET, 1], out, n)
    n = _copy(data, spans[BASE, 0], spans[BASE, 1], out, n)
    num_unsure = 0
    if n >= 0:
        base, base_end = _page_url(out, first, n - 2)
        if base == base_end or _may_have_user_info(out, base, base_end):
            return UNSURE, 0
        parts = base_parts(out, base, base_end)
        columns.page_url.ends[page + 1] = copy_bytes(
            out, base, base_end, columns.page_url.data, columns.page_url.ends[page]
        )
        columns.used[PAGES] += 1
    for k in range(num_images):
        if n < 0:
            break
        if _has_text(images, k, rules.texts):
            end = _copy_link(data, images, k, rules.texts, out, n, starts)
            if end >= 0 and _add_link(out, starts, base, base_end, parts, rules, columns):
                link = columns.used[LINKS] - 1
                columns.link_page[link] = page
                columns.link_ordinal[link] = k
                continue
            ordinals[num_links + num_unsure] = k
            num_unsure += 1
            n = end
        else:
            at = columns.used[TEXTLESS]
            end = columns.textless_url.ends[at]
            if images[k, 0, 0] >= 0:
                end = copy_string(data, images[k, 0, 0], images[k, 0, 1], columns.textless_url.data, end)
            if end < 0:
                n = UNSURE
            columns.textless_url.ends[at + 1] = end
            columns.textless_page[at] = page
            columns.textless_ordinal[at] = k
            columns.used[TEXTLESS] += 1
    if n < 0:  # as if it had not been
        columns.used[PAGES], columns.used[LINKS], columns.used[TEXTLESS] = page, links, textless
    return n, num_unsure


# --- the pass ---------------------------------------------------------------------------------


@part
def _flags(data, spans, links_license, rules):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: why Python has to judge the page."""
    flags = 0
    forbids = names = False
    if rules.words.shape[0]:
        for member in (HEADERS, METAS):
            names |= names_robots(data, spans[member, 0], spans[member, 1])
    for k in range(0 if names else 1, rules.words.shape[0]):
        word = Word(rules.words[k], rules.word_lengths[k], _FIRST)
        for member in (HEADERS, METAS):
            forbids |= holds_word(data, spans[member, 0], spans[member, 1], word)
    if forbids:
        flags |= _MAY_FORBID
    if links_license or names_license(data, spans[HEAD_LINKS, 0], spans[HEAD_LINKS, 1]):
        flags |= _MAY_LICENSE
    if spans[BASE, 1] > spans[BASE, 0]:
        flags |= _HAS_BASE
    length = spans[TARGET, 1] - spans[TARGET, 0]
    if length == 0 or length > rules.max_url_chars:
        flags |= _HAS_ODD_URL
    return flags


@kernel
def _scan(  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    records, first, max_links, rules, columns, images, left
):
    data, starts, ends, offsets = records
    spans = np.empty((NUM_MEMBERS, 2), np.int64)
    counts = np.empty(2, np.int64)
    places = Places(spans, images, counts, np.empty((5, 2), np.int64))
    strings = np.empty(rules.texts.shape[0] + 2, np.int64)
    num_pages = num_links = n = found = num_read = num_not_pages = _FIRST  # Python's 0 would compile functions anew
    record = first
    while record < starts.shape[0] and found < max_links:
        this = record
        record += 1
        if has_no_pictures(data, starts[this], ends[this]):
            is_page = names_html(data, starts[this], ends[this])
            num_read += is_page
            num_not_pages += not is_page
            continue
        i = find_page(data, starts[this], places)
        num_images = counts[0]
        flags = num_with_text = np.int64(0)
        end = np.int64(UNSURE)
        if 0 <= i <= ends[this] <= skip_white(data, i):
            if num_images == 0:
                is_page = names_html(data, starts[this], ends[this])
                num_read += is_page
                num_not_pages += not is_page
                continue
            found += num_images
            flags = _flags(data, spans, counts[1], rules)
            if flags:
                end, num_with_text = _copy_page(data, places, rules.texts, left, n, num_links, strings)
            else:
                columns.page_record[columns.used[PAGES]] = offsets[this]
                end, num_with_text = _add_page(data, places, rules, columns, left, n, num_links, strings)
                if end >= 0 and num_with_text == 0:
                    num_read += 1
                    continue
                num_images = num_with_text  # the rest is done
        row = left.rows[num_pages]
        num_pages += 1
        row[0] = this
        row[1] = num_with_text if end >= 0 else UNSURE
        row[2] = num_images - num_with_text
        row[3] = flags
        for k in range(4):  # from HEADERS to LINKS
            row[_FIRST_SPAN + 2 * k] = max(spans[HEADERS + k, 0], 0)
            row[_FIRST_SPAN + 2 * k + 1] = max(spans[HEADERS + k, 1], 0)
        if end >= 0:
            num_links += num_images
            n = end
    return record, num_pages, num_links, n, num_read, num_not_pages

"""The compiled reader of WAT records, held to full JSON parsers."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.stages.extract.blocks import joined
from pipeline.stages.extract.page import Page
from pipeline.stages.extract.wat_json import BadPageError, parse_page, parse_tolerantly
from pipeline.stages.extract.wat_scan import scan_pages
from tests.pipeline.archives import wat_block

_SOURCES = [("alt",), ("title",), ("alt", "title"), ("figcaption",)]


def _scan(blocks: list[bytes], sources: tuple[str, ...] = ("alt",)) -> dict[int, Page | None]:
    return dict(scan_pages(joined(list(range(len(blocks))), blocks), sources))


def _texts(page: Page) -> dict[str, Any]:
    fields = page._asdict()
    return {name: fields[name] for name in fields if name not in ("directives", "licenses", "has_escapes")}


def _named_links(raw: bytes) -> list[tuple[str, str]]:
    return [(link.get("rel", ""), link.get("url", "")) for link in parse_tolerantly(raw) or () if "rel" in link]


def _assert_agrees(block: bytes, scanned: dict[int, Page | None], i: int, sources: tuple[str, ...]) -> bool:
    """Holds the reading of one record to the parsers'; returns whether it was read."""
    if i in scanned and scanned[i] is None:
        return False
    if b"IMG@/src" not in block:
        assert i not in scanned
        return True
    parsed = parse_page(block, sources)  # raises where the JSON is bad: then nothing should have been read
    page = scanned.get(i)
    if page is None:
        assert parsed is None
        return True
    assert parsed is not None
    assert parsed.directives is not None
    assert parsed.licenses is not None
    assert _texts(page) == _texts(parsed)
    if page.directives is not None:
        assert list(map(parse_tolerantly, page.directives)) == list(map(parse_tolerantly, parsed.directives))
    else:
        assert b"robots" not in b"".join(parsed.directives).lower()
    if page.licenses is not None:
        assert list(map(_named_links, page.licenses)) == list(map(_named_links, parsed.licenses))
    else:
        assert re.search(rb'"rel":\s*"[^"]*license', b"".join(parsed.licenses), re.IGNORECASE) is None
    if not page.has_escapes:
        texts = [page.base, *page.urls, *(page.alts or ()), *(page.titles or ())]
        assert not any("&" in text or "\r" in text for text in texts)
    return True


_LINKS: list[dict[str, Any]] = [
    {"url": "/1", "alt": "a"},
    {"url": "/2"},
    {"url": "/3", "alt": "", "title": "t"},
    {"path": "A@/href", "url": "/4", "text": "IMG@/src", "rel": "nofollow License"},
    {"path": "IMG@/srcset", "url": "/5", "alt": "no"},
    {"url": "/6", "alt": 'quote " back \\ slash / line \n tab \t é 狗 🐕 &amp;', "title": "x" * 300},
    {"url": "/7", "alt": "b", "more": {"alt": "c", "list": [1, -2, True, False, None, [], {}, [{"url": "x"}]]}},
    {"alt": "no url"},
    {},
]


@pytest.mark.parametrize("sources", _SOURCES)
@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\r\n", "\t: ")])
def test_usual_records_are_read_as_a_parser_reads_them(
    sources: tuple[str, ...], ascii_only: bool, separators: tuple[str, str]
) -> None:
    head = {"Base": "/b/", "Metas": [{"name": "ROBOTS", "content": "noai"}], "Link": [{"rel": "LICENSE", "url": "/l"}]}
    for keywords in ({}, {"head": head}, {"headers": {"X-Robots-Tag": "x"}}, {"url": "http://狗.example/"}):
        value = json.loads(wat_block(_LINKS, **keywords))
        block = json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode()
        assert _assert_agrees(block, _scan([block], sources), 0, sources)


@pytest.mark.parametrize(
    "links",
    [
        '[{"path":"IMG@/src","url":"/1","alt":"a","alt":"b"}]',
        '[{"path":"IMG@/src","url":5,"alt":"a"}]',
        '[{"path":"IMG@/src","url":"/1","alt":null}]',
        '[{"p\\u0061th":"IMG@/src","url":"/1","alt":"a"}]',
        '[{"path":"IMG@/src","url":"/1","alt":"\\ud83d"}]',
        '[{"path":"IMG@/src","url":"/1","alt":"\\udc15\\ud83d"}]',
        '[{"path":"IMG@/src","url":"/1","alt":"\\u0000"}]',
        '[{"path":"IMG@/src","url":"/1","alt":"\\x"}]',
        '[{"path":"IMG@/src","url":"/1","alt":"\\u12g4"}]',
        '[{"path":"IMG@/src","url":"/1","alt":"a"},]',
        '[{"path":"IMG@/src","url":"/1","alt":"a",}]',
        '[{"path":"IMG@/src","url":"/1" "alt":"a"}]',
        '[{"path":"IMG@/src","url":"/1","alt":"a"}}',
        '[{"path":"IMG@/src","url":"/1","alt":"a"},3]',
        '[{"path":"IMG@/src","url":"/1","alt":"line\nbreak"}]',
        '[{"path":"IMG@/src","url":"/1","alt":"a","n":01}]',
        '[{"path":"IMG@/src","url":"/1","alt":"a","n":nul}]',
        '{"path":"IMG@/src","url":"/1","alt":"a"}',
        '[{"path":"IMG@/src","url":"/1","alt":"a"}],"Links":[]',
    ],
)
def test_what_is_not_plainly_usual_is_left_to_the_parsers(links: str) -> None:
    good = wat_block([{"url": "/1", "alt": "a"}])
    assert good.count(b'"Links": [{') == 1
    bad = good[: good.index(b'"Links"')] + f'"Links":{links}'.encode() + b"}}}}}"
    scanned = _scan([good, bad, good])
    assert scanned[1] is None
    assert scanned[0] == scanned[2]
    assert scanned[0] is not None


@pytest.mark.parametrize(
    "block",
    [
        b"", b" ", b"{", b'["IMG@/src"]', b'"IMG@/src"', b'{"IMG@/src":{}', b'{"IMG@/src":"', b'{"IMG@/src":1}x',
        b'{"IMG@/src":1}{}', b'{"IMG@/src":1.5}', b'{"a":{} \x0b',
    ],
)  # fmt: skip
def test_block_never_runs_on_into_the_next(block: bytes) -> None:
    good = wat_block([{"url": "/1", "alt": "a"}])
    scanned = _scan([block, good, block, good[1:]])
    assert scanned[0] is None
    assert scanned[1] is not None
    assert scanned[2] is None
    assert scanned[3] is None


def test_bytes_that_are_not_utf8_leave_the_batch_to_the_parsers() -> None:
    good = wat_block([{"url": "/1", "alt": "a"}])
    bad = wat_block([{"url": "/1", "alt": "BYTE"}]).replace(b"BYTE", b"\xff")
    assert _scan([good, b'{"a":1}', bad]) == {0: None, 2: None}


_FRAGMENTS = [
    b'"', b"\\", b"\\u2019", b"\\ud83d\\ude00", b"\\ud83d", b"{", b"}", b"[", b"]", b",", b":", b"null", b"-1", b"1.5",
    b"\xff", b"\x01", b"\n", b" ", b"&amp;", b'"alt":"",', b'"title":"t",', b'"rel":"x LICENSE",', b'"Links":[',
    b'"Base":"/x/",', b'{"name":"robots","content":"noai"},', b'"path":"IMG@/src",', b'"url":5,', b"{},",
    b'{"path":"IMG@/src","url":"/a b","alt":"q &quot;"},', b'"Envelope":{},', b'"HTML-Metadata":{},',
]  # fmt: skip
_HOOKS = re.compile(rb'"Links": ?\[|"Metas": ?\[|"Head(?:ers)?": ?\{|"path":')


def _mutated(draw: random.Random, block: bytes) -> bytes:
    for _ in range(draw.choice((0, 1, 1, 2))):
        places = [match.end() for match in _HOOKS.finditer(block)]
        at = draw.choice(places) if places and draw.random() < 0.5 else draw.randrange(len(block) + 1)
        cut = draw.choice((0, 0, 0, 1, 7, 100))
        block = block[:at] + (draw.choice(_FRAGMENTS) if draw.random() < 0.8 else b"") + block[at + cut :]
    return block


def _hold_mutations_to_parsers(blocks: list[bytes], count: int) -> None:
    draw = random.Random(0)
    num_read = num_left = 0
    for _ in range(count):
        block, sources = _mutated(draw, draw.choice(blocks)), draw.choice(_SOURCES)
        try:
            was_read = _assert_agrees(block, _scan([block], sources), 0, sources)
        except BadPageError as error:
            raise AssertionError(block) from error
        num_read += was_read
        num_left += not was_read
    assert num_read > count // 5  # else nothing was tested
    assert num_left > count // 20


def test_reading_of_mutated_records_agrees_with_the_parsers() -> None:
    head = {"Base": "/b/", "Metas": [{"name": "robots", "content": "noindex"}], "Link": [{"rel": "x", "url": "/l"}]}
    values = [json.loads(wat_block(_LINKS, head=head)), json.loads(wat_block(_LINKS[:3]))]
    _hold_mutations_to_parsers([json.dumps(value, separators=(",", ":")).encode() for value in values], 3000)


def test_reading_of_real_records_agrees_with_the_parsers(shared_data: Path) -> None:
    blocks = []
    for name in ("cc-main-2020-34-sample", "fizyka.localhost", "whirlwind"):
        with gzip.open(shared_data / "webarchive" / "wat" / f"{name}.warc.wat.gz") as file:
            blocks += re.findall(rb"^\{.*\}(?=\r?$)", file.read(), re.MULTILINE)
    assert len(blocks) > 500
    for sources in _SOURCES:
        scanned = _scan(blocks, sources)
        assert all(_assert_agrees(block, scanned, i, sources) for i, block in enumerate(blocks))
    pictures = [block for block in blocks if b"IMG@/src" in block and len(block) < 20_000]
    _hold_mutations_to_parsers(pictures, 1000)

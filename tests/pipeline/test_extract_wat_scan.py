"""The compiled reader of WAT records, held to full JSON parsers and to what Python makes of their pages."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.consent.signals import PageSignals
from pipeline.stages.extract import ExtractConfig, wat
from pipeline.stages.extract.batch import LinkBatch
from pipeline.stages.extract.blocks import joined
from pipeline.stages.extract.config import TextSource
from pipeline.stages.extract.wat_scan import Scanner
from tests.pipeline.archives import wat_block

_SOURCES: list[tuple[TextSource, ...]] = [("alt",), ("title",), ("alt", "title"), ("title", "alt"), ("figcaption",)]
_SIGNALS = PageSignals(directives=("noai", "noimageindex"))


def _scanner(sources: tuple[TextSource, ...] = ("alt",)) -> Scanner:
    words = wat._Rules(_SIGNALS).words
    return Scanner(sources, words, ExtractConfig().max_url_chars)


def _left(blocks: list[bytes], sources: tuple[TextSource, ...] = ("alt",)) -> list[int]:
    """Numbers of the records that the pass leaves to a parser."""
    scanner = _scanner(sources)
    scanner.columns.make_room(sum(map(len, blocks)))
    scan = scanner.scan(joined(list(range(len(blocks))), blocks), 0, 1 << 30)
    return [number for number, page in scan.pages if page is None]


def _rows(blocks: list[bytes], scanner: Scanner | None, sources: tuple[TextSource, ...]) -> Any:
    """Kept and rejected rows, and the number of links."""
    config = ExtractConfig(text_sources=sources)
    batch = LinkBatch("a", config, scanner.columns if scanner is not None else None, one_by_one=True)
    numbered = joined(list(range(len(blocks))), blocks)
    outcomes = [*wat._read_blocks(batch, numbered, scanner, config, wat._Rules(_SIGNALS)), batch.take()]
    for outcome in outcomes:
        outcome.kept.validate(full=True)
        outcome.rejected.validate(full=True)
    return (
        [row for outcome in outcomes for row in outcome.kept.to_pylist()],
        [row for outcome in outcomes for row in outcome.rejected.to_pylist()],
        [sum(outcome.num_in for outcome in outcomes), sum(outcome.num_records for outcome in outcomes)],
        sum(outcome.num_read or 0 for outcome in outcomes),
        sum((Counter(outcome.passed_over) for outcome in outcomes), Counter()),
    )


def _assert_agrees(blocks: list[bytes], sources: tuple[TextSource, ...]) -> None:
    assert _rows(blocks, _scanner(sources), sources) == _rows(blocks, None, sources)


_LINKS: list[dict[str, Any]] = [
    {"url": "/1", "alt": "a"},
    {"url": "/2"},
    {"url": "/3", "alt": "", "title": "t"},
    {"path": "A@/href", "url": "/4", "text": "IMG@/src", "rel": "nofollow License"},
    {"path": "IMG@/srcset", "url": "/5", "alt": "no"},
    {"url": "/6", "alt": 'quote " back \\ slash / line \n tab \t é 狗 🐕 &amp;', "title": "x" * 300},
    {"url": "/signed/a%2Db.jpg?s=%7e", "alt": "s"},
    {"url": "http://U:P@Ex.org:80/%7e/ü |.jpg#f", "alt": "u"},
    {"url": "HTTP://☃.net/x/../y", "alt": "idn"},
    {"url": "http://xn--a/", "alt": "no host"},
    {"url": "#", "alt": "the page"},
    {"url": "//:0", "alt": "nothing"},
    {"url": "//cdn.Ex.org/%2e/y.jpg?'q'", "alt": "dots"},
    {"url": "/7", "alt": "b", "more": {"alt": "c", "list": [1, -2, True, False, None, [], {}, [{"url": "x"}]]}},
    {"alt": "no url"},
    {},
]


@pytest.mark.parametrize("sources", _SOURCES)
@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\r\n", "\t: ")])
def test_usual_records_are_read_as_a_parser_reads_them(
    sources: tuple[TextSource, ...], ascii_only: bool, separators: tuple[str, str]
) -> None:
    head = {"Base": "/b/", "Metas": [{"name": "ROBOTS", "content": "noai"}], "Link": [{"rel": "LICENSE", "url": "/l"}]}
    for keywords in ({}, {"head": head}, {"headers": {"X-Robots-Tag": "x"}}, {"url": "http://狗.example/"}):
        value = json.loads(wat_block(_LINKS, **keywords))
        block = json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode()
        _assert_agrees([block], sources)
        assert _left([block], sources) == []


_METAS = [
    {"name": "description", "content": "noai explained"},
    {"name": "keywords", "content": "noai, noimageindex"},
    {"name": "og:title", "content": "noai"},
    {"name": "CCBot", "content": "index, noai"},
    {"name": "GPTBot", "content": "noindex noai"},
    {"name": "somebot", "content": "max-snippet:-1, NoImageIndex"},
    {"name": "tdm-reservation", "content": "1"},
    {"name": "tdm-reservation", "content": "0"},
    {"name": "robots", "content": "no&#97;i"},
]
_PAGES: list[dict[str, Any]] = [
    {},
    *({"head": {"Metas": [meta]}} for meta in _METAS),
    *({"head": {"Base": base}} for base in ("javascript:", "data:,x", "http://", "http://[bad", "", "mailto:x", "//b")),
    {"headers": {"TDM-Reservation": "0, 1"}},
    {"headers": {"tdm-reservation": "0"}},
    {"headers": {"X-Robots-Tag": "gptbot: noai"}},
    {"url": "http://u:p@ex.org/@/"},
    {"url": "http:////u:p@ex.org/@/"},
    {"url": "https://medium.com/@user/%7e/x"},
    {"url": "http://Ex.org/%2e%2e/a/x"},
    {"url": "ftp://u:p@ex.org/"},
]


@pytest.mark.parametrize("page", _PAGES, ids=str)
def test_page_of_any_kind_is_read_as_a_parser_reads_it(page: dict[str, Any]) -> None:
    _assert_agrees([wat_block(links, **page) for links in (_LINKS, _LINKS[:2], _LINKS[-9:])], ("alt",))
    kept, *_ = _rows([wat_block(_LINKS, **page)], _scanner(), ("alt",))
    assert "u:p@" not in str([(row["url"], row["page_url"]) for row in kept]).lower()


def test_user_info_of_a_rejected_link_is_not_kept() -> None:
    textless: list[dict[str, Any]] = [{"url": f"{start}//u:p@ex.org/a@b.jpg"} for start in ("http:", "", "ftp:")]
    texts = [
        {**link, "alt": "t"} for link in [textless[2], {"url": "http://u:p@[ex/"}, {"url": f"{'//u:p@e/':x<20000}"}]
    ]
    blocks = [wat_block(links) for links in (textless, texts, textless[:1])]
    _assert_agrees(blocks, ("alt",))
    _, rejected, *_ = _rows(blocks, _scanner(), ("alt",))
    assert [row["detail"][:25] for row in rejected] == [
        *("http://ex.org/a@b.jpg", "//ex.org/a@b.jpg", "ftp://ex.org/a@b.jpg"),
        *("ftp://ex.org/a@b.jpg", "http://[ex/", "20001 characters: //e/xxx"),
        "http://ex.org/a@b.jpg",
    ]


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
    assert _left([good, bad, good]) == [1]
    _assert_agrees([good, bad, good], ("alt",))


@pytest.mark.parametrize(
    "block",
    [
        b"", b" ", b"{", b'["IMG@/src"]', b'"IMG@/src"', b'{"IMG@/src":{}', b'{"IMG@/src":"', b'{"IMG@/src":1}x',
        b'{"IMG@/src":1}{}', b'{"IMG@/src":1.5}', b'{"a":{} \x0b',
    ],
)  # fmt: skip
def test_block_never_runs_on_into_the_next(block: bytes) -> None:
    good = wat_block([{"url": "/1", "alt": "a"}])
    assert _left([block, good, block, good[1:]]) == [0, 2, 3]
    _assert_agrees([block, good, block, good[1:]], ("alt",))


@pytest.mark.parametrize("name", ["url", "alt"])
@pytest.mark.parametrize(
    "raw", [b"\xff", b"\xc3", b"\xa9", b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"]
)
def test_record_with_bytes_that_are_not_utf8_is_left_to_the_parsers(raw: bytes, name: str) -> None:
    written = wat_block([{"url": "/1", "alt": "\u00e9\u20ac\ud7ff\ue000\U00010000\U0010ffff"}])
    good = json.dumps(json.loads(written), ensure_ascii=False).encode()
    bad = wat_block([{"url": "/1", "alt": "a", name: "BYTE"}]).replace(b"BYTE", raw)
    assert _left([good, bad, good]) == [1]
    _assert_agrees([good, bad, good], ("alt",))


def test_links_that_are_sure_stand_in_columns_and_only_the_others_in_pages() -> None:
    links = [
        {"url": "/1", "alt": "a"},
        {"url": "http://狗.example/2", "alt": "b"},
        {"url": "/3"},
        {"url": "4", "alt": "c"},
    ]
    scanner = _scanner()
    scanner.columns.make_room(10_000)
    record, pages, *_ = scanner.scan(joined([0], [wat_block(links)]), 0, 100)
    assert record == 1
    assert [page.ordinals for _, page in pages if page is not None] == [[1]]
    assert len(scanner.columns) == 3
    assert scanner.columns.candidates("a")["link"].to_pylist() == [0, 3]
    assert scanner.columns.textless("a", 200)["link"].to_pylist() == [2]


def test_scan_stops_where_enough_links_are_found_and_goes_on_from_there() -> None:
    blocks = joined([0, 1, 2], [wat_block([{"url": f"/{i}", "alt": "a"}] * 3) for i in range(3)])
    scanner = _scanner()
    scanner.columns.make_room(10_000)
    assert [scanner.scan(blocks, first, 1)[0] for first in range(3)] == [1, 2, 3]
    assert len(scanner.columns) == 9


def test_url_too_long_for_its_column_is_left_to_python() -> None:
    block = wat_block([{"url": f"/{i}", "alt": "a"} for i in range(300)], url="http://a.example/" + "x" * 8000)
    scanner = _scanner()
    scanner.columns.make_room(len(block))
    pages = scanner.scan(joined([0], [block]), 0, 1000).pages
    assert len(scanner.columns) + sum(len(page.ordinals) for _, page in pages if page is not None) == 300
    _assert_agrees([block], ("alt",))


_FRAGMENTS = [
    b'"', b"\\", b"\\u2019", b"\\ud83d\\ude00", b"\\ud83d", b"{", b"}", b"[", b"]", b",", b":", b"null", b"-1", b"1.5",
    b"\xff", b"\x01", b"\n", b" ", b"&amp;", b'"alt":"",', b'"title":"t",', b'"rel":"x LICENSE",', b'"Links":[',
    b'"Base":"/x/",', b'"Base":"data:",', b'{"name":"gptbot","content":"noai"},', b"u:p@", b"#", b"%2e", b"?",
    b'{"name":"robots","content":"noai"},', b'"path":"IMG@/src",', b'"url":5,', b"{},",
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
    num_left = 0
    for _ in range(count // 10):
        mutated, sources = [_mutated(draw, draw.choice(blocks)) for _ in range(10)], draw.choice(_SOURCES)
        _assert_agrees(mutated, sources)
        num_left += len(_left(mutated, sources))
    assert count // 20 < num_left < count * 4 // 5  # else nothing was tested


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
        _assert_agrees(blocks, sources)
        assert _left(blocks, sources) == []
    pictures = [block for block in blocks if b"IMG@/src" in block and len(block) < 20_000]
    _hold_mutations_to_parsers(pictures, 1000)

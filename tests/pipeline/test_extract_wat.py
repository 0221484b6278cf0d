"""Extraction from WAT files."""

from __future__ import annotations

import collections
import gzip
import json
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.consent.signals import PageSignals
from pipeline.errors import InputError
from pipeline.pages import is_reason
from pipeline.records.identity import canonical_url, uid_of, url_id_of
from pipeline.records.outcome import Outcome
from pipeline.records.schema import CANDIDATES, REJECTIONS
from pipeline.stages.extract import STANDARD, ExtractConfig, extract, wat
from tests.pipeline.archives import members, warc_record, wat_block


def _extract(path: Path, config: ExtractConfig | None = None, **keywords: Any) -> list[Outcome]:
    outcomes = list(extract(str(path), config or ExtractConfig(), **keywords))
    for outcome in outcomes:
        outcome.kept.validate(full=True)
        assert outcome.kept.schema == CANDIDATES
        assert outcome.rejected.schema == REJECTIONS
        link_rejections = sum(link is not None for link in outcome.rejected["link"].to_pylist())
        assert outcome.num_in == outcome.kept.num_rows + link_rejections
        assert outcome.num_read is not None
        ends = outcome.num_read + sum(outcome.passed_over.values()) + outcome.rejected["link"].null_count
        assert outcome.num_records == ends
        assert all(is_reason("extract", reason) for reason in outcome.rejected["reason"].to_pylist())
    return outcomes


@pytest.fixture(autouse=True, params=["compiled", "plain"])
def _both_readers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here twice: as a large file is read, and as a small one."""
    monkeypatch.setattr(wat, "_COMPILED_FROM_BYTES", 0 if request.param == "compiled" else 1 << 40)


def _kept(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    return [row for outcome in outcomes for row in outcome.kept.to_pylist()]


def _rejected(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    return [row for outcome in outcomes for row in outcome.rejected.to_pylist()]


def _write(path: Path, *blocks: bytes) -> Path:
    path.write_bytes(b"".join(members([warc_record(block) for block in blocks])))
    return path


def _one_page(
    tmp_path: Path,
    *links: dict[str, Any],
    config: ExtractConfig | None = None,
    signals: PageSignals = STANDARD,
    **keywords: Any,
) -> Any:
    path = _write(tmp_path / "a.warc.wat.gz", wat_block(links, **keywords))
    outcomes = _extract(path, config, signals=signals)
    return _kept(outcomes), _rejected(outcomes)


def test_link_becomes_candidate_with_identities_and_place(tmp_path: Path) -> None:
    first = warc_record(wat_block([]))
    second = warc_record(
        wat_block(
            [{"path": "A@/href", "url": "/x"}, {"url": "/i"}, {"url": "/p.jpg", "alt": "A &quot;dog&quot;\r\nruns"}]
        )
    )
    packed = members([first, second])
    path = tmp_path / "a.warc.wat.gz"
    path.write_bytes(b"".join(packed))
    outcomes = _extract(path)
    assert sum(outcome.num_records for outcome in outcomes) == 2
    (row,) = _kept(outcomes)
    canonical = canonical_url("http://example.com/p.jpg")
    assert row == {
        "uid": uid_of(canonical, "alt", 'A "dog"\nruns'),
        "url_id": url_id_of(canonical),
        "url": "http://example.com/p.jpg",
        "alt_text": 'A "dog"\nruns',
        "text_source": "alt",
        "page_url": "http://example.com/",
        "license": None,
        "extra": None,
        "source": str(path),
        "record": len(packed[0]),
        "link": 1,
    }
    (rejection,) = _rejected(outcomes)
    assert (rejection["record"], rejection["link"], rejection["reason"]) == (len(packed[0]), 0, "no_text")


@pytest.mark.parametrize(
    ("base", "url", "absolute"),
    [
        (None, "p.jpg", "http://example.com/a/p.jpg"),
        (None, "../p.jpg", "http://example.com/p.jpg"),
        (None, "//cdn.example.org/p.jpg", "http://cdn.example.org/p.jpg"),
        (None, "?i=1&amp;copy=2", "http://example.com/a/b.html?i=1&copy=2"),
        (None, "HTTPS://Example.org/P.jpg", "https://example.org/P.jpg"),
        (None, " /p\n.jpg ", "http://example.com/p.jpg"),
        (None, "img\\p.jpg", "http://example.com/a/img/p.jpg"),
        ("http://cdn.example.org/x/", "p.jpg", "http://cdn.example.org/x/p.jpg"),
        ("/x/?a&amp;b", "p.jpg", "http://example.com/x/p.jpg"),
    ],
)
def test_url_is_made_absolute_as_browsers_do(tmp_path: Path, base: str | None, url: str, absolute: str) -> None:
    head = {"Base": base} if base is not None else {}
    kept, _ = _one_page(tmp_path, {"url": url, "alt": "text"}, url="http://example.com/a/b.html", head=head)
    assert [row["url"] for row in kept] == [absolute]


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ({"url": "/p.jpg"}, "no_text"),
        ({"url": "/p.jpg", "alt": ""}, "no_text"),
        ({"url": "data:image/gif;base64,R0lGOD", "alt": "dog"}, "not_http"),
        ({"url": "blob:http://x/1", "alt": "dog"}, "not_http"),
        ({"url": "", "alt": "dog"}, "bad_url"),
        ({"url": "http://", "alt": "dog"}, "bad_url"),
        ({"url": "http://[::1", "alt": "dog"}, "bad_url"),
        ({"url": "http://h:99999/", "alt": "dog"}, "bad_url"),
        ({"url": "/" + "p" * 9000, "alt": "dog"}, "bad_url"),
    ],
)
def test_unusable_link_is_rejected_with_reason(tmp_path: Path, link: dict[str, str], reason: str) -> None:
    kept, rejected = _one_page(tmp_path, link)
    assert kept == []
    assert [(row["link"], row["reason"]) for row in rejected] == [(0, reason)]


def test_blank_alt_is_kept_for_the_next_stage_to_judge(tmp_path: Path) -> None:
    kept, _ = _one_page(tmp_path, {"url": "/p.jpg", "alt": " "})
    assert [row["alt_text"] for row in kept] == [" "]


def test_title_is_second_text_only_if_configured(tmp_path: Path) -> None:
    links = (
        {"url": "/1", "alt": " ", "title": "T"},
        {"url": "/2", "alt": "A", "title": "T"},
        {"url": "/3", "title": "T"},
    )
    kept, _ = _one_page(tmp_path, *links)
    assert [row["alt_text"] for row in kept] == [" ", "A"]
    kept, _ = _one_page(tmp_path, *links, config=ExtractConfig(text_sources=("alt", "title")))
    assert [(row["alt_text"], row["text_source"]) for row in kept] == [("T", "title"), ("A", "alt"), ("T", "title")]


@pytest.mark.parametrize(
    "page",
    [
        {"head": {"Metas": [{"name": "Robots", "content": "index, NoAI"}]}},
        {"head": {"Metas": [{"name": "robots", "content": "noimageai"}]}},
        {"headers": {"X-Robots-Tag": "noai"}},
        {"headers": {"x-robots-tag": ["noindex", "somebot: noimageai"]}},
    ],
)
def test_page_that_opts_out_loses_every_link(tmp_path: Path, page: dict[str, Any]) -> None:
    links = ({"url": "/1", "alt": "a"}, {"url": "/2"})
    kept, rejected = _one_page(tmp_path, *links, **page)
    assert kept == []
    assert [(row["link"], row["reason"]) for row in rejected] == [(0, "page_robots"), (1, "page_robots")]
    kept, _ = _one_page(tmp_path, *links, **page, signals=PageSignals(directives=()))
    assert len(kept) == 1


@pytest.mark.parametrize(
    "page",
    [
        {"head": {"Metas": [{"name": "robots", "content": "noindex, max-image-preview:large"}]}},
        {"head": {"Metas": [{"name": "description", "content": "noai robots"}]}},
        {"headers": {"X-Robots-Tag": "noarchive"}},
        {"head": {"Metas": "nonsense"}, "headers": {"X-Robots-Tag": {"a": 1}}},
    ],
)
def test_other_directives_do_not_opt_out(tmp_path: Path, page: dict[str, Any]) -> None:
    kept, _ = _one_page(tmp_path, {"url": "/1", "alt": "a"}, **page)
    assert len(kept) == 1


def test_licence_link_of_the_page_is_a_column(tmp_path: Path) -> None:
    in_head = {"Link": [{"path": "LINK@/href", "url": "/l?a&amp;b", "rel": "License"}]}
    kept, _ = _one_page(tmp_path, {"url": "/1", "alt": "a"}, head=in_head)
    assert kept[0]["license"] == "http://example.com/l?a&b"
    in_capitals = {"path": "A@/href", "url": "/c", "rel": "nofollow LICENSE"}
    kept, _ = _one_page(tmp_path, {"url": "/1", "alt": "a"}, in_capitals)
    assert kept[0]["license"] == "http://example.com/c"
    in_body = {
        "path": "A@/href",
        "url": "https://creativecommons.org/publicdomain/zero/1.0/",
        "rel": "nofollow license",
    }
    kept, _ = _one_page(tmp_path, {"url": "/1", "alt": "a"}, in_body)
    assert kept[0]["license"] == in_body["url"]


def test_directives_and_licences_are_read_past_bytes_that_are_no_characters(tmp_path: Path) -> None:
    link = {"url": "/1", "alt": "a"}
    robots = wat_block([link], head={"Metas": [{"name": "robots", "content": "BYTE noai"}]})
    license = wat_block([link], head={"Link": [{"rel": "HALF license", "url": "/l"}]})
    blocks = [block.replace(b"BYTE", b"\xff").replace(b"HALF", b"\\ud83d") for block in (robots, license)]
    outcomes = _extract(_write(tmp_path / "a.warc.wat.gz", *blocks))
    assert [row["reason"] for row in _rejected(outcomes)] == ["page_robots"]
    assert [row["license"] for row in _kept(outcomes)] == ["http://example.com/l"]


def test_rejections_of_a_page_keep_the_order_of_its_links(tmp_path: Path) -> None:
    links = ({"url": "/1"}, {"url": "data:x", "alt": "a"}, {"url": "/3"}, {"url": "/4", "alt": "a"}, {"alt": "a"})
    kept, rejected = _one_page(tmp_path, *links)
    assert [row["link"] for row in kept] == [3]
    assert [(row["link"], row["reason"]) for row in rejected] == [
        (0, "no_text"),
        (1, "not_http"),
        (2, "no_text"),
        (4, "bad_url"),
    ]


@pytest.mark.parametrize(
    "block",
    [
        b'{"Envelope": "IMG@/src" ',
        b"IMG@/src",
        b"[" * 100_000 + b'"IMG@/src"' + b"]" * 100_000,
        b'{"x":' * 100_000 + b'"IMG@/src"' + b"}" * 100_000,
        b'{"Envelope":' + b"[" * 100_000 + b'"IMG@/src"' + b"]" * 100_000 + b"}",
        b"",
    ],
)
def test_bad_json_is_one_rejected_record_and_the_rest_is_read(tmp_path: Path, block: bytes) -> None:
    good = wat_block([{"url": "/1", "alt": "a"}])
    outcomes = _extract(_write(tmp_path / "a.warc.wat.gz", good, block, good))
    assert len(_kept(outcomes)) == 2
    assert [(row["link"], row["reason"]) for row in _rejected(outcomes)] == [(None, "bad_record")]
    assert sum(outcome.num_records for outcome in outcomes) == 3


def test_odd_types_and_broken_characters_cost_only_themselves(tmp_path: Path) -> None:
    block = wat_block(
        [{"url": "/1", "alt": 5}, {"url": ["/2", "/2b"], "alt": "b"}, {"url": "/3", "alt": "SURROGATE BYTE"}]
    )
    block = (
        block.replace(b"SURROGATE", b"\\ud83d")
        .replace(b"BYTE", b"\xff")
        .replace(b'{"path": "IMG@/src"', b'3, {"path": "IMG@/src"', 1)
    )
    outcomes = _extract(_write(tmp_path / "a.warc.wat.gz", block))
    assert [row["alt_text"] for row in _kept(outcomes)] == ["b", "\ufffd \ufffd"]
    assert [row["reason"] for row in _rejected(outcomes)] == ["no_text"]


def test_oversized_record_is_passed_over(tmp_path: Path) -> None:
    good = wat_block([{"url": "/1", "alt": "a"}])
    big = wat_block([{"url": "/1", "alt": "a" * 5000}])
    outcomes = _extract(_write(tmp_path / "a.warc.wat.gz", good, big, good), ExtractConfig(max_record_bytes=4000))
    assert len(_kept(outcomes)) == 2
    assert [row["reason"] for row in _rejected(outcomes)] == ["oversized_record"]


# --- damage -----------------------------------------------------------------------------------

_GOOD = [
    warc_record(
        wat_block([{"url": f"/{i}", "alt": f"text {i} " + "".join(chr(97 + (j * j + i) % 26) for j in range(400))}])
    )
    for i in range(5)
]


def _urls(outcomes: list[Outcome]) -> list[str]:
    return [row["url"].rsplit("/", 1)[1] for row in _kept(outcomes)]


def _damaged(name: str) -> tuple[bytes, list[str], list[str]]:
    """Bytes, surviving links, reasons."""
    packed = members(_GOOD)
    if name == "flipped bytes in a member":
        bad = bytearray(packed[2])
        bad[40] ^= 0xFF
        bad[41] ^= 0xFF
        return b"".join([*packed[:2], bytes(bad), *packed[3:]]), ["0", "1", "3", "4"], ["bad_record"]
    if name == "flipped magic":
        return b"".join([*packed[:2], b"\0" + packed[2][1:], *packed[3:]]), ["0", "1", "3", "4"], ["bad_record"]
    if name == "two damaged members apart":
        return (
            b"".join([packed[0], b"\0" + packed[1][1:], packed[2], b"\0" + packed[3][1:], packed[4]]),
            ["0", "2", "4"],
            ["bad_record", "bad_record"],
        )
    if name == "garbage between members":
        return b"".join([*packed[:2], b"garbage" * 50, *packed[2:]]), ["0", "1", "2", "3", "4"], ["bad_record"]
    if name == "empty member":
        return b"".join([*packed[:2], gzip.compress(b""), *packed[2:]]), ["0", "1", "2", "3", "4"], []
    if name == "member without a record":
        return b"".join([*packed[:2], gzip.compress(b"hello"), *packed[2:]]), ["0", "1", "2", "3", "4"], ["bad_record"]
    if name == "cut in a body":
        return b"".join(packed)[: -len(packed[4]) // 2], ["0", "1", "2", "3"], ["truncated_file"]
    if name == "cut in a header":
        return b"".join(packed[:4]) + packed[4][:60], ["0", "1", "2", "3"], ["truncated_file"]
    if name == "cut after the magic":
        return b"".join(packed[:4]) + packed[4][:12], ["0", "1", "2", "3"], ["truncated_file"]
    if name == "length too large":
        lying = gzip.compress(_GOOD[2].replace(b"Content-Length: ", b"Content-Length: 9"), mtime=0)
        return b"".join([*packed[:2], lying, *packed[3:]]), ["0", "1", "3", "4"], ["bad_record"]
    if name == "length huge":
        lying = gzip.compress(_GOOD[2].replace(b"Content-Length: ", b"Content-Length: 999999999"), mtime=0)
        return b"".join([*packed[:2], lying, *packed[3:]]), ["0", "1", "3", "4"], ["oversized_record"]
    if name == "uncompressed, cut":
        return b"".join(_GOOD)[:-100], ["0", "1", "2", "3"], ["truncated_file"]
    assert name == "uncompressed, bad header"
    return b"".join([*_GOOD[:2], b"XARC" + _GOOD[2][4:], *_GOOD[3:]]), ["0", "1", "3", "4"], ["bad_record"]


@pytest.mark.parametrize(
    "name",
    [
        "flipped bytes in a member",
        "flipped magic",
        "two damaged members apart",
        "garbage between members",
        "empty member",
        "member without a record",
        "cut in a body",
        "cut in a header",
        "cut after the magic",
        "length too large",
        "length huge",
        "uncompressed, cut",
        "uncompressed, bad header",
    ],
)
def test_damage_costs_only_the_records_that_it_hit(tmp_path: Path, name: str) -> None:
    data, survivors, reasons = _damaged(name)
    path = tmp_path / "a.warc.wat"
    path.write_bytes(data)
    outcomes = _extract(path)
    assert _urls(outcomes) == survivors
    assert [row["reason"] for row in _rejected(outcomes)] == reasons


def _stored(record: bytes) -> bytes:
    return gzip.compress(record, compresslevel=0, mtime=0)


_MAGIC_INSIDE = warc_record(b"\x1f\x8b\x08\0\0\0\0\0 x " * 3 + gzip.compress(b"hello", mtime=0), kind="warcinfo")


@pytest.mark.parametrize(
    "data",
    [
        b"".join(members(_GOOD)),
        b"".join(gzip.compress(record, mtime=time) for time, record in enumerate(_GOOD)),
        b"".join(gzip.compress(record, mtime=7) for record in _GOOD),
        b"".join(map(_stored, [_MAGIC_INSIDE, *_GOOD[:2], _MAGIC_INSIDE, *_GOOD[2:], _MAGIC_INSIDE])),
        members([_GOOD[0]])[0] + gzip.compress(b"".join(_GOOD[1:3])) + b"".join(members(_GOOD[3:])),
        gzip.compress(b"".join(_GOOD)),
        b"".join(members([record.replace(b"WARC-Type: ", b"warc-type:") for record in _GOOD])),
        b"".join(members(_GOOD[:4])) + members(_GOOD)[4][:-8],
        b"".join(_GOOD),
    ],
    ids=[
        "usual", "times", "one time", "magic inside", "two in a member", "all in a member", "spelling", "no checksum",
        "not packed",
    ],
)  # fmt: skip
def test_records_are_the_same_however_they_are_packed(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.wat"
    path.write_bytes(data)
    outcomes = _extract(path)
    assert _urls(outcomes) == ["0", "1", "2", "3", "4"]
    assert _rejected(outcomes) == []


def _with_lf(record: bytes) -> bytes:
    head, block = record.split(b"\r\n\r\n", 1)
    return head.replace(b"\r\n", b"\n") + b"\n\n" + block.removesuffix(b"\r\n\r\n") + b"\n\n"


_LF = [_with_lf(record) for record in _GOOD]
_ONE_LF = [record.replace(b"json\r\n", b"json\n") for record in _GOOD]
_OTHER = warc_record(b"software: x\n", kind="warcinfo")


@pytest.mark.parametrize(
    "data",
    [
        b"".join(_LF),
        b"".join(members(_LF)),
        gzip.compress(b"".join(_LF)),
        b"".join(map(zstandard.compress, _LF)),
        b"".join(_ONE_LF),
        b"".join(members(_ONE_LF)),
        b"".join([*_GOOD[:2], *_LF[2:4], *_GOOD[4:]]),
        b"".join(members([*_GOOD[:2], *_LF[2:4], *_GOOD[4:]])),
        b"".join(members([_OTHER, *_LF, _with_lf(_OTHER)])),
        b"".join(members([_LF[0]])) + gzip.compress(b"") + b"".join(members(_LF[1:])) + gzip.compress(b"\n"),
        b"".join(_LF)[:-2],
        b"\n\n".join(_LF),
    ],
    ids=[
        "plain", "gzip", "one member", "zstd", "plain, one line", "gzip, one line", "plain, mixed", "gzip, mixed",
        "with others", "empty members", "no last line", "more empty lines",
    ],
)  # fmt: skip
def test_headers_of_records_may_end_in_lf(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.wat"
    path.write_bytes(data)
    outcomes = _extract(path)
    assert _urls(outcomes) == ["0", "1", "2", "3", "4"]
    assert _rejected(outcomes) == []
    assert sum(outcome.num_read or 0 for outcome in outcomes) == 5


_PACKED_LF = members(_LF)
_NO_RECORD = _LF[2].replace(b"WARC/1.0", b"XARC/1.0")
_LONG_HEAD = _LF[2].replace(b"WARC-Date", b"X: " + b"y" * 50_000 + b"\nWARC-Date")


@pytest.mark.parametrize(
    ("data", "survivors", "reasons"),
    [
        ([*_LF[:2], _NO_RECORD, *_LF[3:]], "0134", ["bad_record"]),
        ([*_PACKED_LF[:2], gzip.compress(_NO_RECORD), *_PACKED_LF[3:]], "0134", ["bad_record"]),
        ([*_LF[:2], b"garbage\n" * 9, *_LF[2:]], "01234", ["bad_record"]),
        ([*_PACKED_LF[:2], gzip.compress(b"hello\n"), *_PACKED_LF[2:]], "01234", ["bad_record"]),
        ([*_PACKED_LF[:2], b"\0" + _PACKED_LF[2][1:], *_PACKED_LF[3:]], "0134", ["bad_record"]),
        ([*_LF, b"garbage\n"], "01234", ["truncated_file"]),
        ([*_PACKED_LF, gzip.compress(b"hello\n")], "01234", ["truncated_file"]),
        ([*_LF[:4], _LF[4][:-100]], "0123", ["truncated_file"]),
        ([*_PACKED_LF[:4], _PACKED_LF[4][:-100]], "0123", ["truncated_file"]),
        ([*_LF[:4], _LF[4][:100]], "0123", ["truncated_file"]),
        ([*_LF[:2], _LONG_HEAD, *_LF[3:]], "0134", ["bad_record"]),
        ([*_PACKED_LF[:2], gzip.compress(_LONG_HEAD), *_PACKED_LF[3:]], "0134", ["bad_record"]),
        ([*_GOOD[:2], _LONG_HEAD, *_GOOD[3:]], "0134", ["bad_record"]),
        ([_LONG_HEAD, *_GOOD], "01234", ["bad_record"]),
        ([members(_GOOD)[0][:60] + b"\xff" * 20, *members(_GOOD)[1:]], "1234", ["bad_record"]),
        ([gzip.compress(b"hello"), *members(_GOOD)], "01234", ["bad_record"]),
        ([gzip.compress(_LONG_HEAD), *members(_GOOD)], "01234", ["bad_record"]),
        ([zstandard.compress(_LONG_HEAD), *map(zstandard.compress, _GOOD)], "01234", ["bad_record"]),
    ],
)
def test_damage_among_headers_that_end_in_lf_or_at_the_start_is_counted(
    tmp_path: Path, data: list[bytes], survivors: str, reasons: list[str]
) -> None:
    path = tmp_path / "a.wat"
    path.write_bytes(b"".join(data))
    outcomes = _extract(path)
    assert "".join(_urls(outcomes)) == survivors
    assert [row["reason"] for row in _rejected(outcomes)] == reasons


@pytest.mark.parametrize("window", [1, 100, 1000, 5000])
def test_places_of_records_do_not_depend_on_how_much_is_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    packed = members([*_GOOD, *_GOOD])
    path = tmp_path / "a.wat.gz"
    path.write_bytes(b"".join(packed))
    monkeypatch.setattr("pipeline.stages.extract.members._READ_BYTES", max(window, 10))
    places = [row["record"] for row in _kept(_extract(path))]
    assert places == [sum(map(len, packed[:i])) for i in range(len(packed))]


@pytest.mark.parametrize("text", ["a}", "{}", '"},{"path":"IMG@/src"', "}]}", "IMG@/src", "\\", '\\"}'])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_braces_and_paths_in_texts_do_not_mislead(tmp_path: Path, text: str, separators: tuple[str, str]) -> None:
    links: list[dict[str, Any]] = [
        {"path": "A@/href", "url": "/x", "text": text},
        {"url": "/1", "alt": text},
        {"path": "IMG@/srcset", "url": "/2", "alt": "no"},
        {"url": "/3", "alt": "b", "title": text},
        {"url": "/4", "more": {"alt": "c", "list": [{}, text]}},
    ]
    block = json.dumps(json.loads(wat_block(links)), separators=separators).encode()
    outcomes = _extract(_write(tmp_path / "a.wat.gz", block))
    assert [(row["url"][-1], row["alt_text"], row["link"]) for row in _kept(outcomes)] == [
        ("1", text, 0),
        ("3", "b", 1),
    ]
    assert [(row["link"], row["reason"]) for row in _rejected(outcomes)] == [(2, "no_text")]


def test_every_cut_of_a_file_keeps_the_records_before_it(tmp_path: Path) -> None:
    packed = members(_GOOD)
    data = b"".join(packed)
    ends = [sum(map(len, packed[: i + 1])) for i in range(5)]
    path = tmp_path / "a.wat.gz"
    for cut in range(ends[1], len(data), 7):
        path.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends)
        found = len(_urls(_extract(path)))
        # The last eight bytes are a checksum: a record is whole without them.
        assert whole <= found <= whole + 1, cut


@pytest.mark.parametrize("content", [b"", b"hello world", gzip.compress(b"hello world", mtime=0), b"\x1f\x8b\x08\x00"])
def test_file_of_another_kind_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.wat.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a WARC or WAT file"):
        _extract(path)


def test_missing_file_and_directory_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        _extract(tmp_path / "a.wat.gz")
    with pytest.raises(InputError, match="directory"):
        _extract(tmp_path, format="wat")
    with pytest.raises(InputError, match="does not tell the format"):
        _extract(tmp_path / "a.bin")


def test_warc_read_as_wat_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(gzip.compress(warc_record(b"HTTP/1.1 200 OK\r\n\r\n", kind="response")))
    with pytest.raises(InputError, match="format to warc"):
        _extract(path, format="wat")


def test_batches_are_small_and_add_up(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.wat.gz", *[wat_block([{"url": f"/{i}", "alt": "a"}, {"url": "/x"}]) for i in range(50)])
    outcomes = _extract(path, ExtractConfig(batch_rows=10))
    assert len(outcomes) == 10
    assert sum(outcome.num_in for outcome in outcomes) == 100
    assert sum(outcome.num_records for outcome in outcomes) == 50
    assert _urls(outcomes) == [str(i) for i in range(50)]


def test_fsspec_url_is_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.wat.gz", wat_block([{"url": "/1", "alt": "a"}]))
    outcomes = list(extract(path.as_uri(), ExtractConfig()))
    assert [row["source"] for row in _kept(outcomes)] == [path.as_uri()]


@pytest.mark.parametrize("host", ["18f", "anthropology", "fizyka", "psychology", "sociology"])
def test_candidates_equal_the_pairs_of_the_real_sites(shared_data: Path, host: str) -> None:
    name = f"{host}.localhost"
    outcomes = _extract(shared_data / "webarchive" / "wat" / f"{name}.warc.wat.gz")

    def page(url: str) -> str:
        return url + "index.html" if url.endswith("/") else url

    found = collections.Counter(
        (page(row["page_url"]), canonical_url(row["url"]), row["alt_text"]) for row in _kept(outcomes)
    )
    wanted: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for row in pq.read_table(shared_data / "pairs" / "pairs.parquet").to_pylist():
        if row["host"] == name and row["alt"]:
            url = f"http://{name}:8765/{row['page']}"
            wanted[(url, canonical_url(urljoin(url, row["img_src"])), row["alt"])] += 1
    front = f"http://{name}:8765/index.html"  # the oracle lists articles only
    extra = found - wanted
    assert wanted - found == collections.Counter()
    assert all(key[0] == front for key in extra), extra


@pytest.mark.parametrize("times", [(0, 7, 0), (0, 0, 7), (7, 0, 7), (0, 7, 7)])
def test_equal_members_hide_nothing_between_them(tmp_path: Path, times: tuple[int, int, int]) -> None:
    """The last member's checksum is the first one's: it must not vouch for all three as if they were one."""
    blocks = [wat_block([{"url": url, "alt": "a"}]) for url in ("/1", "/2", "/1")]
    packed = [gzip.compress(warc_record(block), mtime=time) for block, time in zip(blocks, times, strict=True)]
    path = tmp_path / "a.wat.gz"
    path.write_bytes(b"".join(packed))
    assert [row["url"][-2:] for row in _kept(_extract(path))] == ["/1", "/2", "/1"]
    path.write_bytes(packed[0] + gzip.compress(warc_record(blocks[0]), mtime=9 - times[0]))
    assert len(_kept(_extract(path))) == 2


@pytest.mark.slow
def test_hundred_megabyte_record_is_passed_over(tmp_path: Path) -> None:
    good = wat_block([{"url": "/1", "alt": "a"}])
    path = tmp_path / "a.wat.gz"
    big = warc_record(wat_block([{"url": "/1", "alt": "a" * 100_000_000}]))
    path.write_bytes(b"".join([*members([warc_record(good)]), gzip.compress(big, 1), *members([warc_record(good)])]))
    outcomes = _extract(path)
    assert len(_kept(outcomes)) == 2
    assert [row["reason"] for row in _rejected(outcomes)] == ["oversized_record"]

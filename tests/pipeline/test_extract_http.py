"""HTTP answers in WARC records: headers, codings, types; every record ends as read, passed over or rejected."""

from __future__ import annotations

import contextlib
import gzip
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import brotli
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.records.ledger import Ledger, totals
from pipeline.records.ledger_config import LedgerConfig
from pipeline.stages.extract import ExtractConfig, extract
from pipeline.stages.extract.http_message import Answer, OversizedBodyError, UnreadableAnswerError, parse_answer, unpack
from pipeline.stages.extract.media_type import looks_like_html, media_type_of
from tests.conftest import REPOSITORY
from tests.pipeline.archives import members, warc_record

_HTTP = "application/http; msgtype=response"
_PAGE = "<html><body>" + "".join(f'<p><img src="/{i}.jpg" alt="a brown dog, number {i}"></p>' for i in range(40))
_PAGE_BYTES = _PAGE.encode()


class _Ends(NamedTuple):
    """What became of the records of a file."""

    texts: list[str]
    num_records: int
    num_read: int
    passed_over: dict[str, int]
    rejected: list[tuple[str, str]]


def _ends(path: Path, config: ExtractConfig | None = None) -> _Ends:
    """Through the ledger, which checks the arithmetic."""
    ledger = Ledger(path.with_suffix(".rejections.parquet"), LedgerConfig())
    texts: list[str] = []
    rejected: list[tuple[str, str]] = []
    passed_over: Counter[str] = Counter()
    for outcome in extract(str(path), config or ExtractConfig()):
        texts += ledger.add("extract", "link", outcome)["alt_text"].to_pylist()
        rejected += [(r["reason"], r["detail"]) for r in outcome.rejected.to_pylist() if r["link"] is None]
        passed_over.update(outcome.passed_over)
    line = next(line for line in totals([{"lines": ledger.close()}]) if line.unit == "record")
    assert line.rows_in == line.kept + passed_over.total() + len(rejected)
    return _Ends(texts, line.rows_in, line.kept, dict(passed_over), rejected)


def _write(tmp_path: Path, records: Iterable[bytes]) -> Path:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(members(list(records))))
    return path


def _one(tmp_path: Path, block: bytes, *, content_type: str = _HTTP, **keywords: Any) -> _Ends:
    ends = _ends(_write(tmp_path, [warc_record(block, kind="response", content_type=content_type, **keywords)]))
    assert ends.num_records == 1
    return ends


def _answer(body: bytes, *headers: str) -> bytes:
    return (
        "".join(f"{line}\r\n" for line in ("HTTP/1.1 200 OK", "Content-Type: text/html", *headers, "")).encode() + body
    )


def _chunked(body: bytes, *, size: int = 500, end: str = "\r\n", extension: str = "") -> bytes:
    chunks = [body[i : i + size] for i in range(0, len(body), size)]
    line_end = end.encode()
    framed = b"".join(f"{len(c):x}{extension}{end}".encode() + c + line_end for c in chunks)
    return framed + b"0" + line_end + line_end


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


# --- headers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Type: text/html\n\n",
        b"HTTP/1.1 200 OK\r\nServer: x\nContent-Type: text/html\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\n",
        b"\r\nHTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n",
        b"http/1.0 200\r\ncontent-type : text/html\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type:\r\n\ttext/html\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header at all\r\n: \r\nContent-Type: text/html\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n",  # no empty line before the page
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"",  # HTTP/0.9
    ],
)
def test_headers_are_read_leniently(tmp_path: Path, head: bytes) -> None:
    assert len(_one(tmp_path, head + _PAGE_BYTES).texts) == 40


@pytest.mark.parametrize(
    ("block", "detail"),
    [
        (b"", "no HTTP answer"),
        (b"dns answer <img src=p alt=t>", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html", "does not end"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000 + b"\r\n\r\n<img src=p alt=t>", "does not end"),
    ],
)
def test_what_is_no_answer_is_a_bad_record(tmp_path: Path, block: bytes, detail: str) -> None:
    ((reason, found),) = _one(tmp_path, block).rejected
    assert reason == "bad_record"
    assert detail in found


def test_header_values_are_kept_in_order() -> None:
    answer = parse_answer(b"HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\n  3\r\na:4\r\n\r\nbody")
    assert answer == Answer([("a", "1"), ("b", "2 3"), ("a", "4")], b"body")
    assert answer.values("a") == ["1", "4"]


# --- codings ----------------------------------------------------------------------------------

_GZIP = gzip.compress(_PAGE_BYTES, mtime=0)
_CODED = {
    "gzip": (_GZIP, "Content-Encoding: gzip"),
    "x-gzip": (_GZIP, "Content-Encoding: x-gzip"),
    "upper case": (_GZIP, "Content-Encoding: GZIP"),
    "zlib": (zlib.compress(_PAGE_BYTES), "Content-Encoding: deflate"),
    "raw deflate": (_raw_deflate(_PAGE_BYTES), "Content-Encoding: deflate"),
    "raw deflate as gzip": (_raw_deflate(_PAGE_BYTES), "Content-Encoding: gzip"),
    "gzip as deflate": (_GZIP, "Content-Encoding: deflate"),
    "gzip as br": (_GZIP, "Content-Encoding: br"),
    "gzip as nothing": (_GZIP,),
    "zlib as nothing": (zlib.compress(_PAGE_BYTES),),
    "gzip as identity": (_GZIP, "Content-Encoding: identity"),
    "br": (brotli.compress(_PAGE_BYTES), "Content-Encoding: br"),
    "zstd": (zstandard.compress(_PAGE_BYTES), "Content-Encoding: zstd"),
    "zstd as gzip": (zstandard.compress(_PAGE_BYTES), "Content-Encoding: gzip"),
    "two": (brotli.compress(_GZIP), "Content-Encoding: gzip, br"),
    "two headers": (brotli.compress(_GZIP), "Content-Encoding: gzip", "Content-Encoding: br"),
    "twice": (gzip.compress(_GZIP), "Content-Encoding: gzip"),
    "named twice": (_GZIP, "Content-Encoding: gzip, gzip"),
    "members": (gzip.compress(_PAGE_BYTES[:999]) + gzip.compress(_PAGE_BYTES[999:]), "Content-Encoding: gzip"),
    "bytes behind": (_GZIP + b"junk", "Content-Encoding: gzip"),
    "as transfer coding": (_chunked(_GZIP), "Transfer-Encoding: gzip, chunked"),
    "plain": (_PAGE_BYTES, "Content-Encoding: gzip"),
    "plain as br": (b"\n " + _PAGE_BYTES, "Content-Encoding: br"),
    "plain as deflate": (b"dog " + _PAGE_BYTES, "Content-Encoding: deflate"),
    "unknown": (_PAGE_BYTES, "Content-Encoding: utf-8"),
    "chunked": (_chunked(_PAGE_BYTES), "Transfer-Encoding: chunked"),
    "chunked, LF": (_chunked(_PAGE_BYTES, end="\n"), "Transfer-Encoding: chunked"),
    "chunked, extension": (_chunked(_PAGE_BYTES, extension=";a=b"), "Transfer-Encoding: chunked"),
    "chunked, white space": (_chunked(_PAGE_BYTES, extension="  "), "Transfer-Encoding: Chunked"),
    "chunked, trailer": (_chunked(_PAGE_BYTES)[:-2] + b"X: y\r\n\r\n", "Transfer-Encoding: chunked"),
    "chunked, no last chunk": (_chunked(_PAGE_BYTES)[:-5], "Transfer-Encoding: chunked"),
    "chunked, cut in a size": (_chunked(_PAGE_BYTES)[:-5] + b"1f", "Transfer-Encoding: chunked"),
    "chunked, unknown": (_chunked(_PAGE_BYTES), "Transfer-Encoding: chunked", "Content-Encoding: utf-8"),
    "chunked, plain as gzip": (_chunked(_PAGE_BYTES), "Transfer-Encoding: chunked", "Content-Encoding: gzip"),
    "chunked gzip": (_chunked(_GZIP, size=99), "Transfer-Encoding: chunked", "Content-Encoding: gzip"),
    "dechunked": (_PAGE_BYTES, "Transfer-Encoding: chunked"),
    "dechunked, begins with 0": (b"0\n" + _PAGE_BYTES, "Transfer-Encoding: chunked"),
    "dechunked gzip": (_GZIP, "Transfer-Encoding: chunked", "Content-Encoding: gzip"),
}  # fmt: skip


@pytest.mark.parametrize("name", _CODED)
def test_layers_are_undone_by_what_the_bytes_are(tmp_path: Path, name: str) -> None:
    body, *headers = _CODED[name]
    assert _one(tmp_path, _answer(body, *headers)).texts == [f"a brown dog, number {i}" for i in range(40)]


@pytest.mark.parametrize("name", ["gzip", "zlib", "raw deflate", "zstd", "chunked", "chunked gzip"])
def test_body_that_is_cut_gives_what_it_holds(tmp_path: Path, name: str) -> None:
    body, *headers = _CODED[name]
    ends = _one(tmp_path, _answer(body[: len(body) * 4 // 5], *headers))
    assert ends.texts == [f"a brown dog, number {i}" for i in range(len(ends.texts))]
    if name == "zstd":  # all of it is one block
        assert ends.rejected == [("bad_record", "damaged zstd body: cut short before the first byte")]
    else:
        assert 10 < len(ends.texts) < 40
        assert ends.rejected == []


@pytest.mark.parametrize(
    ("body", "headers", "detail"),
    [
        (b"\x1f\x8b nonsense <b>" * 50, ["Content-Encoding: gzip"], "cannot be unpacked: gzip"),
        (_GZIP[:100] + b"\0" * 50 + _GZIP[150:], ["Content-Encoding: gzip"], "damaged gzip body"),
        (_GZIP[:-8] + b"\0" * 8, ["Content-Encoding: gzip"], "damaged gzip body"),
        (_GZIP[:10], [], "damaged gzip body"),
        (zstandard.compress(_PAGE_BYTES)[:20] + b"\0" * 50, ["Content-Encoding: zstd"], "damaged zstd body"),
        (brotli.compress(_GZIP), ["Content-Encoding: dcb"], "cannot be unpacked: dcb"),
        (brotli.compress(_GZIP)[1:], ["Content-Encoding: br"], "cannot be unpacked: br"),
        (_chunked(_PAGE_BYTES).replace(b"1f4", b"1ff", 2), ["Transfer-Encoding: chunked"], "the chunks break off"),
        (_GZIP, [f"Content-Encoding: {', '.join(['gzip'] * 9)}"], "9 codings"),
    ],
)  # fmt: skip
def test_body_that_cannot_be_unpacked_is_a_bad_record(
    tmp_path: Path, body: bytes, headers: list[str], detail: str
) -> None:
    ends = _one(tmp_path, _answer(body, *headers))
    ((reason, found),) = ends.rejected or [("", "")]
    assert (reason, ends.texts) == ("bad_record", [])
    assert detail in found


def test_encoding_that_browsers_refuse_is_a_bad_record(tmp_path: Path) -> None:
    ends = _one(tmp_path, _answer(b"<meta charset=hz-gb-2312>" + _PAGE_BYTES))
    assert [reason for reason, _ in ends.rejected] == ["bad_record"]


# --- types ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "essence", "charset"),
    [
        (["text/html"], "text/html", None),
        ([" Text/HTML ; Charset=UTF-8"], "text/html", "UTF-8"),
        (['text/html;charset="utf-8"'], "text/html", "utf-8"),
        (["text/html;x=1;charset=a;charset=b"], "text/html", "a"),
        (["text/html; charset=utf-8", "text/html"], "text/html", "utf-8"),
        (["text/plain; charset=utf-8, text/html"], "text/html", None),
        (["text/html, text/plain"], "text/plain", None),
        (['text/html; x="a, text/plain"; charset=b'], "text/html", "b"),
        (["text/html", "*/*"], "text/html", None),
        (["text/html", ""], "text/html", None),
        (["text/html charset=utf-8"], None, "utf-8"),
        (["text/html: charset=utf-8"], None, "utf-8"),
        (["html"], None, None),
        (["unknown/unknown"], None, None),
        ([], None, None),
    ],
)
def test_content_types_are_read_as_fetch_reads_them(
    values: list[str], essence: str | None, charset: str | None
) -> None:
    assert media_type_of(values) == (essence, charset)


@pytest.mark.parametrize(
    ("body", "is_html"),
    [
        (b"<!doctype html><p>", True),
        (b" \r\n\t<HTML>", True),
        (b"\xef\xbb\xbf<html >", True),
        (b"<!-- x", True),
        (b"<a href=x>", True),
        (b"<?xml version='1.0'?>\n<!DOCTYPE html PUBLIC '-//W3C'>", True),
        (b"<?xml version='1.0'?><rss>", False),
        (b"<abbr>", False),
        (b"<img src=p alt=t>", False),
        (b"hello <html>", False),
        (b"\x89PNG\r\n\x1a\n", False),
        (b"", False),
    ],
)
def test_bytes_of_unknown_type_are_sniffed(body: bytes, is_html: bool) -> None:
    assert looks_like_html(body) == is_html


def _typed(*headers: str, body: bytes = _PAGE_BYTES) -> bytes:
    return "".join(f"{line}\r\n" for line in ("HTTP/1.1 200 OK", *headers, "")).encode() + body


@pytest.mark.parametrize(
    ("block", "identified", "end"),
    [
        (_typed("Content-Type: text/html"), "", "read"),
        (_typed("Content-Type: application/xhtml+xml"), "", "read"),
        (_typed("Content-Type: text/html charset=utf-8"), "", "read"),
        (_typed("Content-Type: text/html", "Content-Type: text/html; charset=utf-8"), "", "read"),
        (_typed(), "", "read"),
        (_typed(body=b"<img src=p alt=t>"), "text/html", "read"),
        (_typed("Content-Type: text/plain"), "text/html", "read"),
        (_typed("Content-Type: text/html"), "application/pdf", "read"),
        (_typed("X-Content-Type-Options: nosniff"), "", "not_a_page"),
        (_typed(body=b"<img src=p alt=t>"), "", "not_a_page"),
        (_typed("Content-Type: text/plain"), "", "not_a_page"),
        (_typed("Content-Type: image/png"), "", "not_a_page"),
        (_typed("Content-Type: image/png", "Content-Encoding: gzip", body=b"\x1f\x8b\x08 x"), "", "not_a_page"),
        (_typed("Content-Type: text/html", body=b"\x89PNG\r\n\x1a\n\0\0\0"), "", "not_a_page"),
        (_typed("Content-Type: text/html", body=b""), "", "read"),
        (_typed("Content-Type: text/html", body=b"no pictures"), "", "read"),
        (_typed("Content-Type: text/html", body=_PAGE.encode("utf-16")), "", "read"),
        (_typed("Content-Type: text/html; charset=utf-16", body=_PAGE.encode("utf-16-le")), "", "read"),
        (_typed("Content-Type: text/html; charset=utf-16be", body=("\n" * 99 + _PAGE).encode("utf-16-be")), "", "read"),
        (_typed("Content-Type: text/html; charset=utf-16", body=("ж" * 99 + _PAGE).encode("utf-16-le")), "", "read"),
    ],
)
def test_answer_is_read_as_a_page_or_counted_as_none(tmp_path: Path, block: bytes, identified: str, end: str) -> None:
    record = warc_record(block, kind="response", content_type=_HTTP)
    if identified:
        record = record.replace(b"WARC-Date", f"WARC-Identified-Payload-Type: {identified}\r\nWARC-Date".encode(), 1)
    ends = _ends(_write(tmp_path, [record]))
    assert (ends.num_read, ends.passed_over, ends.rejected) == ((1, {}, []) if end == "read" else (0, {end: 1}, []))
    assert bool(ends.texts) == (end == "read" and b"img" in block.replace(b"\0", b""))


@pytest.mark.parametrize(
    ("kind", "content_type", "block", "end"),
    [
        ("resource", "text/html", _PAGE_BYTES, "read"),
        ("resource", "text/html", _GZIP, "read"),
        ("resource", "", _PAGE_BYTES, "read"),
        ("resource", "image/png", _PAGE_BYTES, "not_a_page"),
        ("resource", "", b"GIF89a", "not_a_page"),
        ("response", "text/dns", b"20240531\nexample.com. 1 IN A 1.2.3.4", "not_a_page"),
        ("response", "text/html", _PAGE_BYTES, "read"),
        ("request", "application/http; msgtype=request", b"GET / HTTP/1.1\r\n\r\n", "other_record"),
        ("warcinfo", "application/warc-fields", b"software: x\r\n", "other_record"),
        ("metadata", "application/warc-fields", b"x: y\r\n", "other_record"),
        ("revisit", _HTTP, b"HTTP/1.1 304 Not Modified\r\n\r\n", "other_record"),
        ("conversion", "text/plain", b"hello", "other_record"),
        ("brand-new", "text/html", _PAGE_BYTES, "other_record"),
    ],
)
def test_record_of_every_kind_is_counted_once(
    tmp_path: Path, kind: str, content_type: str, block: bytes, end: str
) -> None:
    page = warc_record(_answer(b"<img src=p alt=page>"), kind="response", content_type=_HTTP)
    ends = _ends(_write(tmp_path, [page, warc_record(block, kind=kind, content_type=content_type), page]))
    assert ends.num_records == 3
    assert (ends.num_read, ends.passed_over) == ((3, {}) if end == "read" else (2, {end: 1}))
    assert ends.rejected == []


@pytest.mark.parametrize("name", ["18f", "anthropology", "fizyka", "psychology", "sociology"])
def test_as_many_pages_are_read_from_a_real_warc_as_from_its_wat(shared_data: Path, tmp_path: Path, name: str) -> None:
    read = []
    for path in (f"warc/{name}.localhost.warc.gz", f"wat/{name}.localhost.warc.wat.gz"):
        outcomes = list(extract(str(shared_data / "webarchive" / path), ExtractConfig()))
        records, pages = (sum(getattr(o, of) or 0 for o in outcomes) for of in ("num_records", "num_read"))
        assert records == pages + sum(sum(outcome.passed_over.values()) for outcome in outcomes)
        read.append(pages)
    assert read[0] == read[1] > 40


# --- whatever comes ---------------------------------------------------------------------------

_PIECES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"Content-Type: text/html", b"Content-Type: image/png",
        b"Content-Type:", b"Transfer-Encoding: chunked", b"Content-Encoding: gzip", b"Content-Encoding: br, deflate",
        b"Content-Encoding: zstd", b"; charset=utf-16", b" ", b":", b"\0", b"5\r\n<img \r\n", b"<img src=p alt=t>",
        b"<html>", _GZIP[:60], _GZIP, b"\x28\xb5\x2f\xfd", b"x\x9c", b"0\r\n\r\n", b"HTTP/1.1 100 x\r\n\r\n",
        b"\xff\xfe",
    ]
)  # fmt: skip
_BLOCKS = st.lists(_PIECES | st.binary(max_size=8), max_size=12).map(b"".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(blocks=st.lists(_BLOCKS | _BLOCKS.map(lambda b: _answer(b"<html>") + b), min_size=1, max_size=8))
def test_records_of_any_content_are_counted_once_each(tmp_path: Path, blocks: list[bytes]) -> None:
    kinds = ("response", "response", "resource", "request")
    records = [
        warc_record(block, kind=kinds[i % 4], content_type=_HTTP if i % 4 != 2 else "")
        for i, block in enumerate(blocks)
    ]
    ends = _ends(_write(tmp_path, records))
    assert ends.num_records == len(blocks)


@given(_BLOCKS)
def test_any_body_is_unpacked_within_the_limit_or_refused(body: bytes) -> None:
    for coding in ("gzip", "deflate", "br", "zstd", "chunked", "x"):
        answer = Answer([("content-encoding", coding)], body)
        with contextlib.suppress(UnreadableAnswerError, OversizedBodyError):
            assert len(unpack(answer, 1000)) <= max(1000, len(body))


# --- bombs ------------------------------------------------------------------------------------

_BOMB_MB = 100
_MEASURE = """
import resource, sys
from pipeline.stages.extract import ExtractConfig, extract
list(extract(sys.argv[1], ExtractConfig()))  # what is loaded once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    (outcome,) = extract(path, ExtractConfig(max_record_bytes=1 << 20))
    assert [row["reason"] for row in outcome.rejected.to_pylist()] == ["oversized_record"], outcome.rejected.to_pylist()
    assert outcome.num_read == 1
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def _zeros_packed(packer: Any) -> bytes:
    pack = getattr(packer, "process", None) or packer.compress
    end = getattr(packer, "finish", None) or packer.flush
    return b"".join(pack(bytes(1 << 20)) for _ in range(_BOMB_MB)) + end()


def test_no_bomb_is_unpacked_beyond_the_limit(tmp_path: Path) -> None:
    deflated = _zeros_packed(zlib.compressobj(1, wbits=31))
    raw = _zeros_packed(zlib.compressobj(1, wbits=-15))
    bombs = {
        "gzip": _answer(deflated, "Content-Encoding: gzip"),
        "gzip-in-gzip": _answer(gzip.compress(deflated), "Content-Encoding: gzip, gzip"),
        "unnamed": _answer(gzip.compress(deflated)),
        "deflate": _answer(raw, "Content-Encoding: deflate"),
        "zstd": _answer(_zeros_packed(zstandard.ZstdCompressor().compressobj()), "Content-Encoding: zstd"),
        "br": _answer(_zeros_packed(brotli.Compressor(quality=1)), "Content-Encoding: br"),
        "chunked": _answer(_chunked(deflated), "Transfer-Encoding: chunked", "Content-Encoding: gzip"),
    }
    good = warc_record(_answer(b"<img src=p alt=t>"), kind="response", content_type=_HTTP)
    paths = []
    for name, block in {"none": b"", **bombs}.items():
        path = tmp_path / f"{name}.warc.gz"
        path.write_bytes(b"".join(members([warc_record(block, kind="response", content_type=_HTTP), good])))
        paths.append(str(path))
    # The records themselves: one that is as large as it says, packed to little.
    head = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: %d\r\n\r\n" % (_BOMB_MB << 20)
    for name, packer in (("gz", zlib.compressobj(1, wbits=31)), ("zst", zstandard.ZstdCompressor().compressobj())):
        packed = packer.compress(head) + _zeros_packed(packer)
        path = tmp_path / f"record.warc.{name}"
        path.write_bytes((gzip.compress if name == "gz" else zstandard.compress)(good) + packed)
        paths.append(str(path))
    measured = subprocess.run(
        [sys.executable, "-c", _MEASURE, *paths], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    assert int(measured.stdout) < 40  # MiB; each unpacks to 100 or more

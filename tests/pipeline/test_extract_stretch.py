"""Stretches of a source give the rows, rejections and counts of the whole; `max_rows` stops where it says."""

from __future__ import annotations

import bz2
import gzip
import json
import random
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.records.ledger_config import LedgerConfig
from pipeline.stages.extract import ExtractConfig, Stretch, extract
from pipeline.stages.extract.member_starts import bounds_of
from pipeline.steps.source_parts import Sources
from pipeline.steps.step import Run
from tests.pipeline.archives import html_block, members, warc_record, wat_block


class Found(NamedTuple):
    """What came of a source."""

    kept: list[dict[str, Any]]
    rejected: list[str]
    counts: Counter[str]


def found_in(path: Path, *stretches: Stretch, config: ExtractConfig | None = None) -> Found:
    found = Found([], [], Counter())
    for stretch in stretches:
        for outcome in extract(str(path), config or ExtractConfig(), stretch=stretch):
            found.kept.extend(outcome.kept.to_pylist())
            found.rejected.extend(map(repr, outcome.rejected.to_pylist()))
            found.counts.update(links=outcome.num_in, records=outcome.num_records, read=outcome.num_read)
            found.counts.update(outcome.passed_over)
    return found


def cut_at(ends: Sequence[int]) -> list[Stretch]:
    return [Stretch(begin=begin, end=end) for begin, end in zip([0, *ends], [*ends, None], strict=True)]


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def page(number: int, size: int = 0) -> bytes:
    """A WAT record of two links, one of them without a text."""
    links = [{"url": f"/{number}.jpg", "alt": f"picture {number}"}, {"url": "/none.jpg"}]
    return warc_record(wat_block(links, head={"Title": noise(number, size).hex()}), url=f"http://a.example/{number}")


# --- archives ---------------------------------------------------------------------------------------


def wat(num_pages: int = 60, size: int = 6_000) -> list[bytes]:
    return members([warc_record(b"", kind="warcinfo"), *(page(i, size) for i in range(num_pages))])


def with_nested_archive() -> list[bytes]:
    """A WARC that holds another, as deflate stores it: members within a member."""
    inner = b"".join(members([warc_record(html_block(f"<img src=/{i}.png alt=no>")) for i in range(400)]))
    assert len(inner) > 1 << 16
    records = [
        warc_record(html_block(f"<p>{noise(i, 2_000).hex()}<img src=/{i}.png alt='p {i}'>"), kind="response")
        for i in range(80)
    ]
    records[40] = warc_record(
        html_block(inner, headers="Content-Type: application/gzip\r\n"),
        kind="response",
        content_type="application/http",
    )
    packed = members(records)
    packed[40] = _stored(records[40])
    assert inner[:200] in packed[40]
    return packed


def _stored(record: bytes) -> bytes:
    deflate = zlib.compressobj(0, wbits=31)
    return deflate.compress(record) + deflate.flush()


def damaged(packed: list[bytes], *numbers: int) -> list[bytes]:
    return [each[:-30] + b"\xff" * 30 if i in numbers else each for i, each in enumerate(packed)]


def one_stream() -> list[bytes]:
    return [gzip.compress(b"".join(page(i, 4_000) for i in range(30)), mtime=0)]


def lf_headers() -> list[bytes]:
    """Records whose headers' lines end in LF alone, from the middle on."""
    records = [page(i, 6_000) for i in range(50)]
    loose = [record.replace(b"\r\n", b"\n") if i >= 25 else record for i, record in enumerate(records)]
    return members(loose)


ARCHIVES: dict[str, tuple[str, Callable[[], list[bytes]]]] = {
    "whole": ("wat.gz", wat),
    "small": ("wat.gz", lambda: wat(5, 0)),
    "damaged in the middle": ("wat.gz", lambda: damaged(wat(), 20, 21, 40)),
    "damaged at its end": ("wat.gz", lambda: damaged(wat(), 60)),
    "cut short": ("wat.gz", lambda: [*wat()[:-1], wat()[-1][:-100]]),
    "padded": ("wat.gz", lambda: [*wat(), b"\0" * 300]),
    "one stream": ("wat.gz", one_stream),
    "LF alone": ("wat.gz", lf_headers),
    "archive within": ("warc.gz", with_nested_archive),
    "WARC": ("warc.gz", lambda: members([warc_record(html_block("<img src=a alt=b>"), kind="response")] * 9)),
    "unpacked": ("wat", lambda: [page(i) for i in range(9)]),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_stretches_of_an_archive_are_the_whole_wherever_it_is_cut(tmp_path: Path, name: str) -> None:
    ending, make = ARCHIVES[name]
    packed = make()
    path = tmp_path / f"a.warc.{ending}" if ending.startswith("wat") else tmp_path / f"a.{ending}"
    path.write_bytes(b"".join(packed))
    whole = found_in(path, Stretch())
    assert whole.kept
    size = path.stat().st_size
    draw = random.Random(7)
    middle = size // 2
    cuts = [[middle], [size // 4, middle, size - 9], [1], sorted(draw.sample(range(1, size), 12))]
    starts = [sum(map(len, packed[:i])) for i in range(1, len(packed))]
    cuts += [[start + off] for start in draw.sample(starts, min(4, len(starts))) for off in (-1, 0, 1)]
    for ends in cuts:
        assert found_in(path, *cut_at([end for end in ends if end > 0])) == whole, ends


def test_source_that_fsspec_opens_is_read_in_stretches_too(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.wat.gz"
    path.write_bytes(b"".join(wat()))
    sources = Sources(
        patterns=(path.as_uri(),), format="auto", most=None, max_bad=0, table_bytes=9, archive_bytes=90_000
    )
    parts = list(sources.parts(Run(output=tmp_path, seed=0, ledger=LedgerConfig())))
    assert len(parts) > 3
    records = [
        row["record"]
        for part in parts
        for outcome in extract(part.source, ExtractConfig(), stretch=part.stretch)
        for row in outcome.kept.to_pylist()
    ]
    assert records == [row["record"] for row in found_in(path, Stretch()).kept]


def test_bytes_of_a_record_are_never_taken_for_the_start_of_one(tmp_path: Path) -> None:
    packed = with_nested_archive()
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(packed))
    starts = {sum(map(len, packed[:i])) for i in range(len(packed))}
    begin = sum(map(len, packed[:40]))
    with path.open("rb") as file:
        for offset in range(begin + 1, begin + len(packed[40]), 11_003):
            bounds = bounds_of(file, Stretch(begin=offset))
            assert bounds is not None
            assert bounds.start == begin + len(packed[40])
            assert bounds.start in starts


@pytest.mark.parametrize("name", ["whole", "damaged in the middle", "WARC", "unpacked", "one stream", "LF alone"])
@pytest.mark.parametrize("most", [1, 2, 8, 22, 10_000])
def test_archive_is_read_up_to_its_first_records(tmp_path: Path, name: str, most: int) -> None:
    ending, make = ARCHIVES[name]
    path = tmp_path / f"a.warc.{ending}" if ending.startswith("wat") else tmp_path / f"a.{ending}"
    path.write_bytes(b"".join(make()))
    whole, part = found_in(path, Stretch()), found_in(path, Stretch(max_rows=most))
    assert part.counts["records"] == min(most, whole.counts["records"])
    assert part.kept == whole.kept[: len(part.kept)]
    others = sum(part.counts[reason] for reason in ("other_record", "not_a_page"))
    of_records = sum("'link': None" in row for row in part.rejected)
    assert part.counts["read"] + others + of_records == part.counts["records"]


# --- tables -----------------------------------------------------------------------------------------


def table(rows: int) -> pa.Table:
    numbers = range(rows)
    return pa.table(
        {
            "url": [f"http://a.example/{i}.jpg" if i % 5 else "mailto:x" for i in numbers],
            "text": [f"picture {i}" if i % 7 else None for i in numbers],
        }
    )


def test_stretches_of_a_parquet_file_are_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(table(1_000), path, row_group_size=70)
    whole = found_in(path, Stretch())
    assert [row["record"] for row in whole.kept] == [i for i in range(1_000) if i % 5 and i % 7]
    size = path.stat().st_size
    for ends in ([size // 2], list(range(500, size, 500)), [1], [size - 1]):
        assert found_in(path, *cut_at(ends)) == whole
        parts = [Stretch(begin=each.begin, end=each.end, max_rows=150) for each in cut_at(ends)]
        some = found_in(path, *parts)
        assert some.counts["records"] == 150
        assert some.kept == [row for row in whole.kept if row["record"] < 150]


def test_damaged_row_group_costs_its_own_rows_in_whatever_stretch_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(table(600), path, row_group_size=100, compression="zstd", use_dictionary=False)
    about = pq.ParquetFile(path).metadata
    at = about.row_group(2).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[at + 30 : at + 90] = b"\xff" * 60
    path.write_bytes(data)
    whole = found_in(path, Stretch())
    assert any("bad_record" in row for row in whole.rejected)
    assert found_in(path, *cut_at(list(range(400, len(data), 400)))) == whole


def _csv(path: Path) -> None:
    lines = ["url,text", *(f'http://a.example/{i}.jpg,"picture\n{i}"' for i in range(300))]
    path.write_text("\n".join(lines))


def _json_lines(path: Path) -> None:
    rows = [{"url": f"http://a.example/{i}.jpg", "text": f"picture {i}"} for i in range(300)]
    path.write_bytes(gzip.compress("\n\n".join(map(json.dumps, rows)).encode()))


TABLES: dict[str, Callable[[Path], object]] = {
    "a.csv": _csv,
    "a.tsv": lambda path: path.write_text("url\ttext\n" + "http://a.example/1.jpg\tpicture\n" * 300),
    "a.jsonl.gz": _json_lines,
    "a.parquet": lambda path: pq.write_table(table(300), path),
}


@pytest.mark.parametrize("name", TABLES)
def test_table_is_read_up_to_its_first_rows(tmp_path: Path, name: str) -> None:
    TABLES[name](tmp_path / name)
    whole = found_in(tmp_path / name, Stretch())
    assert whole.counts["records"] == 300
    for most in (1, 7, 299, 300, 301):
        for batch_rows in (3, 16_384):
            some = found_in(tmp_path / name, Stretch(max_rows=most), config=ExtractConfig(batch_rows=batch_rows))
            assert some.counts["records"] == min(most, 300)
            assert some.kept == [row for row in whole.kept if row["record"] < most]


def test_what_is_behind_max_rows_is_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps({"url": "http://a.example/1.jpg", "text": bz2.compress(b"x").hex()})
    path.write_text(f"{good}\n{good}\n" + "no JSON\n" * 1_000)
    assert found_in(path, Stretch(max_rows=2)).rejected == []
    path = tmp_path / "a.warc.wat.gz"
    path.write_bytes(b"".join(wat(5, 0)) + b"no archive" * 1_000)
    assert found_in(path, Stretch(max_rows=6)).rejected == found_in(path, Stretch(max_rows=100)).rejected[:5]

"""Reading WAT: ours against the usual way, and against reading the records without looking into them.

    python -m benchmarks.wat [FILE.wat.gz ...] [--data DIR] [--repeats 5]

Without files: 16 real pages of Common Crawl 150 times over, then small pages of five sites dense with pictures, both
from the directory of real data.

Prints MB/s of inflated WAT, per core, best and spread over the repeats, ours and the peers in turn:

    records only     FastWARC reads every metadata record, nothing is parsed: the floor
    gzip + json      the usual reader: gzip, a line at a time, json.loads on lines that start a record's JSON,
                     urljoin; no entities, no identities, no rejections
    fastwarc + json  the same with the fast parts at hand: FastWARC for the records, msgspec for the JSON (cc2dataset
                     does this with simdjson)
    links only       ours without identities and Arrow: what compares with these two
    extract          ours: entities, robots, licences, canonical URLs, uids, Arrow batches, rejections
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import msgspec
from fastwarc.warc import ArchiveIterator, WarcRecordType

from pipeline.records.outcome import Outcome
from pipeline.stages.extract import ExtractConfig, extract
from pipeline.stages.extract.batch import LinkBatch
from pipeline.stages.extract.columns import LINKS

SITES = ("18f", "anthropology", "fizyka", "psychology", "sociology")


def records_only(path: str) -> int:
    """Number of bytes in metadata records."""
    return sum(
        len(record.reader.read())
        for record in ArchiveIterator(path, record_types=WarcRecordType.metadata, parse_http=False)
    )


def gzip_and_json(path: str) -> int:
    """Number of (url, alt, page) found by the usual reader."""
    found: list[tuple[str, str, str]] = []
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("{"):
                with contextlib.suppress(ValueError):
                    found.extend(links_of(json.loads(line)))
    return len(found)


def fastwarc_and_json(path: str) -> int:
    """Number of (url, alt, page) found by a reader of fast parts."""
    found: list[tuple[str, str, str]] = []
    for record in ArchiveIterator(path, record_types=WarcRecordType.metadata, parse_http=False):
        with contextlib.suppress(msgspec.DecodeError):
            found.extend(links_of(msgspec.json.decode(record.reader.read())))
    return len(found)


def links_of(record: Any) -> list[tuple[str, str, str]]:
    """(url, alt, page) of the picture links of a record's JSON, as dicts and lists."""
    try:
        envelope = record["Envelope"]
        page = envelope["WARC-Header-Metadata"]["WARC-Target-URI"]
        html = envelope["Payload-Metadata"]["HTTP-Response-Metadata"]["HTML-Metadata"]
    except KeyError:
        return []
    base = urljoin(page, html.get("Head", {}).get("Base", ""))
    return [
        (urljoin(base, link.get("url", "")), link["alt"], page)
        for link in html.get("Links", [])
        if link.get("path") == "IMG@/src" and link.get("alt")
    ]


def extract_all(path: str) -> int:
    """Number of candidates."""
    return sum(outcome.kept.num_rows for outcome in extract(path, ExtractConfig()))


def links_only(path: str) -> int:
    """As `extract_all`, but batches are thrown away before identities and Arrow."""
    found = 0

    def discard(batch: LinkBatch) -> Outcome:
        nonlocal found
        found += len(batch._url) + int(batch._columns.arrays.used[LINKS])
        batch._pending_bytes = batch._num_records = batch._num_read = 0
        batch._clear()
        return empty

    taken, empty = LinkBatch.take, LinkBatch("", ExtractConfig()).take()
    LinkBatch.take = discard  # type: ignore[method-assign, assignment]  # for the measurement
    try:
        for _ in extract(path, ExtractConfig()):
            pass
    finally:
        LinkBatch.take = taken  # type: ignore[method-assign]
    return found


def measure(title: str, files: list[str], repeats: int) -> None:
    """Measure all methods on the files and print a table."""
    inflated = sum(records_only(path) for path in files) / 1e6
    methods: dict[str, Callable[[str], int]] = {
        "records only": records_only,
        "gzip + json": gzip_and_json,
        "fastwarc + json": fastwarc_and_json,
        "links only": links_only,
        "extract": extract_all,
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    counts: dict[str, int] = {}
    for _ in range(repeats):  # in turn, so that a busy moment hits all alike
        for name, method in methods.items():
            start = time.process_time()
            counts[name] = sum(method(path) for path in files)
            seconds[name].append(time.process_time() - start)
    peer = min(seconds["gzip + json"])
    floor = min(seconds["records only"])
    print(f"\n{title}: {inflated:.1f} MB of metadata, {repeats} repeats")
    print(f"{'':16}{'MB/s':>8}{'spread':>9}{'x gzip+json':>13}{'of records':>12}{'found':>12}")
    for name, times in seconds.items():
        best = min(times)
        spread = (statistics.median(times) - best) / best
        print(f"{name:16}{inflated / best:8.0f}{spread:9.0%}{peer / best:13.2f}{floor / best:12.0%}{counts[name]:12,d}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OPENWIT_SHARED_DATA", "../shared/data")))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, CPU time of one core")
    if options.files:
        measure("files", options.files, options.repeats)
        return
    wat = options.data / "webarchive" / "wat"
    sites = [wat / f"{name}.localhost.warc.wat.gz" for name in SITES]
    with tempfile.TemporaryDirectory() as folder:
        for name, files, times in (
            ("pages of Common Crawl", [wat / "cc-main-2020-34-sample.warc.wat.gz"], 150),
            ("small pages dense with pictures", sites, 4),
        ):
            path = Path(folder) / "repeated.warc.wat.gz"
            path.write_bytes(b"".join(file.read_bytes() for file in files) * times)
            measure(name, [str(path)], options.repeats)


if __name__ == "__main__":
    main()

"""robots_captures, robots_archives: a crawl's captures of robots.txt -> what each host says, in a mapped table.

    WARC files --read, keep what concerns us--> captures, exchanged by URL --the latest of each--> table of hosts

Equal files are one text in a part of the table. Captures that say that a host could not answer are left out of it,
unless nobody is to ask the host again: then they forbid.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.consent.config import ConsentConfig
from pipeline.consent.robots_answer import FAILURE, kind_of, license_of, reason_of
from pipeline.consent.robots_file import KEPT_VERSION
from pipeline.consent.robots_rules import RobotsSignals
from pipeline.consent.robots_table import TableFiles, robots_hash, write_table
from pipeline.engine import Data, Info, Needs, Task, output
from pipeline.errors import InputError
from pipeline.records.ledger import Ledger
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.outcome import Outcome, empty_rejections, rejections_from_rows
from pipeline.records.schema import REJECTIONS, ROBOTS
from pipeline.stages.fetch.config import FetchConfig
from pipeline.steps.exchange import Blocks, Exchanged, ExchangeWriter, read_blocks
from pipeline.steps.sources import Stamp, find_sources
from pipeline.steps.step import Page, Run, step
from pipeline.storage.location import Location
from pipeline.storage.output import is_output
from pipeline.storage.parquet import write_parquet
from pipeline.watching import counting

__all__ = [
    "BuildTable",
    "Captures",
    "HostRobots",
    "ReadCaptures",
    "build_table",
    "read_captures",
    "rejected",
    "robots_archives",
    "row_of",
    "table_of",
    "write_hosts",
]

STAGE = "robots_archives"
_FILES_PER_TASK = 16
"""Of about 2 MB each, in Common Crawl."""
_FILES_PER_PART = 256
_MOST_PARTS = 256
_ROWS_PER_FLUSH = 100_000
CAPTURES = pa.schema(
    [
        pa.field("url_hash", pa.uint64(), nullable=False),  # of the robots.txt's URL; see `robots_table.py`
        *ROBOTS,
        pa.field("text", pa.string(), nullable=False),  # see `robots_answer.py`
    ]
)
"""One answer to a request for a robots.txt."""


@dataclass(frozen=True, kw_only=True)
class Captures(Blocks):
    """Captures by their URLs' hashes. A part tells how many are of a robots.txt (`robots`); others are what redirects
    led to."""

    rejections: Location = output("rejections.parquet", REJECTIONS)


@dataclass(frozen=True, kw_only=True)
class ReadCaptures(Task[Captures]):
    """Read some archives."""

    sources: tuple[tuple[str, Stamp], ...]
    product: str
    kept: int
    """KEPT_VERSION."""
    partitions: int
    ledger: LedgerConfig

    def work(self, out: Captures) -> Info:
        from pipeline.steps.robots.captures import captures_in

        ledger = Ledger(out.rejections.local, self.ledger)
        tally = counting("capture", kept_as="kept")
        rows = robots = unreadable = 0
        with ExchangeWriter(out, CAPTURES, partitions=self.partitions, rows=_ROWS_PER_FLUSH, by="url_hash") as writer:
            for source, _ in self.sources:
                bad: list[dict[str, object]] = []
                try:
                    for batch in captures_in(source, self.product, bad):
                        writer.add(batch)
                        rows += batch.num_rows
                        robots += pc.sum(pc.ends_with(batch["url"], "/robots.txt")).as_py()
                        tally.done += batch.num_rows
                        tally.kept += batch.num_rows
                        ledger.add(
                            STAGE, "capture", Outcome(kept=batch, rejected=empty_rejections(), num_in=batch.num_rows)
                        )
                except InputError as error:
                    unreadable += 1
                    ledger.add(STAGE, "archive", _outcome(0, [rejected(source, None, "unreadable_source", str(error))]))
                else:
                    ledger.add(STAGE, "archive", _outcome(1, []))
                ledger.add(STAGE, "capture", _outcome(0, bad))
        said = {"rows": rows, "robots": robots, "sources": len(self.sources), "unreadable": unreadable}
        return {**said, "lines": ledger.close()}


@step("robots_captures", ReadCaptures, title="read captures of robots.txt", per="16 archives", stages=[STAGE])
def read_captures(run: Run, config: ConsentConfig, product: str) -> Iterator[ReadCaptures]:
    """One task per group of archives."""
    found = list(_found(run, config).items())
    partitions = _num_parts(len(found))
    for number, begin in enumerate(range(0, len(found), _FILES_PER_TASK)):
        yield ReadCaptures(
            partition=f"{number:05d}",
            sources=tuple(found[begin : begin + _FILES_PER_TASK]),
            product=product,
            kept=KEPT_VERSION,
            partitions=partitions,
            ledger=run.ledger,
        )


@read_captures.checked_by
def _check(run: Run, config: ConsentConfig, product: str) -> None:
    _found(run, config)


def _found(run: Run, config: ConsentConfig) -> Mapping[str, Stamp]:
    lists = run.directory("lists") if is_output(run.output) else None
    return find_sources(config.robots_archives, seed=run.seed, lists=lists, option="consent.robots_archives")


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class HostRobots:
    """What is known of the robots.txt of a range of hosts, for people and mapped. A part tells how many `hosts`."""

    robots: Location = output("robots.parquet", ROBOTS, view="robots")
    urls: Location = output("urls.npy")
    places: Location = output("places.npy")
    texts: Location = output("texts.npy")


def table_of(data: Data[HostRobots]) -> TableFiles:
    """The table that a finished step wrote."""
    return TableFiles(
        urls=data.files(lambda out: out.urls),
        places=data.files(lambda out: out.places),
        texts=data.files(lambda out: out.texts),
    )


@dataclass(frozen=True, kw_only=True)
class BuildTable(Task[HostRobots]):
    """The latest capture of each host in a hash partition."""

    captures: Exchanged
    number: int
    """Of the hash partition."""
    keep_unreachable: bool

    needs = Needs(memory_mb=2500)

    def work(self, out: HostRobots) -> Info:
        batches = list(read_blocks(self.captures, self.number))
        captures = pa.Table.from_batches(batches, CAPTURES)
        num_captures = captures.num_rows
        failed = pc.starts_with(captures["text"], FAILURE)
        captures = captures.append_column("failed", failed).sort_by(
            [("url_hash", "ascending"), ("failed", "ascending"), ("captured", "descending"), ("text", "ascending")]
        )
        hashes = captures["url_hash"].to_numpy()
        latest = captures.filter(pa.array(np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)]))
        return {"captures": num_captures, **write_hosts(out, latest, keep_unreachable=self.keep_unreachable)}


def write_hosts(out: HostRobots, latest: pa.Table, *, keep_unreachable: bool) -> Info:
    """Write captures, one a host, by `url_hash`; how many there are."""
    write_parquet(out.robots.local, latest.select(ROBOTS.names), ROBOTS)
    rows = zip(latest["url_hash"].to_pylist(), latest["text"].to_pylist(), strict=True)
    known = [(key, text) for key, text in rows if keep_unreachable or reason_of(text) is None]
    hashes = np.array([key for key, _ in known], np.uint64)
    write_table(out.urls.local, out.places.local, out.texts.local, hashes, [text for _, text in known])
    delays = sum("crawl-delay: " in text for _, text in known)
    return {"rows": latest.num_rows, "hosts": len(known), "delays": delays}


@step("robots_archives", BuildTable, title="rules of hosts from archives", per="hash partition")
def build_table(run: Run, captures: Data[Captures], max_bad: float, keep_unreachable: bool) -> Iterator[BuildTable]:
    """One task per hash partition. Raises InputError where more than a share of `max_bad` of the archives could not be
    read, and where none has a robots.txt."""
    bad, num_sources = captures.total("unreadable"), captures.total("sources")
    if bad > max_bad * num_sources:
        raise InputError(
            f"consent.robots_archives: {bad} of {num_sources:,} archives cannot be read, as `sql rejections` says; "
            f"name others, or raise max_bad_sources from {max_bad:g}"
        )
    if not captures.total("robots"):
        raise InputError(
            f"consent.robots_archives: no robots.txt is in any of the {num_sources:,} archives; name those of a "
            "crawl's robotstxt.paths.gz, which lie beside its WARC and WAT files"
        )
    blocks = Exchanged(blocks=captures.files(lambda out: out.blocks), indices=captures.files(lambda out: out.index))
    for number in range(_num_parts(num_sources)):
        yield BuildTable(
            partition=f"part-{number:05d}", captures=blocks, number=number, keep_unreachable=keep_unreachable
        )


def _num_parts(num_sources: int) -> int:
    return max(1, min(_MOST_PARTS, num_sources // _FILES_PER_PART))


def robots_archives(page: Page, consent: ConsentConfig, fetch: FetchConfig, max_bad: float) -> Data[HostRobots] | None:
    """The steps that make the table of hosts; None where no archive is named, or nothing of it is honoured."""
    if not consent.robots_archives or not RobotsSignals.of(consent, fetch.product).any:
        return None
    captures = page.add(read_captures(consent, fetch.product))
    return page.add(build_table(captures, max_bad, not consent.robots_live))


def row_of(url: str, captured: datetime.datetime | None, status: int | None, text: str) -> dict[str, Any]:
    """A row of CAPTURES."""
    about = {"url": url, "captured": captured, "http_status": status, "says": kind_of(text)}
    return about | {"license": license_of(text), "url_hash": robots_hash(url), "text": text}


def rejected(source: str, offset: int | None, reason: str, detail: str) -> dict[str, object]:
    """A rejection of the step."""
    return {"source": source, "record": offset, "stage": STAGE, "reason": reason, "detail": detail[:1000]}


def _outcome(kept: int, rejected: Sequence[dict[str, object]]) -> Outcome:
    rows = pa.RecordBatch.from_pydict({"": pa.nulls(kept)})
    return Outcome(kept=rows, rejected=rejections_from_rows(rejected), num_in=kept + len(rejected))

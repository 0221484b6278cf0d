"""robots_hosts, robots_live: the hosts that no archive covers, each asked once for its robots.txt before its pictures.

    missing of 64 staging shards --hosts, exchanged by hash--> robots URLs --ask each, all tasks of the run--> table

Pictures are requested by the table (`steps/fetch`). The done-records keep it for as long as the run goes on; a later
run, with another plan, uses of it what is less than a day old (RFC 9309, section 2.4). A host that could not answer is
asked again by the next plan, and by a retry.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.consent.config import ConsentConfig
from pipeline.consent.robots_answer import kind_of, text_of_answer, text_of_failure
from pipeline.consent.robots_file import KEPT_VERSION
from pipeline.consent.robots_rules import RobotsSignals
from pipeline.consent.robots_table import HostTable, Robots, TableFiles, robots_hash, robots_url_of
from pipeline.engine import Data, Info, Needs, Records, Task, apart, output, place
from pipeline.errors import DamagedFileError
from pipeline.records.schema import ROBOTS
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.download import Fetched, fetch_robots
from pipeline.stages.fetch.name_cache import machine_directory
from pipeline.stages.fetch.shared_hosts import RunWide
from pipeline.steps.exchange import Blocks, Exchanged, ExchangeWriter, read_blocks
from pipeline.steps.fetch.requests import Requests
from pipeline.steps.fetch.retries import retries_of
from pipeline.steps.robots.archives import CAPTURES, HostRobots, row_of, table_of, write_hosts
from pipeline.steps.step import Page, Run, step
from pipeline.storage.checked import read_batches, read_table
from pipeline.storage.location import Files, Location
from pipeline.watching import counting

__all__ = [
    "HOSTS",
    "ROBOTS_LIVE",
    "SHARDS_PER_TASK",
    "AskHosts",
    "HostsToAsk",
    "KnownRobots",
    "LiveRobots",
    "ask_hosts",
    "hosts_to_ask",
    "live_robots",
    "num_parts",
    "of_new_hosts",
]

ROBOTS_LIVE = "robots_live"
"""The step that asks."""
SHARDS_PER_TASK = 64
_URLS_PER_PART = 100_000
_MOST_PARTS = 1024
_ROWS_PER_FLUSH = 200_000
_BATCH_ROWS = 65_536
_FRESH = datetime.timedelta(hours=24)
HOSTS = pa.schema([pa.field("url_hash", pa.uint64(), nullable=False), pa.field("url", pa.string(), nullable=False)])
"""URLs of hosts' files."""


@dataclass(frozen=True, kw_only=True)
class KnownRobots:
    """What tasks that request pictures go by."""

    tables: tuple[TableFiles, ...]
    signals: RobotsSignals
    common_crawl: tuple[str, ...]
    """Patterns of sources."""
    asks: bool
    """Whether hosts that redirects lead to are asked."""
    has_delays: bool
    """Whether a host asks for a Crawl-delay."""

    def open(self) -> Robots:
        """The judge of URLs. Raises DamagedFileError."""
        return Robots(self.tables, self.signals, asks=self.asks)

    @classmethod
    def of(
        cls, live: Data[LiveRobots] | None, captured: Data[HostRobots] | None, consent: ConsentConfig, product: str
    ) -> KnownRobots | None:
        """What finished steps know; None where there is nothing to go by."""
        known = [data for data in (live, captured) if data is not None]
        if not known:
            return None
        return cls(
            tables=tuple(table_of(data) for data in known),
            signals=RobotsSignals.of(consent, product),
            common_crawl=consent.common_crawl,
            asks=live is not None,
            has_delays=any(data.total("delays") for data in known),
        )


# --- whom to ask ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class HostsToAsk(Task[Blocks]):
    """The hosts of a block of staging shards."""

    missing: Files
    captured: TableFiles | None
    partitions: int

    def work(self, out: Blocks) -> Info:
        captured = None if self.captured is None else HostTable(self.captured)
        known: dict[str, bool] = {}
        rows = 0
        with ExchangeWriter(out, HOSTS, partitions=self.partitions, rows=_ROWS_PER_FLUSH, by="url_hash") as writer:
            for file in self.missing:
                for batch in read_batches(file, _BATCH_ROWS, ["url"]):
                    new = of_new_hosts(batch["url"].to_pylist(), robots_url_of, known, captured)
                    rows += new.num_rows
                    writer.add(new)
        return {"rows": rows, "covered": sum(known.values())}


def of_new_hosts(
    urls: Iterable[str], file_of: Callable[[str], str], known: dict[str, bool], captured: HostTable | None = None
) -> pa.RecordBatch:
    """HOSTS of the files of the hosts of `urls` that are neither in `known`, to which all are added, nor captured.

    `file_of` a URL is its host's file; it raises ValueError for what has no host.
    """
    new = []
    for url in urls:
        try:
            file = file_of(url)
        except ValueError:
            continue  # the fetch stage says what is wrong with it
        if file not in known:
            is_covered = known[file] = captured is not None and captured.answer(file) is not None
            if not is_covered:
                new.append(file)
    columns = [pa.array([robots_hash(file) for file in new], pa.uint64()), pa.array(new, pa.string())]
    return pa.RecordBatch.from_arrays(columns, schema=HOSTS)


@step("robots_hosts", HostsToAsk, title="find hosts to ask for robots.txt", per="64 shards")
def hosts_to_ask(run: Run, requests: Data[Requests], captured: Data[HostRobots] | None) -> Iterator[HostsToAsk]:
    """One task per block of staging shards that miss something."""
    parts = [part for part in requests.parts if part.info["missing"]]
    partitions = num_parts(sum(part.info["missing"] for part in parts))
    table = None if captured is None else table_of(captured)
    for begin in range(0, len(parts), SHARDS_PER_TASK):
        block = parts[begin : begin + SHARDS_PER_TASK]
        yield HostsToAsk(
            partition=f"from-{block[0].name}",
            missing=Files(part.files.missing for part in block),
            captured=table,
            partitions=partitions,
        )


def num_parts(num_urls: int) -> int:
    """How many hash partitions the hosts of so many URLs have."""
    return max(1, min(_MOST_PARTS, num_urls // _URLS_PER_PART))


# --- asking ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LiveRobots(HostRobots):
    """What the hosts of a hash partition answered."""

    robots: Location = output("robots.parquet", ROBOTS, view="robots_live")


@dataclass(frozen=True, kw_only=True)
class AskHosts(Task[LiveRobots]):
    """Ask the hosts of a hash partition."""

    hosts: Exchanged
    number: int
    """Of the hash partition."""
    product: str
    kept: int
    """KEPT_VERSION."""
    plan: str
    """Of the URLs to request: those of another plan are a later run's, and an answer is a day's at most."""
    retry: int
    """The number of the last retry that was begun."""
    config: FetchConfig = apart()
    earlier: tuple[LiveRobots, ...] = apart()
    """What an earlier plan's hosts answered."""

    @property
    def needs(self) -> Needs:
        return Needs(cpus=self.config.cpus)

    def work(self, out: LiveRobots) -> Info:
        hosts: dict[int, str] = {}
        for batch in read_blocks(self.hosts, self.number):
            hosts.update(zip(batch["url_hash"].to_pylist(), batch["url"].to_pylist(), strict=True))
        tally = counting("host", total=len(hosts), kept_as="answered")
        now = datetime.datetime.now(datetime.UTC)
        rows: dict[int, dict[str, Any]] = {}
        for each in self.earlier:
            rows |= _fresh(each, hosts, now)
        reused = len(rows)
        asked = [hosts[key] for key in sorted(hosts.keys() - rows.keys())]
        for answer in fetch_robots(asked, self.config, RunWide(names=machine_directory())):
            row = _row(asked[answer.index], answer, self.product)
            rows[row["url_hash"]] = row
            tally.done += 1
            tally.kept += answer.http_status is not None
        table = pa.Table.from_pylist([rows[key] for key in sorted(rows)], schema=CAPTURES)
        said = write_hosts(out, table, keep_unreachable=True)
        return {**said, "asked": len(asked), "reused": reused, "product": self.product, "kept": self.kept}


def _row(robots_url: str, answer: Fetched, product: str) -> dict[str, Any]:
    """A row of CAPTURES."""
    if answer.body is not None:
        text = text_of_answer(robots_url, 200, None, answer.body, product)
    else:
        text = text_of_failure(answer.reason or "", was_redirected=bool(answer.redirects))
    return row_of(robots_url, datetime.datetime.now(datetime.UTC), answer.http_status, text)


def _fresh(earlier: LiveRobots, hosts: Mapping[int, str], now: datetime.datetime) -> dict[int, dict[str, Any]]:
    """url_hash -> row, of those of `hosts` that answered within the last day."""
    try:
        table = HostTable(
            TableFiles(urls=Files([earlier.urls]), places=Files([earlier.places]), texts=Files([earlier.texts]))
        )
        rows = read_table(earlier.robots).to_pylist()
        found = {robots_hash(row["url"]): (row, table.find(row["url"])) for row in rows}
    except DamagedFileError:
        return {}  # replaced by another task meanwhile: they are asked again
    return {
        key: {**row, "url_hash": key, "text": text}
        for key, (row, text) in found.items()
        if key in hosts and text is not None and kind_of(text) != "unreachable" and now - row["captured"] < _FRESH
    }


@step(ROBOTS_LIVE, AskHosts, title="ask hosts for robots.txt", per="hash partition")
def ask_hosts(run: Run, hosts: Data[Blocks], requests: Data[Requests], config: FetchConfig) -> Iterator[AskHosts]:
    """One task per hash partition, if any host is to be asked."""
    if not hosts.parts or not hosts.total("rows"):
        return
    blocks = Exchanged.of(hosts)
    partitions = num_parts(requests.total("missing"))
    plan = Files(part.files.missing for part in requests.parts if part.info["missing"]).digest
    directory = run.directory(ROBOTS_LIVE)
    known = {
        record.partition: place(LiveRobots, record.partition, record.located(directory))
        for record in Records.of(directory)
        if (record.info.get("product"), record.info.get("kept")) == (config.product, KEPT_VERSION)
    }
    names = [f"part-{number:05d}" for number in range(partitions)]
    is_as_before = set(names) == known.keys()
    for number, name in enumerate(names):
        yield AskHosts(
            partition=name,
            hosts=blocks,
            number=number,
            product=config.product,
            kept=KEPT_VERSION,
            plan=plan,
            retry=retries_of(run.output).number,
            config=config,
            earlier=(known[name],) if is_as_before else tuple(known.values()),
        )


def live_robots(
    page: Page,
    requests: Data[Requests],
    captured: Data[HostRobots] | None,
    config: FetchConfig,
    consent: ConsentConfig,
) -> Data[LiveRobots] | None:
    """The steps that ask the hosts that no archive covers; None where nobody is to be asked."""
    signals = RobotsSignals.of(consent, config.product)
    if not consent.robots_live or not (signals.robots_txt or signals.ai_groups):
        return None
    hosts = page.add(hosts_to_ask(requests, captured))
    return page.add(ask_hosts(hosts, requests, config))

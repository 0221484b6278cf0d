"""tdmrep_hosts, tdmrep_live: where tdmrep.json is honoured, each host asked once for it before its pictures.

    missing of 64 staging shards --hosts, exchanged by hash--> files' URLs --ask each, all tasks of the run--> table

The table has the files that say something. A later plan asks again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.consent.config import ConsentConfig
from pipeline.consent.robots_table import TableFiles, robots_hash, write_table
from pipeline.engine import Data, Info, Needs, Task, apart, output
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.name_cache import machine_directory
from pipeline.stages.fetch.shared_hosts import RunWide
from pipeline.stages.fetch.tdmrep import ask_for_tdmrep, tdmrep_url_of
from pipeline.steps.exchange import Blocks, Exchanged, ExchangeWriter, read_blocks
from pipeline.steps.fetch.requests import Requests
from pipeline.steps.fetch.retries import retries_of
from pipeline.steps.robots.live import HOSTS, SHARDS_PER_TASK, num_parts, of_new_hosts
from pipeline.steps.step import Page, Run, step
from pipeline.storage.checked import read_batches
from pipeline.storage.location import Files, Location
from pipeline.watching import counting

__all__ = ["TDMREP_LIVE", "AskForTdmrep", "Reservations", "TdmrepHosts", "ask_hosts", "hosts_to_ask", "reservations"]

TDMREP_LIVE = "tdmrep_live"
"""The step that asks."""
_ROWS_PER_FLUSH = 200_000
_BATCH_ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class TdmrepHosts(Task[Blocks]):
    """The hosts of a block of staging shards."""

    missing: Files
    partitions: int

    def work(self, out: Blocks) -> Info:
        known: dict[str, bool] = {}
        with ExchangeWriter(out, HOSTS, partitions=self.partitions, rows=_ROWS_PER_FLUSH, by="url_hash") as writer:
            for file in self.missing:
                for batch in read_batches(file, _BATCH_ROWS, ["url"]):
                    writer.add(of_new_hosts(batch["url"].to_pylist(), tdmrep_url_of, known))
        return {"rows": len(known)}


@step("tdmrep_hosts", TdmrepHosts, title="find hosts to ask for tdmrep.json", per="64 shards")
def hosts_to_ask(run: Run, requests: Data[Requests]) -> Iterator[TdmrepHosts]:
    """One task per block of staging shards that miss something."""
    parts = [part for part in requests.parts if part.info["missing"]]
    partitions = num_parts(requests.total("missing"))
    for begin in range(0, len(parts), SHARDS_PER_TASK):
        block = parts[begin : begin + SHARDS_PER_TASK]
        missing = Files(part.files.missing for part in block)
        yield TdmrepHosts(partition=f"from-{block[0].name}", missing=missing, partitions=partitions)


@dataclass(frozen=True, kw_only=True)
class Reservations:
    """The tdmrep.json files of a hash partition's hosts that reserve something, mapped by their URLs."""

    urls: Location = output("urls.npy")
    places: Location = output("places.npy")
    texts: Location = output("texts.npy")

    @staticmethod
    def table(data: Data[Reservations]) -> TableFiles:
        """What the finished step wrote."""
        return TableFiles(
            urls=data.files(lambda out: out.urls),
            places=data.files(lambda out: out.places),
            texts=data.files(lambda out: out.texts),
        )


@dataclass(frozen=True, kw_only=True)
class AskForTdmrep(Task[Reservations]):
    """Ask the hosts of a hash partition."""

    hosts: Exchanged
    number: int
    """Of the hash partition."""
    plan: str
    """Of the URLs to request: those of another plan are a later run's."""
    retry: int
    """The number of the last retry that was begun."""
    config: FetchConfig = apart()

    @property
    def needs(self) -> Needs:
        return Needs(cpus=self.config.cpus)

    def work(self, out: Reservations) -> Info:
        urls: set[str] = set()
        for batch in read_blocks(self.hosts, self.number):
            urls.update(batch["url"].to_pylist())
        tally = counting("host", total=len(urls), kept_as="answered")
        found: dict[int, str] = {}
        for url, text in ask_for_tdmrep(sorted(urls), self.config, RunWide(names=machine_directory())):
            tally.done += 1
            tally.kept += text is not None
            if text:
                found[robots_hash(url)] = text
        hashes = np.array(sorted(found), np.uint64)
        write_table(out.urls.local, out.places.local, out.texts.local, hashes, [found[key] for key in sorted(found)])
        return {"asked": len(urls), "reserve": len(found)}


@step(TDMREP_LIVE, AskForTdmrep, title="ask hosts for tdmrep.json", per="hash partition")
def ask_hosts(run: Run, hosts: Data[Blocks], requests: Data[Requests], config: FetchConfig) -> Iterator[AskForTdmrep]:
    """One task per hash partition, if any host is to be asked."""
    if not hosts.parts or not hosts.total("rows"):
        return
    blocks = Exchanged.of(hosts)
    plan = Files(part.files.missing for part in requests.parts if part.info["missing"]).digest
    for number in range(num_parts(requests.total("missing"))):
        yield AskForTdmrep(
            partition=f"part-{number:05d}",
            hosts=blocks,
            number=number,
            plan=plan,
            retry=retries_of(run.output).number,
            config=config,
        )


def reservations(
    page: Page, requests: Data[Requests], config: FetchConfig, consent: ConsentConfig
) -> Data[Reservations] | None:
    """The steps that ask every host for its tdmrep.json; None where it is not honoured."""
    if not consent.honours("tdmrep_json"):
        return None
    return page.add(ask_hosts(page.add(hosts_to_ask(requests)), requests, config))

"""host_urls, heavy_hosts: the URLs that will be requested -> the hosts with many of them, of which all tasks of the run
share one limit.

    missing of 64 staging shards --host_urls--> URLs a host --heavy_hosts, all together--> hosts with `heavy_host_urls`

The set's order is random and stays so: every task has some of a heavy host's URLs. So no task can keep a limit for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine import WORKER_MB, Data, Info, Needs, Task, output
from pipeline.steps.fetch.requests import Requests
from pipeline.steps.step import Run, step
from pipeline.storage.checked import check, read_table
from pipeline.storage.duck import open_duckdb, spill_beside
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import write_parquet

__all__ = ["HOST_URLS", "CountHosts", "FindHeavyHosts", "HeavyHosts", "HostUrls", "count_hosts", "find_heavy_hosts"]

HOST_URLS = pa.schema([pa.field("host", pa.string(), nullable=False), pa.field("urls", pa.int64(), nullable=False)])
"""Hosts, and how many URLs of each are to be requested."""
_SHARDS_PER_TASK = 64
_MEMORY_MB = 1000
_HOST = r"^(?i:https?)://(?:[^/?#@]*@)?(?P<host>\[[^\]/?#]*\]|[^/?#:]*)"
"""Of a URL in the column's own spelling (`web/urls.py`). One in another spelling goes uncounted, or by another name:
its host is a heavy one all the same."""


@dataclass(frozen=True, kw_only=True)
class HostUrls:
    """The hosts of a block of staging shards."""

    hosts: Location = output("hosts.parquet", HOST_URLS)


@dataclass(frozen=True, kw_only=True)
class HeavyHosts:
    """The hosts with many URLs, the heaviest first. The part tells how many there are, `rows`, their `urls`, and the
    `first` with its `first_urls`."""

    heavy: Location = output("heavy.parquet", HOST_URLS, view="heavy_hosts")


@dataclass(frozen=True, kw_only=True)
class CountHosts(Task[HostUrls]):
    """Count the missing URLs of a block of staging shards by host."""

    missing: Files

    def work(self, out: HostUrls) -> Info:
        hosts = [_hosts_in(read_table(file, ["url"])["url"]) for file in self.missing]
        counts = pa.chunked_array(hosts).value_counts()
        columns = [counts.field("values"), counts.field("counts")]
        table = pa.Table.from_arrays(columns, schema=HOST_URLS).sort_by("host")
        return {"rows": write_parquet(out.hosts.local, table, HOST_URLS)}


def _hosts_in(urls: pa.ChunkedArray) -> pa.Array:
    found = pc.extract_regex(urls.combine_chunks(), _HOST)
    return pc.utf8_lower(pc.utf8_trim(pc.drop_null(pc.struct_field(found, "host")), "[]"))  # as urlsplit() has it


@dataclass(frozen=True, kw_only=True)
class FindHeavyHosts(Task[HeavyHosts]):
    """Add the counts up, and keep the hosts with `least` URLs."""

    hosts: Files
    least: int

    needs = Needs(memory_mb=WORKER_MB + _MEMORY_MB)

    def work(self, out: HeavyHosts) -> Info:
        path = out.heavy.local
        with open_duckdb(spill_beside(path), memory_mb=_MEMORY_MB) as database:
            database.from_parquet([check(file) for file in self.hosts]).create_view("hosts")
            found = database.sql(
                "SELECT host, sum(urls)::BIGINT AS urls FROM hosts GROUP BY host "
                f"HAVING sum(urls) >= {self.least} ORDER BY urls DESC, host"
            ).to_arrow_table()
        rows = write_parquet(path, found.cast(HOST_URLS), HOST_URLS)
        first = found.slice(0, 1).to_pylist()
        about = {"first": first[0]["host"], "first_urls": first[0]["urls"]} if first else {}
        return {"rows": rows, "urls": pc.sum(found["urls"]).as_py() or 0, **about}


@step("host_urls", CountHosts, title="count URLs a host", per="64 shards")
def count_hosts(run: Run, requests: Data[Requests]) -> Iterator[CountHosts]:
    """One task per block of staging shards that miss something."""
    parts = [part for part in requests.parts if part.info["missing"]]
    for begin in range(0, len(parts), _SHARDS_PER_TASK):
        block = parts[begin : begin + _SHARDS_PER_TASK]
        yield CountHosts(partition=f"from-{block[0].name}", missing=Files(part.files.missing for part in block))


@step("heavy_hosts", FindHeavyHosts, title="find heavy hosts", per="set")
def find_heavy_hosts(run: Run, hosts: Data[HostUrls], least: int) -> Iterator[FindHeavyHosts]:
    """One task, if anything is missing."""
    if hosts.parts:
        yield FindHeavyHosts(partition="all", hosts=hosts.files(lambda out: out.hosts), least=least)

"""Which hosts are heavy: counted over what is still to be requested, and told."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.commands import main
from pipeline.engine import Data, Done, EngineConfig, open_engine
from pipeline.records.ledger_config import LedgerConfig
from pipeline.steps.fetch.heavy_hosts import HOST_URLS, count_hosts, find_heavy_hosts
from pipeline.steps.fetch.requests import MISSING, Requests
from pipeline.steps.step import Page
from pipeline.storage.checked import digest_of
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.pages import run_page
from tests.pipeline.small_run import SmallRun, picture


def requests_of(output: Path, shards: list[list[str]]) -> Data[Requests]:
    """As if each of `shards` missed these URLs."""
    requests = Data("requests", Requests)
    requests.directory = output / "work/requests"
    requests.directory.mkdir(parents=True)
    records = []
    for number, urls in enumerate(shards):
        rows = [{"url_id": bytes(16), "url": url, "retry": 0} for url in urls]
        outputs = {}
        for kind, table in (("missing", pa.Table.from_pylist(rows, MISSING)), ("known", pa.table({"a": [1]}))):
            path = requests.directory / f"{number:05d}.{kind}.parquet"
            pq.write_table(table, path)
            outputs[path.name] = digest_of(path)
        records.append(Done(partition=f"{number:05d}", key="", outputs=outputs, info={"missing": len(urls)}))
    requests.finish(records)
    return requests


def heavy_of(output: Path, shards: list[list[str]], least: int) -> list[tuple[str, int]] | None:
    page = Page(output, seed=0, ledger=LedgerConfig())
    counts = page.add(count_hosts(requests_of(output, shards)))
    heavy = page.add(find_heavy_hosts(counts, least))
    with open_engine(EngineConfig(kind="inline")) as engine:
        run_page(page, engine)
    if not heavy.parts:
        return None
    table = pq.read_table(heavy.only.files.heavy.local)
    assert table.schema.equals(HOST_URLS)
    assert heavy.only.info["urls"] == sum(table["urls"].to_pylist())
    return [(row["host"], row["urls"]) for row in table.to_pylist()]


def test_hosts_are_counted_over_all_shards(tmp_path: Path) -> None:
    shards = [
        ["http://a.example/1", "https://a.example:8080/2", "http://b.example/1"],
        ["HTTPS://user@A.example/3?x=http://c.example/", "http://[2001:db8::1]:80/1", "http://b.example"],
        [],
        ["http://[2001:db8::1]/2", "http://c.example#a.example", "nothing"],
    ]
    assert heavy_of(tmp_path / "two", shards, 2) == [("a.example", 3), ("2001:db8::1", 2), ("b.example", 2)]
    assert heavy_of(tmp_path / "three", shards, 3) == [("a.example", 3)]
    assert heavy_of(tmp_path / "four", shards, 4) == []


def test_many_shards_are_counted_in_blocks(tmp_path: Path) -> None:
    shards = [["http://a.example/x", f"http://{i}.example/"] for i in range(70)]
    assert heavy_of(tmp_path, shards, 70) == [("a.example", 70)]
    assert len(list((tmp_path / "work/host_urls").glob("*.parquet"))) == 2


def test_where_nothing_is_missing_nothing_is_counted(tmp_path: Path) -> None:
    assert heavy_of(tmp_path, [[], []], 1) is None


def test_a_run_counts_tells_and_asks_for_nothing_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [f"/{i}.jpg" for i in range(8)]
    with LoopbackServer({path: text(picture(i)) for i, path in enumerate(paths)}) as server:
        small = SmallRun.make(tmp_path, server, paths)
        config = yaml.safe_load(small.config.read_text())
        config["fetch"] |= {"heavy_host_urls": 8, "heavy_host_rate": 100.0}
        small.config.write_text(yaml.safe_dump(config))
        assert small.run() == 0
        published = small.published()
        capsys.readouterr()
        assert main(["status", str(small.config)]) == 0
        told = capsys.readouterr().out
        assert "heavy hosts: 1, with 8 URLs to request" in told
        assert "a.localhost with 8 takes 0:00:00 at the least" in told
        assert main(["sql", str(small.output), "SELECT host, urls FROM heavy_hosts"]) == 0
        assert "a.localhost" in capsys.readouterr().out
        # Other manners ask for nothing that is known.
        config["fetch"] |= {"heavy_host_urls": 0, "max_crawl_delay_s": 0.0, "heavy_host_concurrency": 1}
        small.config.write_text(yaml.safe_dump(config))
        assert small.run() == 0
        assert small.published() == published
        assert len(server.requests) == len(paths)

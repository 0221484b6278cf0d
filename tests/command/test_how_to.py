"""docs/how-to: the commands of each page are run as they stand, over what the test makes. Those of cluster.md are run
on a bucket by tests/pipeline/test_docs_bucket.py."""

from __future__ import annotations

import gzip
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from configs.load import load
from configs.presets import preset
from openwit.command import main
from pipeline.sample_web import SampleWebConfig, build_sample_web
from query_list.config import BuildConfig
from tests.conftest import REPOSITORY
from tests.pipeline.img2dataset_directory import jpeg, reasons_of, row, samples_of, write_directory
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import picture
from tests.ports import free_port

PAGES = REPOSITORY / "docs" / "how-to"
CAPTIONS = ("a red house by the river", "an old dog on the kitchen floor", "two children who play with a ball")


def _blocks(page: str, language: str) -> list[str]:
    text = (PAGES / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


class Reader:
    """Who follows a page in a directory of their own; in this process, so that Python starts once."""

    def __init__(self, work: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.work, self._capture = work, capture

    def follow(self, script: str, *more: str) -> str:
        """What the commands print; each ends with 0. `more` words go to those that build."""
        told = ""
        for line in script.splitlines():
            program, *words = shlex.split(line)
            assert program == "openwit", line
            words, to = (words[:-2], words[-1]) if ">" in words else (words, None)
            self._capture.readouterr()
            status = main([*words, *(more if words[0] in ("plan", "shards") else ())])
            printed = self._capture.readouterr()
            assert status == 0, f"{line}: {printed.err}"
            if to is not None:
                (self.work / to).write_text(printed.out)
            told += printed.out
        return told


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Reader:
    monkeypatch.chdir(tmp_path)
    return Reader(tmp_path, capsys)


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer({f"/{n}": text(picture(n)) for n in range(8)}) as server:
        yield server


def _links(server: LoopbackServer, numbers: Sequence[int]) -> list[dict[str, Any]]:
    return [{"pic": server.url(f"/{n}"), "words": CAPTIONS[n % 3], "score": n / 8} for n in numbers]


@pytest.mark.timeout(300)
def test_table_of_your_own(reader: Reader, server: LoopbackServer) -> None:
    (config,) = map(yaml.safe_load, _blocks("own-table.md", "yaml"))
    assert list(config)[:2] == ["sources", "extract"]
    config["fetch"] |= {"allow_addresses": [f"127.0.0.0/8:{server.port}"], "retries": 0}
    config |= {"image": {"min_side": 1, "image_size": 32, "isolate": "none"}, "engine": {"kind": "inline"}}
    (reader.work / "mine.yaml").write_text(yaml.safe_dump(config))
    (reader.work / "my-queries.txt").write_text("red\ndog\nchildren\n")
    (reader.work / "my-links").mkdir()
    for name, numbers in (("a", range(4)), ("b", range(4, 8))):
        pq.write_table(pa.Table.from_pylist(_links(server, numbers)), reader.work / "my-links" / f"{name}.parquet")
    told = reader.follow("".join(_blocks("own-table.md", "sh")))
    assert "final_balance" in told
    assert len(samples_of(reader.work / "data/pilot")) == 4
    samples = samples_of(reader.work / "data/mine")
    assert len(samples) == 8
    assert '"score"' in samples[0]["extra"]
    assert (reader.work / "data/mine/report.html").is_file()


@pytest.mark.timeout(300)
def test_common_crawl(reader: Reader) -> None:
    """The sample's archives and its encyclopedia stand in for the crawl and Wikipedia."""
    port = free_port()
    build_sample_web(SampleWebConfig(path=str(reader.work / "data/sample_web"), links=200, port=port))
    wat = sorted((reader.work / "data/sample_web/wat").iterdir())
    (reader.work / "wat.paths.gz").write_bytes(gzip.compress("".join(f"{path}\n" for path in wat).encode()))
    wikipedia = preset("queries", "wikipedia")
    assert wikipedia is not None
    output = load(BuildConfig, wikipedia).output
    sample = preset("shards", "sample")
    assert sample is not None
    fetch = yaml.safe_load(sample.read_text())["fetch"]
    fetch |= {"allow_addresses": [f"127.0.0.0/8:{port}"], "retries": 0, "timeout_s": 1, "low_speed_time_s": 1}
    own = {"sources": ["wat.paths.gz"], "sample_web": "data/sample_web", "engine": {"kind": "inline"}, "fetch": fetch}
    queries, config, runs, limits = _blocks("common-crawl.md", "sh")
    build = "openwit queries wikipedia\n"
    assert queries.startswith(build)
    reader.follow(queries.replace(build, f"openwit queries sample --output {output}\n"))
    reader.follow(config)
    mine = yaml.safe_load((reader.work / "mine.yaml").read_text())
    assert mine["queries"] == output
    (reader.work / "mine.yaml").write_text(yaml.safe_dump({**mine, **own, "texts": {"partitions": 1}}))
    told = reader.follow(runs + limits)
    assert "final_balance" in told
    assert len({sample["source"] for sample in samples_of(reader.work / "data/wit")}) == 2
    assert (reader.work / "data/wit/report.html").is_file()


@pytest.mark.timeout(300)
def test_shards_of_img2dataset(reader: Reader) -> None:
    rows = [row(n, f"https://a.example/{n}.jpg", CAPTIONS[n % 3], jpeg(n) if n else None) for n in range(9)]
    write_directory(reader.work / "again", 0, rows)
    (reader.work / "my-queries.txt").write_text("red\ndog\nchildren\n")
    *pages, again = _blocks("img2dataset.md", "sh")
    reader.follow("".join(pages), "--engine.kind", "inline")
    assert len(samples_of(reader.work / "data/curated")) == 8
    assert reasons_of(reader.work / "data/curated")["extract", "no_picture"] == 1
    reader.follow(again, "--engine.kind", "inline")
    assert len(samples_of(reader.work / "data/curated")) == 6


def test_no_page_is_longer_than_a_screen_or_two() -> None:
    for page in PAGES.glob("*.md"):
        assert len(page.read_text(encoding="utf-8").splitlines()) <= 80, page.name

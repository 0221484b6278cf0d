"""One source that cannot be read costs itself; many of them stop the run; all are asked again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.commands import main
from pipeline.storage.atomic import read_json
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture

NUM_SOURCES = 10


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer({f"/{i}": text(picture(i)) for i in range(NUM_SOURCES)}) as server:
        yield server


@pytest.fixture
def small(tmp_path: Path, server: LoopbackServer) -> SmallRun:
    """A run over ten sources of one link each, of which two may be unreadable."""
    small = SmallRun.make(tmp_path, server, [f"/{i}" for i in range(NUM_SOURCES)])
    table = pq.read_table(tmp_path / "links.parquet")
    for i in range(NUM_SOURCES):
        pq.write_table(table.slice(i, 1), tmp_path / f"source-{i}.parquet")
    config = yaml.safe_load(small.config.read_text())
    config |= {"sources": [str(tmp_path / "source-*.parquet")], "max_bad_sources": 0.2}
    small.config.write_text(yaml.safe_dump(config))
    return small


def damage(small: SmallRun, *numbers: int) -> dict[int, bytes]:
    """Cut off the ends of sources; returns them as they were."""
    before = {}
    for number in numbers:
        path = small.root / f"source-{number}.parquet"
        before[number] = path.read_bytes()
        path.write_bytes(before[number][:-20])
    return before


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))


def sources_line(small: SmallRun) -> dict[str, object]:
    ledger = read_json(small.output / "ledger.json")
    return next(line for line in ledger["lines"] if line["unit"] == "source")


def test_few_are_counted_with_their_names_and_asked_again(small: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert small.run() == 0
    whole = small.published()
    whole_line = sources_line(small)
    assert (whole_line["rows_in"], whole_line["kept"], whole_line["rejected"]) == (10, 10, {})

    before = damage(small, 3, 7)
    assert small.run() == 0
    assert small.samples() == [f"/{i}" for i in range(NUM_SOURCES) if i not in (3, 7)]
    line = sources_line(small)
    assert (line["rows_in"], line["kept"], line["rejected"]) == (10, 8, {"unreadable_source": 2})
    capsys.readouterr()
    query = "SELECT source, detail FROM rejections WHERE reason = 'unreadable_source' ORDER BY source"
    assert main(["sql", str(small.output), query, "--format", "csv"]) == 0
    told = capsys.readouterr().out
    assert "source-3.parquet" in told
    assert "its end is missing" in told

    assert small.run("--retry-failed") == 0, "asked again, in vain"
    assert len(small.samples()) == 8
    for number, data in before.items():
        (small.root / f"source-{number}.parquet").write_bytes(data)
    assert small.run() == 0, "a file that changed is read in any case"
    assert small.published() == whole


def test_source_behind_a_server_is_asked_again_by_a_retry_alone(
    small: SmallRun, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.web.remote.time.sleep", lambda _: None)
    config = yaml.safe_load(small.config.read_text())
    config["sources"] += [server.url("/more.parquet")]
    small.config.write_text(yaml.safe_dump(config))
    assert small.run() == 0
    assert sources_line(small)["rejected"] == {"unreadable_source": 1}, "HTTP 404"
    table = pq.read_table(small.root / "source-0.parquet")
    caption = pa.array(["another dog in the snow"])
    pq.write_table(
        table.set_column(1, "alt", caption).set_column(0, "url", pa.array([server.url("/new")])), small.root / "m"
    )
    server.routes["/new"] = text(picture(99))
    server.routes["/more.parquet"] = text((small.root / "m").read_bytes())
    assert small.run() == 0
    assert len(small.samples()) == 10, "its record stands"
    assert small.run("--retry-failed") == 0
    assert len(small.samples()) == 11
    assert sources_line(small)["rejected"] == {}
    assert small.run("--retry-failed") == 0
    assert len(small.samples()) == 11


def test_too_many_stop_the_run_and_are_read_by_the_next(small: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    before = damage(small, 2, 5, 8)
    assert small.run() == 2
    assert "source-2.parquet: not a Parquet file, or its end is missing" in error_of(capsys)
    archives = [small.root / f"{i}.warc.wat.gz" for i in range(5)]
    for archive in archives:
        archive.write_bytes(b"no archive")
    assert small.run("--sources", str([*map(str, archives)]), "--max_bad_sources", "1") == 2
    assert "3 of 5 sources cannot be read so far" in error_of(capsys), "the first three, with nothing read before"
    for number, data in before.items():
        (small.root / f"source-{number}.parquet").write_bytes(data)
    assert small.run() == 0
    assert len(small.samples()) == 10


def test_missing_column_is_told_before_anything_is_made(small: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert small.run("--extract.text_columns", "[words]") == 2
    assert "no column named words" in error_of(capsys)
    assert not (small.output / "work").exists()


def test_list_may_name_a_few_files_in_vain(small: SmallRun) -> None:
    names = [f"source-{i}.parquet" for i in range(9)]
    (small.root / "few.paths").write_text("\n".join([*names, "gone.parquet"]))
    assert small.run("--sources", f"[{small.root}/few.paths]") == 0
    assert len(small.samples()) == 9
    assert sources_line(small)["rejected"] == {"unreadable_source": 1}

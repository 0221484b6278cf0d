"""Sources are read and their links judged in one pass: what it gives is what two steps give, whole or cut."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from configs.load import load
from pipeline.api import Pipeline
from pipeline.catalog.catalog import open_catalog
from pipeline.commands import main
from pipeline.config import WitConfig
from pipeline.consent.signals import PageSignals
from pipeline.errors import InputError
from pipeline.questions.explain import UnknownLinkError, explain
from pipeline.records.outcome import Outcome
from pipeline.stages.extract import ExtractConfig, Stretch
from pipeline.stages.stage import Stage
from pipeline.steps import extract
from pipeline.steps.match_links import MatchLinks
from pipeline.wit import build, sources_of
from tests.pipeline.archives import members, warc_record, wat_block
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture

PATHS = [f"/{i}" for i in range(12)]
TWO = ("--texts.keep_candidates", "true")
CUT = ("--texts.table_bytes_per_task", "700", "--texts.archive_bytes_per_task", "1000")


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer({path: text(picture(i)) for i, path in enumerate(PATHS)}) as server:
        yield server


@pytest.fixture
def small(tmp_path: Path, server: LoopbackServer) -> SmallRun:
    """A run over a table of many row groups, an archive, and a file that is none; every stage rejects something."""
    small = SmallRun.make(tmp_path, server, PATHS)
    rows = pq.read_table(tmp_path / "links.parquet").to_pylist() * 3
    for number, alt in ((1, ""), (4, "x"), (7, "der Hund schläft auf dem alten Sofa in der Küche"), (9, "cats sleep")):
        rows[number] |= {"alt": alt}
    rows[5] |= {"url": "mailto:nobody"}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "links.parquet", row_group_size=4)
    links = [{"url": server.url(path), "alt": f"a dog that looks at picture {path[1:]}"} for path in PATHS]
    records = [warc_record(b"", kind="warcinfo"), *(warc_record(wat_block([link, {"url": "/x"}])) for link in links)]
    (tmp_path / "pages.warc.wat.gz").write_bytes(b"".join(members(records)))
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    config = yaml.safe_load(small.config.read_text())
    config |= {
        "sources": [str(tmp_path / name) for name in ("links.parquet", "pages.warc.wat.gz", "bad.parquet")],
        "max_bad_sources": 0.4,
        "dedup": {"by": "pair"},
    }
    small.config.write_text(yaml.safe_dump(config))
    return small


def ledger(small: SmallRun) -> list[dict[str, Any]]:
    return json.loads((small.output / "ledger.json").read_text())["lines"]


def rejections(small: SmallRun) -> list[str]:
    files = [path for step in ("extract", "texts") for path in (small.output / "work" / step).glob("*.rejections.*")]
    return sorted(repr(row) for path in files for row in pq.read_table(path).to_pylist())


def matched(small: SmallRun) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (small.output / "work" / "texts").glob("*.matched.parquet")}


def rows_of(small: SmallRun) -> list[str]:
    files = (small.output / "work" / "texts").glob("*.matched.parquet")
    return sorted(repr(row) for path in files for row in pq.read_table(path).to_pylist())


def test_one_pass_gives_what_two_steps_give_to_the_byte(small: SmallRun, server: LoopbackServer) -> None:
    assert small.run(*TWO) == 0
    assert {line["stage"] for line in ledger(small) if line["rejected"]} >= {"extract", "clean", "language", "match"}
    assert next(line for line in ledger(small) if line["unit"] == "source")["rejected"] == {"unreadable_source": 1}
    lines, turned_away, rows, published = ledger(small), rejections(small), matched(small), small.published()
    asked = len(server.requests)
    exchanged = (small.output / "work" / "exchange" / "done" / "00000.json").stat().st_mtime_ns
    assert small.run("--texts.batch_rows", "5", "--extract.batch_rows", "3") == 0
    assert (ledger(small), rejections(small)) == (lines, turned_away)
    assert (matched(small), small.published()) == (rows, published)
    assert not (small.output / "work" / "extract").exists()
    assert len(server.requests) == asked, "the pictures are known"
    assert (small.output / "work" / "exchange" / "done" / "00000.json").stat().st_mtime_ns == exchanged


def test_sources_in_parts_give_what_whole_ones_give(small: SmallRun) -> None:
    assert small.run() == 0
    lines, turned_away, rows, published = ledger(small), rejections(small), rows_of(small), small.published()
    num_files = len(matched(small))
    for words in (CUT, (*CUT, *TWO)):
        assert small.run(*words) == 0
        assert len(matched(small)) > num_files + 2
        assert (ledger(small), rejections(small), rows_of(small)) == (lines, turned_away, rows)
        assert small.published() == published
    assert main(["status", str(small.output)]) == 0


def test_row_groups_of_matched_are_full_whatever_the_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.records.ledger import Ledger
    from pipeline.records.ledger_config import LedgerConfig
    from pipeline.records.schema import CANDIDATES
    from pipeline.steps import judge_links

    monkeypatch.setattr(judge_links, "_ROW_GROUP_ROWS", 10)
    monkeypatch.setattr(judge_links, "_judge", lambda batch, stages, ledger: batch)
    monkeypatch.setattr(judge_links, "MATCHED", CANDIDATES)
    texts = dict.fromkeys(("text_source", "source", "alt_text", "url"), "a")
    ids = dict.fromkeys(("uid", "url_id"), bytes(16))
    rows = [dict.fromkeys(CANDIDATES.names) | texts | ids | {"record": i, "link": 0} for i in range(35)]
    whole = pa.RecordBatch.from_pylist(rows, schema=CANDIDATES)
    files = []
    for size in (1, 9, 10, 11, 35):
        path = tmp_path / f"{size}.parquet"
        batches = [whole.slice(at, size) for at in range(0, 35, size)]
        ledger = Ledger(tmp_path / "rejections.parquet", LedgerConfig())
        assert judge_links.write_matched(path, batches, [], ledger) == 35
        files.append(path.read_bytes())
    assert len(set(files)) == 1
    assert pq.ParquetFile(path).metadata.num_row_groups == 4


def test_part_that_cannot_be_read_counts_with_its_source(small: SmallRun) -> None:
    bad = small.root / "bad.parquet"
    bad.write_bytes((small.root / "links.parquet").read_bytes()[:-20])
    assert small.run(*CUT) == 0
    assert len(list((small.output / "work" / "texts").glob("bad-*.matched.parquet"))) > 2
    line = next(line for line in ledger(small) if line["unit"] == "source")
    assert (line["rows_in"], line["rejected"]) == (3, {"unreadable_source": 1})


@pytest.mark.parametrize("first", [True, False])
def test_source_of_which_a_part_alone_cannot_be_read_stops_the_run_and_is_read_by_the_next(
    small: SmallRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    real = extract.extract

    def fails(
        path: str, config: ExtractConfig, signals: PageSignals, *, format: str, stretch: Stretch
    ) -> Iterator[Outcome]:
        if path.endswith("links.parquet") and stretch.is_first == first:
            raise InputError(f"{path}: gone")
        return real(path, config, signals, format=format, stretch=stretch)

    words = (*CUT, "--sources", f"[{small.root}/links.parquet]", "--max_bad_sources", "1")
    monkeypatch.setattr(extract, "extract", fails)
    assert small.run(*words) == 2
    assert "links.parquet: gone (other parts of this source could be read" in capsys.readouterr().err
    monkeypatch.setattr(extract, "extract", real)
    assert small.run(*words) == 0
    assert next(line for line in ledger(small) if line["unit"] == "source")["kept"] == 1


@dataclass(frozen=True, kw_only=True)
class _Fails(Stage):
    """A stage of one's own that misses a file of its own."""

    name: ClassVar[str] = "fails"
    reasons: ClassVar[Mapping[str, str]] = {"never": "it never comes to that"}

    def judge(self, batch: pa.RecordBatch) -> Outcome:
        raise InputError("blocked.txt: no such file")


def test_what_a_stage_cannot_read_is_no_unreadable_source(small: SmallRun) -> None:
    with pytest.raises(InputError, match=r"blocked\.txt"):
        Pipeline(small.config).judge_links(_Fails()).run()


def test_run_that_was_stopped_in_a_table_reads_the_rest_of_it_alone(
    small: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = MatchLinks.work, []

    def stops(task: MatchLinks, out: Any) -> Any:
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append(task.part.name)
        return real(task, out)

    def sees(task: MatchLinks, out: Any) -> Any:
        seen.append(task.part.name)
        return real(task, out)

    table = ("--sources", f"[{small.root}/links.parquet]", *CUT)
    monkeypatch.setattr(MatchLinks, "work", stops)
    assert small.run(*table) == 130
    monkeypatch.setattr(MatchLinks, "work", sees)
    assert small.run(*table) == 0
    assert len(seen) == len(set(seen)) > 6, "none twice"
    monkeypatch.setattr(MatchLinks, "work", real)
    published = small.published()
    assert small.run("--sources", f"[{small.root}/links.parquet]") == 0
    assert small.published() == published


def test_table_of_many_row_groups_is_many_tasks_and_an_archive_of_a_crawl_is_one(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "url": [f"https://images{i % 977}.example.org/photos/{i * 7919}/picture-{i}.jpg" for i in range(200_000)],
            "text": [f"photograph number {i * 31} of the {i % 613} garden" for i in range(200_000)],
        }
    )
    pq.write_table(rows, tmp_path / "large.parquet", row_group_size=10_000)
    pq.write_table(rows.slice(0, 1_000), tmp_path / "small.parquet")
    for name, size in (("cc.warc.wat.gz", 400 << 20), ("huge.parquet", 40 << 30)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    config = load(
        WitConfig,
        None,
        [f"--sources=[{tmp_path}/*.*]", "--queries=q.txt", "--output=set", "--fetch.user_agent=test (+http://a.b)"],
    )
    page = build(config)
    parts = list(sources_of(config).parts(page.run))
    of = {name: [part for part in parts if name in part.source] for name in ("large", "small", "cc", "huge")}
    assert (len(of["small"]), len(of["cc"])) == (1, 1)
    assert len(of["large"]) >= 4
    assert len(of["huge"]) == 256
    sizes = [(part.stretch.end or 1 << 40) - part.stretch.begin for part in of["large"]][:-1]
    assert max(sizes) - min(sizes) <= 1
    assert len({part.name for part in parts}) == len(parts)


# --- max_rows ---------------------------------------------------------------------------------------


def test_max_rows_reads_the_start_of_each_source_and_counts_it(small: SmallRun) -> None:
    for words in (TWO, CUT):
        assert small.run("--max_rows", "6", *words) == 0
        records = next(line for line in ledger(small) if (line["stage"], line["unit"]) == ("extract", "record"))
        assert records["rows_in"] == 12, "six rows of the table, six records of the archive"
        assert all(line["rows_in"] == line["kept"] + sum(line["rejected"].values()) for line in ledger(small))
        assert sorted({json.loads(row.replace("'", '"'))["record"] for row in _of_table(small)}) == [0, 2, 3]
    assert small.run("--max_rows", "0") == 2


def _of_table(small: SmallRun) -> list[str]:
    files = (small.output / "work" / "texts").glob("links-parquet-*.matched.parquet")
    return [str({"record": row["record"]}) for path in files for row in pq.read_table(path).to_pylist()]


# --- those who look ---------------------------------------------------------------------------------


def test_who_asks_for_candidates_that_were_not_kept_is_told_so(
    small: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert small.run() == 0
    with open_catalog(small.output) as database:
        for query in ("count(*) FROM candidates", "url FROM candidates WHERE url = 'x'"):
            with pytest.raises(duckdb.InvalidInputException, match=r"candidates is not kept: .*keep_candidates true"):
                database.execute(f"SELECT {query}").fetchall()
        columns = [row[0] for row in database.execute("DESCRIBE candidates").fetchall()]
        assert columns[:4] == ["uid", "url_id", "url", "alt_text"]
        turned_away = database.execute("SELECT lower(hex(uid)) FROM rejections WHERE stage = 'language'").fetchall()
    assert main(["sql", str(small.output), "SELECT * FROM candidates"]) == 2
    assert "--texts.keep_candidates true" in capsys.readouterr().err
    stories = explain(small.output, uid=turned_away[0][0])
    verdicts = {verdict.stage: verdict.verdict for verdict in stories[0].verdicts}
    assert (verdicts["extract"], verdicts["clean"], verdicts["language"]) == ("kept", "kept", "rejected")
    with pytest.raises(UnknownLinkError, match=r"the uid alone is known, unless texts.keep_candidates"):
        explain(small.output, url="http://a.example/unknown")


def test_set_whose_links_lie_in_a_step_of_their_own_is_shown_whole_until_the_next_run(small: SmallRun) -> None:
    assert small.run(*TWO) == 0
    expected = len(rejections(small))
    config = small.output / "config.yaml"  # as an earlier version wrote it, which had no such option
    told = yaml.safe_load(config.read_text())
    del told["texts"]["keep_candidates"]
    config.write_text(yaml.safe_dump(told))
    with open_catalog(small.output) as database:
        assert database.execute("SELECT count(*) FROM candidates").fetchone() == (42,)
        found = "SELECT count(*) FROM rejections WHERE stage IN ('extract', 'clean', 'language', 'match')"
        assert database.execute(found).fetchone() == (expected,)
    published = small.published()
    assert small.run() == 0
    assert not (small.output / "work" / "extract").exists()
    assert small.published() == published
    with open_catalog(small.output) as database:
        assert database.execute(found).fetchone() == (expected,)

"""The catalog's views and named queries, and how results are shown."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.catalog.catalog import NAMED_QUERIES, SqlError, named_query, open_catalog, view_names
from pipeline.catalog.summaries import fresh_summary, write_summaries
from pipeline.commands import main
from pipeline.errors import OutputError
from pipeline.pages import page_of
from pipeline.questions.report import write_report
from pipeline.records.schema import MATCHED
from pipeline.storage.atomic import write_json
from pipeline.storage.checked import digest_of
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture
from tests.pipeline.small_set import make_rows, make_set


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("catalog") / "set"
    make_set(root)
    return root


def _ask(root: Path, query: str) -> list[tuple[Any, ...]]:
    with open_catalog(root) as database:
        return database.sql(query).fetchall()


@pytest.mark.parametrize("view", view_names())
def test_every_view_answers_on_an_empty_data_set(tmp_path: Path, view: str) -> None:
    write_json(tmp_path / "openwit.json", {"layout_version": 1})
    assert _ask(tmp_path, f"SELECT count(*) FROM {view}") == [(0,)]


@pytest.mark.parametrize("name", NAMED_QUERIES)
def test_named_query_runs(small: Path, name: str) -> None:
    assert isinstance(_ask(small, named_query(name)), list)


def test_catalog_leaves_nothing_behind(small: Path) -> None:
    before = sorted(path.name for path in small.iterdir())
    _ask(small, "SELECT * FROM samples ORDER BY caption")
    assert sorted(path.name for path in small.iterdir()) == before


def test_unknown_name_and_foreign_directory_are_told(tmp_path: Path) -> None:
    with pytest.raises(SqlError, match=r"there are .*funnel"):
        named_query("funel")
    with pytest.raises(OutputError, match="no such directory"), open_catalog(tmp_path / "absent"):
        pass


def test_damaged_parquet_is_one_error_that_names_verify(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 40)
    parquet = tmp_path / "set" / "shards" / "00000.parquet"
    parquet.unlink()
    parquet.write_bytes(b"PAR1 nothing")
    with pytest.raises(OutputError, match="pipeline verify"), open_catalog(tmp_path / "set"):
        pass


@pytest.mark.parametrize("num_tasks", [2, 300])
@pytest.mark.parametrize("is_new_at", [0, -1])
def test_step_that_a_later_version_is_going_through_is_read(tmp_path: Path, num_tasks: int, is_new_at: int) -> None:
    write_json(tmp_path / "openwit.json", {"layout_version": 1})
    earlier = pa.schema([field for field in MATCHED if field.name != "lang_by"])
    row = {**dict.fromkeys(MATCHED.names), "url": "http://a.example/"}
    names = [f"{number:03d}.matched.parquet" for number in range(num_tasks)]
    (tmp_path / "work/texts").mkdir(parents=True)
    for name in names:
        schema = MATCHED if name == names[is_new_at] else earlier
        table = pa.Table.from_pylist([row | {"lang_by": "model"}], pa.schema([f.with_nullable(True) for f in schema]))
        pq.write_table(table, tmp_path / "work/texts" / name)
    write_json(
        tmp_path / "work/texts/manifest.json",
        {"tasks": [{"partition": "all", "key": "", "outputs": dict.fromkeys(names, "")}]},
    )
    assert _ask(tmp_path, "SELECT count(*), count(lang_by), count(url) FROM matched") == [(num_tasks, 1, num_tasks)]


# --- hosts ------------------------------------------------------------------------------------


def _hosts() -> list[tuple[str, int, int]]:
    rows = make_rows(150)
    pairs = Counter("big.example" if row["record"] % 3 else "small.example" for row in rows)
    fetched = Counter(
        "big.example" if row["record"] % 3 else "small.example" for row in rows if row["status"] == "success"
    )
    return sorted(((host, pairs[host], fetched[host]) for host in pairs), key=lambda row: (-row[1], row[0]))


def test_hosts_are_without_user_and_port_and_in_lower_case(small: Path) -> None:
    assert [row[:3] for row in _ask(small, named_query("hosts"))] == _hosts()


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://A.b/x@y:z", "a.b"),
        ("https://u:p@a.b:8080/", "a.b"),
        ("http://a.b?x=1", "a.b"),
        ("http://a.b#x", "a.b"),
        ("http://[2001:DB8::1]:80/x", "[2001:db8::1]"),
        ("http://münchen.example/", "münchen.example"),
    ],
)
def test_host_of_a_url(url: str, host: str) -> None:
    import duckdb

    from pipeline.catalog.summaries import SUMMARIES

    rows = f"(SELECT '{url}' AS url, 'success' AS status)"
    assert duckdb.sql(SUMMARIES["hosts"].query.replace("$ROWS", rows)).fetchall() == [(host, 1, 1)]


def test_summary_serves_while_it_is_fresh_and_the_rows_when_it_is_not(tmp_path: Path) -> None:
    root = tmp_path / "set"
    make_set(root)
    write_summaries(page_of(root))
    made = fresh_summary(page_of(root), "hosts")
    assert made is not None
    assert [row[:3] for row in _ask(root, named_query("hosts"))] == _hosts()
    first = made.read_bytes()
    made.unlink()
    write_summaries(page_of(root))
    assert made.read_bytes() == first
    manifest = json.loads((root / "work/fetched/manifest.json").read_text())
    (root / "work/fetched/1.fetched.parquet").write_bytes((root / "work/fetched/0.fetched.parquet").read_bytes())
    manifest["tasks"][0]["outputs"]["1.fetched.parquet"] = digest_of(root / "work/fetched/1.fetched.parquet")
    write_json(root / "work/fetched/manifest.json", manifest)
    assert fresh_summary(page_of(root), "hosts") is None
    doubled = [(host, 2 * pairs, 2 * fetched) for host, pairs, fetched in _hosts()]
    assert [row[:3] for row in _ask(root, named_query("hosts"))] == doubled
    write_summaries(page_of(root))
    assert not made.exists()
    assert [row[:3] for row in _ask(root, named_query("hosts"))] == doubled


# --- results ----------------------------------------------------------------------------------


def _sql(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["sql", *words]) == 0
    return capsys.readouterr().out


def test_bytes_are_hex_and_lists_are_json_in_csv(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = _sql(capsys, str(small), "SELECT uid, [uid] AS uids, query_ids FROM samples ORDER BY uid", "--format", "csv")
    rows = list(csv.reader(io.StringIO(out)))
    assert rows[0] == ["uid", "uids", "query_ids"]
    assert all(len(row[0]) == 32 and json.loads(row[1]) == [row[0]] for row in rows[1:])
    assert all(isinstance(json.loads(row[2]), list) for row in rows[1:])


def test_json_holds_what_sql_has(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = "SELECT unhex('00ff') AS b, 'nan'::FLOAT AS n, DATE '2024-02-03' AS d, {'x': [unhex('01')]} AS s, NULL AS z"
    (row,) = json.loads(_sql(capsys, str(small), query, "--format=json"))
    assert row == {"b": "00ff", "n": None, "d": "2024-02-03", "s": {"x": ["01"]}, "z": None}
    assert json.loads(_sql(capsys, str(small), "SELECT 1 AS a WHERE false", "--format", "json")) == []


def test_table_shows_markup_as_text_and_says_when_it_stops(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "[red]x" in _sql(capsys, str(small), "SELECT '[red]x' AS \"[b]\"")
    assert "and 5 more rows" in _sql(capsys, str(small), "SELECT * FROM range(1005)")


def test_file_is_whole_and_its_name_tells_the_format(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.csv", "a.json", "a.parquet", "a.txt"):
        assert _sql(capsys, str(small), "SELECT uid, caption FROM samples", "--to", str(tmp_path / name)) == ""
    assert (tmp_path / "a.csv").read_text().startswith("uid,caption\n")
    assert len(json.loads((tmp_path / "a.json").read_text())) == pq.read_table(tmp_path / "a.parquet").num_rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.json", "a.parquet", "a.txt"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{set}", "funel"], "no named query 'funel'"),
        (["{set}", "SELECT * FROM nowhere"], "SQL: Catalog Error"),
        (["{set}", "SELECT caption::INT FROM samples"], "SQL: Conversion Error"),
        (["{set}"], "expected CONFIG.yaml or a data set's directory, and"),
        (["{set}", "funnel", "hosts"], "unexpected argument 'hosts'"),
        (["{set}", "funnel", "--format", "xml"], "--format 'xml' is not one of"),
        (["{set}", "funnel", "--format", "parquet"], "needs --to FILE"),
        (["{set}", "funnel", "--fromat", "csv"], "unknown option --fromat"),
        (["{set}", "funnel", "--to"], "--to needs a value"),
        (["{set}", "funnel", "--extend"], "unknown option --extend"),
        (["{set}", "funnel", "--to", "/proc/nowhere/x.csv"], "cannot write"),
        (["{set}/absent", "funnel"], "no data set here"),
    ],
)
def test_mistake_is_one_line(small: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", *(word.replace("{set}", str(small)) for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_unknown_command_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["subsett"]) == 2
    assert "did you mean 'subset'?" in capsys.readouterr().err
    assert main(["xyz"]) == 2
    assert "there are plan, run" in capsys.readouterr().err
    assert main(["--help"]) == 0
    commands = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line and line[0].islower()]
    assert len(commands) == 15
    for command in commands:
        assert main([command, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"python -m pipeline {command} ")


def test_help_of_sql_names_every_view_and_query(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "--help"]) == 0
    told = capsys.readouterr().out
    views, names = told.partition("Views:")[2].split("Names:")
    assert sorted(views.replace(",", " ").split()) == sorted(view_names())
    assert sorted(names.replace(",", " ").split()) == sorted(NAMED_QUERIES)


def test_report_of_a_small_set_is_written(small: Path, tmp_path: Path) -> None:
    write_report(small, tmp_path / "card.html")
    assert '<figure class="sample">' in (tmp_path / "card.html").read_text()


# --- what a user's SQL sees ---------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A Parquet, a text and a database outside the data set."""
    pq.write_table(pa.table({"uid": [b"secret-bytes"]}), tmp_path / "secret.parquet")
    (tmp_path / "secret.csv").write_text("a\nsecret-bytes\n")
    return tmp_path


OUTSIDE = (
    "SELECT * FROM '{dir}/secret.parquet'",
    "SELECT * FROM read_csv('{dir}/secret.csv')",
    "SELECT * FROM read_text('{dir}/secret.csv')",
    "SELECT * FROM read_blob('{set}/../secret.csv')",
    "SELECT * FROM glob('{dir}/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_text('{set}/link')",
    "SELECT * FROM read_parquet('http://127.0.0.1:1/x.parquet')",
    "SELECT * FROM parquet_metadata('{dir}/secret.parquet')",
    "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "SELECT getenv('HOME')",
    "SELECT * FROM tmp_path",
    "FROM duckdb_secrets()",
)
WRITING = (
    "COPY samples TO '{set}/shards/00000.parquet'",
    "COPY samples TO '{dir}/out.csv'",
    "WITH a AS (COPY (SELECT 1) TO '{set}/shards/00000.tar') SELECT * FROM a",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{set}/shards/00000.tar'",
    "EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{set}/shards/00000.tar'",
    "/**/ EXPLAIN/**/ANALYZE COPY (SELECT 1) TO '{set}/shards/00000.tar'",
    "SELECT 1; COPY (SELECT 1) TO '{set}/shards/00000.tar'",
    "SELECT 1) TO '{set}/x.csv'; COPY (SELECT 1",
    "ATTACH '{set}/new.db'",
    "EXPORT DATABASE '{set}/export'",
    "INSTALL httpfs",
    "LOAD '{set}/x.duckdb_extension'",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "RESET allowed_directories",
    "CREATE TABLE t AS SELECT 1",
    "CALL enable_logging()",
    "PRAGMA database_list",
)


@pytest.mark.parametrize("query", OUTSIDE + WRITING)
def test_users_sql_sees_the_data_set_alone_and_writes_nothing(
    small: Path, secret: Path, query: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = secret / "set"
    shutil.copytree(small, root, symlinks=True)
    (root / "link").symlink_to(secret / "secret.csv")
    before = {path: path.read_bytes() for path in secret.rglob("*") if path.is_file()}
    query = query.replace("{set}", str(root)).replace("{dir}", str(secret))
    assert main(["sql", str(root), query, "--format", "csv"]) == 2
    printed = capsys.readouterr()
    assert "secret-bytes" not in printed.out + printed.err
    assert "root:" not in printed.out + printed.err
    assert len(printed.err.splitlines()) == 1
    assert {path: path.read_bytes() for path in secret.rglob("*") if path.is_file()} == before


def test_named_file_is_read_and_any_statement_runs_where_the_user_allows_it(
    small: Path, secret: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = f"SELECT count(*) AS n FROM read_csv('{secret}/secret.csv')"
    assert main(["sql", str(small), query]) == 2
    assert "--allow-files" in capsys.readouterr().err
    assert "1" in _sql(capsys, str(small), query, "--allow-files")
    _sql(capsys, str(small), f"COPY (SELECT 1 AS a) TO '{secret}/out.csv'", "--allow-files")
    assert (secret / "out.csv").read_text() == "a\n1\n"


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 AS n;",
        "FROM (VALUES (1))",
        "DESCRIBE samples",
        "SHOW TABLES",
        "SUMMARIZE samples",
        "EXPLAIN SELECT * FROM samples",
        "explain analyze SELECT count(*) FROM samples",
        "WITH a AS (SELECT uid FROM samples) SELECT count(*) FROM a -- and so on",
        "SELECT * FROM samples ORDER BY caption LIMIT 3",
        "SELECT a.uid, b.uid FROM samples a, samples b LIMIT 1",
        "SELECT * FROM read_parquet('{set}/shards/00000.parquet') LIMIT 1",
    ],
)
def test_reading_in_every_form_still_works(small: Path, query: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _sql(capsys, str(small), query.replace("{set}", str(small)))


def test_every_view_answers_wherever_the_data_set_lies(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(small, tmp_path / "it's here", symlinks=True)  # moved
    (tmp_path / "link").symlink_to("it's here")
    (tmp_path / "places").mkdir()
    (tmp_path / "places" / "up").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path / "places")
    not_asked_for = {"permitted", "robots", "robots_coverage", "robots_live"}  # so they tell instead of answering
    views = [view for view in view_names() if view not in not_asked_for]
    query = "SELECT " + ", ".join(f"(SELECT count(*) FROM {view})" for view in views)
    expected = _sql(capsys, str(small), query, "--format", "csv").splitlines()[1]
    for place in (tmp_path / "it's here", tmp_path / "link", "../link", "up/link", "./../it's here"):
        assert _sql(capsys, str(place), query, "--format", "csv").splitlines()[1] == expected
        assert _sql(capsys, str(place), "SELECT uid FROM samples", "--to", "x.parquet") == ""
        assert pq.read_table("x.parquet").num_rows == len(_samples(small))


def _samples(root: Path) -> list[tuple[Any, ...]]:
    return _ask(root, "SELECT uid FROM samples")


def test_rejections_of_steps_that_an_earlier_version_had_are_there_until_ours_is_done(tmp_path: Path) -> None:
    with LoopbackServer({f"/{i}": text(picture(i)) for i in range(3)}) as server:
        made = SmallRun.make(tmp_path, server, ["/0", "/1", "/2"])
        assert made.run("--filters.min_words", "10") == 0
    count = "SELECT stage, reason, count(*) FROM rejections GROUP BY ALL"
    rejected = _ask(made.output, count)
    assert ("filters", "too_few_words") in {(stage, reason) for stage, reason, _ in rejected}
    work = made.output / "work"
    (work / "judge_pairs").rename(work / "filters")
    assert _ask(made.output, count) == rejected
    shutil.copytree(work / "filters", work / "judge_pairs")
    assert _ask(made.output, count) == rejected, "each once"

"""New shards from old: the same bytes, the right rows, nothing half-done."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.load import ConfigError
from pipeline.catalog.catalog import SqlError, named_query, open_catalog
from pipeline.commands import main
from pipeline.errors import InputError, LockedError, OutputError, PipelineError
from pipeline.questions.explain import explain
from pipeline.questions.verify import verify
from pipeline.records.schema import SAMPLES
from pipeline.sets.export_list import export_list
from pipeline.sets.join import join
from pipeline.sets.subset import subset
from pipeline.sets.subset_config import SubsetConfig
from pipeline.storage.output import open_output
from tests.pipeline.small_set import PER_SHARD, make_set, picture, selects

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rows]:
    root = tmp_path_factory.mktemp("subset") / "set"
    return root, make_set(root)


def _files(root: Path) -> dict[str, str]:
    """sha256 of every file of the published version, config and all."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((root / "shards").iterdir())}


def _rows(root: Path) -> Rows:
    names = [shard["parquet"] for shard in json.loads((root / "shards/manifest.json").read_text())["shards"]]
    return [row for name in names for row in pq.read_table(root / "shards" / name).to_pylist()]


def _check(root: Path, expected: Rows) -> None:
    """The subset is whole, holds exactly `expected` in their order, and every picture is the old one."""
    assert verify(root).damages == []
    rows = _rows(root)
    assert [row["uid"] for row in rows] == [row["uid"] for row in expected]
    own = ("key", "shard", "tar_offset", "selected_by")
    for row, old in zip(rows, expected, strict=True):
        shared = [name for name in row.keys() & old.keys() if name not in own]
        assert {name: row[name] for name in shared} == {name: old[name] for name in shared}
        tar = (root / "shards" / f"{row['shard']:05d}.tar").read_bytes()
        assert tar[row["tar_offset"] : row["tar_offset"] + row["num_bytes"]] == picture(old)


def test_condition_takes_its_rows_and_copies_their_bytes(made: tuple[Path, Rows], tmp_path: Path) -> None:
    source, samples = made
    before = _files(source)
    result = subset(source, SubsetConfig(where="width % 2 = 0 -- and so on", samples_per_shard=20), tmp_path / "out")
    expected = [row for row in samples if row["width"] % 2 == 0]
    _check(tmp_path / "out", expected)
    assert (result.samples, result.shards) == (len(expected), -(-len(expected) // 20))
    sizes = json.loads((tmp_path / "out/shards/sizes.json").read_text()).values()
    assert max(sizes) - min(sizes) <= 1
    assert _files(source) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_all_rows_give_the_shards_that_were_there(made: tuple[Path, Rows], tmp_path: Path) -> None:
    source, samples = made
    assert len(samples) > 2 * PER_SHARD
    subset(source, SubsetConfig(where="true"), tmp_path / "out")
    assert _files(tmp_path / "out") == _files(source)


def test_subset_is_the_same_twice_and_from_a_subset(made: tuple[Path, Rows], tmp_path: Path) -> None:
    source, _ = made
    narrow, wide = SubsetConfig(where="width > 120 AND p_en > 0.6"), SubsetConfig(where="width > 100")
    subset(source, narrow, tmp_path / "a")
    subset(source, narrow, tmp_path / "b")
    subset(source, wide, tmp_path / "wide")
    subset(tmp_path / "wide", narrow, tmp_path / "c")
    assert _files(tmp_path / "a") == _files(tmp_path / "b") == _files(tmp_path / "c")


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(picks=st.sets(st.integers(0, 90), min_size=1), per_shard=st.integers(1, 60))
def test_any_uids_in_any_shard_size(
    made: tuple[Path, Rows], tmp_path_factory: pytest.TempPathFactory, picks: set[int], per_shard: int
) -> None:
    source, samples = made
    root = tmp_path_factory.mktemp("uids")
    chosen = [row for i, row in enumerate(samples) if i in picks]
    if not chosen:
        return
    (root / "uids.txt").write_text("".join(f"{row['uid'].hex().upper()}\n\n" for row in reversed(chosen)))
    subset(source, SubsetConfig(uids=str(root / "uids.txt"), samples_per_shard=per_shard), root / "out")
    _check(root / "out", chosen)


@pytest.mark.parametrize("kind", [pa.binary(16), pa.binary(), pa.string(), pa.large_string()])
def test_uids_from_parquet_of_bytes_or_hex_with_unknown_ones_counted(
    made: tuple[Path, Rows], tmp_path: Path, kind: pa.DataType
) -> None:
    source, samples = made
    uids = [row["uid"] for row in samples[3:9]] + [b"\0" * 16, b"\xff" * 16, samples[3]["uid"]]
    values = [uid.hex() for uid in uids] if pa.types.is_string(kind) or pa.types.is_large_string(kind) else uids
    pq.write_table(pa.table({"uid": pa.array(values, kind), "score": range(len(uids))}), tmp_path / "u.parquet")
    result = subset(source, SubsetConfig(uids=str(tmp_path / "u.parquet")), tmp_path / "out")
    assert (result.samples, result.unknown_uids) == (6, 2)
    _check(tmp_path / "out", samples[3:9])


@pytest.mark.parametrize("limit", [1, 3, 7, 1000])
def test_limit_per_query_is_the_naive_rule(made: tuple[Path, Rows], tmp_path: Path, limit: int) -> None:
    source, samples = made
    expected = selects(samples, limit, "selected_by")
    subset(source, SubsetConfig(limit_per_query=limit), tmp_path / "out")
    _check(tmp_path / "out", [row for row in samples if row["uid"] in expected])
    assert {row["uid"]: row["selected_by"] for row in _rows(tmp_path / "out")} == expected
    with open_catalog(tmp_path / "out") as database:
        counts = database.sql("SELECT query_id, selected, contained FROM query_counts ORDER BY query_id").fetchall()
    for query, selected, contained in counts:
        assert selected == sum(query in chosen for chosen in expected.values()) <= limit
        assert contained == sum(query in row["query_ids"] for row in _rows(tmp_path / "out"))


@pytest.mark.parametrize(("mode", "one_hash_a_pair"), [("none", True), ("coordinated", True), ("metaclip", False)])
def test_limit_per_query_draws_by_the_hash_of_the_sets_balance_mode(
    tmp_path: Path, mode: str, one_hash_a_pair: bool
) -> None:
    samples = make_set(tmp_path / "set")
    for path in (tmp_path / "set/config.yaml", tmp_path / "set/shards/config.yaml"):
        path.write_text(path.read_text().replace("mode: quota", f"mode: {mode}"))
    subset(tmp_path / "set", SubsetConfig(limit_per_query=3), tmp_path / "out")
    expected = selects(samples, 3, "selected_by", one_hash_a_pair=one_hash_a_pair)
    assert {row["uid"]: row["selected_by"] for row in _rows(tmp_path / "out")} == expected


def test_limit_applies_to_what_the_condition_leaves(made: tuple[Path, Rows], tmp_path: Path) -> None:
    source, samples = made
    left = [row for row in samples if row["width"] > 100]
    expected = selects(left, 2, "selected_by")
    subset(source, SubsetConfig(where="width > 100", limit_per_query=2), tmp_path / "out")
    assert {row["uid"]: row["selected_by"] for row in _rows(tmp_path / "out")} == expected


def test_subset_answers_queries_explains_and_carries_joined_columns(made: tuple[Path, Rows], tmp_path: Path) -> None:
    samples = make_set(tmp_path / "set")
    scores = {"uid": [row["uid"].hex() for row in samples[::2]], "score": [row["width"] for row in samples[::2]]}
    pq.write_table(pa.table(scores), tmp_path / "clip.parquet")
    join(tmp_path / "set", tmp_path / "clip.parquet")
    subset(tmp_path / "set", SubsetConfig(where="score > 110"), tmp_path / "out")
    expected = [row for row in samples[::2] if row["width"] > 110]
    _check(tmp_path / "out", expected)
    with open_catalog(tmp_path / "out") as database:
        assert database.sql(named_query("balance")).fetchall()
        assert database.sql("SELECT count(score), min(score) FROM samples").fetchall() == [
            (len(expected), min(row["width"] for row in expected))
        ]
    (story,) = explain(tmp_path / "out", uid=expected[0]["uid"].hex())
    assert story.sample is not None
    assert {verdict.verdict for verdict in story.verdicts} <= {"kept", "off"}


@pytest.mark.slow
def test_subset_on_ray_writes_the_same_bytes(made: tuple[Path, Rows], tmp_path: Path, ray_engine: Any) -> None:
    source, _ = made
    subset(source, SubsetConfig(where="width > 90"), tmp_path / "inline")
    subset(source, SubsetConfig(where="width > 90", engine="ray"), tmp_path / "ray")
    assert _files(tmp_path / "inline") == _files(tmp_path / "ray")


def test_tars_open_with_the_standard_library(made: tuple[Path, Rows], tmp_path: Path) -> None:
    source, _ = made
    subset(source, SubsetConfig(where="width > 90"), tmp_path / "out")
    for path in (tmp_path / "out/shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            assert all(member.mtime == 0 and member.mode == 0o644 for member in tar)


# --- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    [
        "nonsense > 3",
        "width >",
        "width > 3; DROP VIEW samples",
        "true) OR (true",
        "true) UNION SELECT 1, 2 FROM (samples",
        "width > 3 ORDER BY width",
        "count(*) > 3",
        "caption::INT > 3",
        "nowhere.x = 1",
        "",
    ],
)
def test_wrong_condition_changes_nothing(made: tuple[Path, Rows], tmp_path: Path, where: str) -> None:
    source, _ = made
    before = _files(source)
    with pytest.raises(SqlError, match="--where: ") as caught:
        subset(source, SubsetConfig(where=where), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert _files(source) == before


@pytest.mark.parametrize(
    "where",
    [
        "caption IN (SELECT content FROM read_text('/etc/passwd'))",
        "uid IN (SELECT uid FROM '{dir}/uids.parquet')",
        "uid IN (WITH a AS (COPY (SELECT 1) TO '{dir}/x.csv') SELECT uid FROM samples, a)",
        "EXISTS (FROM glob('/etc/*'))",
        "caption = getenv('HOME')",
    ],
)
def test_condition_sees_the_data_set_alone(made: tuple[Path, Rows], tmp_path: Path, where: str) -> None:
    source, samples = made
    pq.write_table(pa.table({"uid": [row["uid"] for row in samples[:3]]}), tmp_path / "uids.parquet")
    with pytest.raises(SqlError, match="--where: ") as caught:
        subset(source, SubsetConfig(where=where.replace("{dir}", str(tmp_path))), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["uids.parquet"]


def test_condition_reads_files_where_the_user_allows_it(made: tuple[Path, Rows], tmp_path: Path) -> None:
    source, samples = made
    pq.write_table(pa.table({"uid": [row["uid"] for row in samples[:3]]}), tmp_path / "uids.parquet")
    where = f"uid IN (SELECT uid FROM '{tmp_path}/uids.parquet')"
    assert main(["subset", str(source), "--where", where, "--out", str(tmp_path / "out"), "--allow-files"]) == 0
    _check(tmp_path / "out", samples[:3])


def test_subset_from_and_to_linked_and_relative_places(
    made: tuple[Path, Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, samples = made
    (tmp_path / "real").mkdir()
    (tmp_path / "to").symlink_to("real")
    (tmp_path / "from").symlink_to(source)
    monkeypatch.chdir(tmp_path)
    listed = Path("s.parquet")
    pq.write_table(pa.table({"uid": [row["uid"] for row in samples[5:9]]}), listed)
    subset(Path("from"), SubsetConfig(where="width > 0", uids=str(listed), limit_per_query=2), Path("to/out"))
    assert (tmp_path / "real/out/shards/manifest.json").exists()
    assert verify(Path("to/out")).damages == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("u.txt", b"12ab\n", "line 1 is no uid"),
        ("u.txt", b"00000000000000000000000000000000\n" + b"z" * 32, "line 2 is no uid"),
        ("u.txt", b"\n\n", "holds no uid"),
        ("u.txt", b"\xff\xfe\x00", "cannot be read as text"),
        ("u.parquet", b"PAR1", "cannot be read as Parquet"),
        ("u.txt", None, "cannot be read as text"),
        ("u.parquet", None, "no such file"),
    ],
)
def test_wrong_uid_file_changes_nothing(
    made: tuple[Path, Rows], tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    source, _ = made
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        subset(source, SubsetConfig(uids=str(tmp_path / name)), tmp_path / "out")
    assert not any("out" in path.name for path in tmp_path.iterdir())


def test_no_match_an_existing_place_and_an_inner_place_are_refused(made: tuple[Path, Rows], tmp_path: Path) -> None:
    source, _ = made
    with pytest.raises(InputError, match="no sample matches"):
        subset(source, SubsetConfig(where="false"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(OutputError, match="exists already"):
        subset(source, SubsetConfig(where="true"), tmp_path / "mine")
    for inner in (source, source / "small", source / "shards" / "small"):
        with pytest.raises(OutputError, match=r"exists already|lies inside"):
            subset(source, SubsetConfig(where="true"), inner)
    with pytest.raises(OutputError, match="cannot write"):
        subset(source, SubsetConfig(where="true"), Path("/proc/openwit/out"))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("00001.tar", lambda data: data[:2000], r"00001.tar: damaged: ends before"),
        ("00001.tar", lambda data: bytes(len(data)), r"00001.tar: damaged: the \d+ bytes at 512 are not those"),
        (
            "00002.parquet",
            lambda data: data[:100] + b"\0" + data[101:],
            r"00002.parquet: damaged: its bytes are not those",
        ),
    ],
)
def test_damaged_shard_is_an_error_and_leaves_nothing(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes], message: str
) -> None:
    make_set(tmp_path / "set")
    path = tmp_path / "set" / "shards" / name
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(damage(data))
    with pytest.raises(PipelineError, match=message):
        subset(tmp_path / "set", SubsetConfig(where="true"), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_remains_of_a_killed_subset_are_replaced_and_a_live_one_is_not(made: tuple[Path, Rows], tmp_path: Path) -> None:
    source, _ = made
    config = SubsetConfig(where="width > 90")
    with open_output(tmp_path / "out.tmp-subset"), pytest.raises(LockedError):
        subset(source, config, tmp_path / "out")
    remains = tmp_path / "out.tmp-subset" / "work" / "shards"
    remains.mkdir(parents=True)
    (remains / "00000.tar").write_bytes(b"half")
    subset(source, config, tmp_path / "out")
    subset(source, config, tmp_path / "clean")
    assert _files(tmp_path / "out") == _files(tmp_path / "clean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "out"]


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="say which samples"):
        SubsetConfig()
    with pytest.raises(ConfigError, match="limit_per_query must be at least 1"):
        SubsetConfig(limit_per_query=0)


def test_command_line(made: tuple[Path, Rows], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, _ = made
    out = str(tmp_path / "out")
    assert main(["subset", str(source), "--where", "width > 100", "--limit-per-query", "2", "--out", out]) == 0
    assert "samples in" in capsys.readouterr().out
    for words, message in (
        (["--where", "true"], "--out is required"),
        (["--out", out], "say which samples"),
        (["--out", out, "--limit_per_query", "many"], "expected a whole number"),
        (["--out", out, "--where", "true", "--wher", "x"], "unknown option --wher"),
    ):
        assert main(["subset", str(source), *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_set_of_an_earlier_version_lacks_columns_and_stays_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = tmp_path / "set", tmp_path / "out"
    with monkeypatch.context() as earlier:
        earlier.setattr("pipeline.records.shard.SAMPLES", pa.schema([f for f in SAMPLES if f.name != "lang_by"]))
        samples = make_set(root)
    assert "lang_by" not in pq.read_schema(root / "shards/00000.parquet").names
    assert verify(root).damages == []
    with open_catalog(root) as database:
        everything = "SELECT count(*), count(lang_by), count(lang) FROM"
        for view in ("samples", "published"):
            assert database.sql(f"{everything} {view}").fetchall() == [(len(samples), 0, len(samples))]
    export_list(root, tmp_path / "list.parquet")
    listed = pq.read_table(tmp_path / "list.parquet")
    assert (listed["lang_by"].null_count, listed["lang"].null_count) == (len(samples), 0)
    subset(root, SubsetConfig(where="lang_by IS NULL"), out)
    assert {row["lang_by"] for row in _rows(out)} == {None}
    assert verify(out).damages == []

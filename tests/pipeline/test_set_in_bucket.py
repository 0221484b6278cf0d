"""A data set in a bucket answers as its twin on a disk does: every command that looks at one, and a repair."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.catalog.catalog import SqlError, confine, open_catalog, sql_errors
from pipeline.commands import main
from pipeline.errors import LockedError
from pipeline.sets.read_shards import read_shards
from pipeline.storage.atomic import write_json
from pipeline.storage.bucket import BucketPath
from pipeline.storage.output import open_output
from pipeline.storage.place import Place
from tests.object_store.fault_proxy import FaultProxy
from tests.object_store.fixtures import Bucket, new_bucket
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture

OPTIONS = ("--shards.samples_per_shard", "5", "--texts.partitions", "1")


@dataclass(frozen=True)
class Twins:
    """The same set on a disk and in a bucket."""

    local: Path
    remote: BucketPath
    bucket: Bucket
    config: Path
    root: Path
    server: LoopbackServer


@pytest.fixture(scope="module")
def twins(object_store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    root = tmp_path_factory.mktemp("twins")
    answers = {f"/{i}": text(picture(i)) for i in range(12)}
    with pytest.MonkeyPatch.context() as patch, FaultProxy(object_store) as proxy, LoopbackServer(answers) as server:
        bucket = new_bucket(proxy, object_store)
        for name, value in bucket.environment.items():
            patch.setenv(name, value)
        small = SmallRun.make(root, server, [*answers, "/gone"])
        remote = BucketPath.of(f"{bucket.url}/set")
        assert small.run(*OPTIONS) == 0
        assert small.run(*OPTIONS, "--output", str(remote)) == 0
        yield Twins(small.output, remote, bucket, small.config, root, server)


def _told(capsys: pytest.CaptureFixture[str], of: Place, words: list[str]) -> str:
    """What a command prints, wherever the set is."""
    capsys.readouterr()
    status = main([word.replace("SET", str(of)) for word in words])
    told = capsys.readouterr()
    out = re.sub(r"^run .*: finished at .*$", "the last run", told.out, flags=re.MULTILINE)
    return re.sub(r"\s+", " ", f"{status} {out} {told.err}".replace(str(of), "SET"))


def _a_uid(twins: Twins) -> str:
    uid: bytes = pq.read_table(twins.local / "shards" / "00000.parquet")["uid"][0].as_py()
    return uid.hex()


def test_every_question_has_the_same_answer(twins: Twins, capsys: pytest.CaptureFixture[str]) -> None:
    uid, config = _a_uid(twins), str(twins.config)
    for words in (
        ["plan", config, "--output", "SET", *OPTIONS],
        ["status", "SET"],
        ["sql", "SET", "SELECT * FROM samples ORDER BY uid", "--format", "csv"],
        ["sql", "SET", "SELECT stage, reason, uid FROM rejections ORDER BY ALL"],
        ["sql", "SET", "hosts"],
        ["sql", "SET", "SELECT no_column FROM samples"],
        ["explain", "SET", "--uid", uid],
        ["explain", "SET", "--url", twins.server.url("/gone")],
        ["balance-report", "SET", "--format", "json"],
        ["verify", "SET", "--work"],
        ["report", "SET"],
    ):
        want = _told(capsys, twins.local, words)
        assert _told(capsys, twins.remote, words) == want, words
    cards = [(of / "report.html").read_text().replace(str(of), "SET") for of in (twins.local, twins.remote)]
    there, here = (re.sub(r"(<dt>made</dt><dd>)[\d-]+", r"\1DAY", card) for card in cards)  # over midnight
    assert there == here


def test_results_are_put_where_a_url_says(twins: Twins, capsys: pytest.CaptureFixture[str]) -> None:
    query, made = "SELECT uid, caption FROM samples ORDER BY uid", BucketPath.of(f"{twins.bucket.url}/made")
    for name in ("rows.csv", "rows.json", "rows.parquet"):
        assert main(["sql", str(twins.local), query, "--to", str(twins.root / name)]) == 0
        assert main(["sql", str(twins.remote), query, "--to", str(made / name)]) == 0
        assert (made / name).read_bytes() == (twins.root / name).read_bytes()
    for name, of, to in (("local", twins.local, twins.root), ("remote", twins.remote, made)):
        assert main(["export-list", str(of), "--to", f"{to}/{name}.parquet"]) == 0
    assert (made / "remote.parquet").read_bytes() == (twins.root / "local.parquet").read_bytes()
    assert main(["export-list", str(twins.remote), "--to", f"{twins.remote}/shards/x.parquet"]) == 2
    assert "lies among the files of the data set" in capsys.readouterr().err


def test_samples_are_read_from_a_bucket(twins: Twins) -> None:
    assert list(read_shards(str(twins.remote))) == list(read_shards(twins.local))
    assert next(read_shards(f"{twins.remote}/shards"))["image"]


SECRET = "a line that no question may see"


OUTSIDE = [
    "read_csv('BUCKET/secret.csv')",
    "read_csv('BUCKET/set2/secret.csv')",
    "read_csv('BUCKET/set/../secret.csv')",
    "read_csv('BUCKET/set/shards/../../secret.csv')",
    "read_csv('BUCKET/set/%2e%2e/secret.csv')",
    "read_csv('BUCKET/set//../secret.csv')",
    "read_csv('BUCKET/set/../*.csv')",
    "read_csv('BUCKET/set/*/../../secret.csv')",
    "read_csv('s3://another-bucket/secret.csv')",
    "read_csv('gs://another-bucket/secret.csv')",
    "read_csv('ROOT/secret.csv')",
    "read_csv('file://ROOT/secret.csv')",
    "'BUCKET/secret.csv'",
    "read_csv('https://127.0.0.1:9/secret.csv')",
    "read_csv('ENDPOINT/secret.csv')",
]


def test_sql_over_a_bucket_sees_the_set_alone(twins: Twins) -> None:
    for name in ("secret.csv", "set2/secret.csv"):
        BucketPath.of(f"{twins.bucket.url}/{name}").put(f"line\n{SECRET}\n".encode())
    (twins.root / "secret.csv").write_text(f"line\n{SECRET}\n")
    with open_catalog(twins.remote, "SELECT * FROM published") as database:
        confine(database, [twins.remote])
        (count,) = database.execute("SELECT count(*) FROM published").fetchone() or ()
        assert count == 12
        for what in OUTSIDE:
            for name, value in (("BUCKET", twins.bucket.url), ("ROOT", twins.root)):
                what = what.replace(name, str(value))
            query = f"SELECT * FROM {what.replace('ENDPOINT', twins.bucket.proxy.endpoint)}"
            with pytest.raises(SqlError) as raised, sql_errors():
                database.execute(query).fetchall()
            told = str(raised.value)
            assert SECRET not in told, query
            assert "Traceback" not in told, query
            assert len(told.splitlines()) == 1
        for pattern in ("BUCKET/*", "BUCKET/set*/*"):
            with pytest.raises(SqlError, match="SQL sees the data set alone"), sql_errors():
                database.execute(f"FROM glob('{pattern}')".replace("BUCKET", twins.bucket.url)).fetchall()
        found = database.execute(f"FROM glob('{twins.remote}/shards/*.parquet')").fetchall()
        assert len(found) == 3


def test_sql_writes_nothing_into_a_bucket(twins: Twins, capsys: pytest.CaptureFixture[str]) -> None:
    for query in (
        f"COPY (SELECT 1) TO '{twins.remote}/own.csv'",
        f"WITH x AS (COPY (SELECT 1) TO '{twins.remote}/own.csv') SELECT 1",
    ):
        assert main(["sql", str(twins.remote), query]) == 2
    assert main(["sql", str(twins.remote), f"COPY (FROM runs) TO '{twins.remote}/own.csv'", "--allow-files"]) == 2
    assert "DuckDB does not write here; give --to" in capsys.readouterr().err
    assert not (twins.remote / "own.csv").exists()
    assert main(["sql", str(twins.remote), "SELECT * FROM 'https://127.0.0.1:9/x.parquet', runs", "--allow-files"]) == 2
    assert "autoload" in capsys.readouterr().err, "no extension is fetched to open it"


def test_few_requests_answer_a_question(twins: Twins, capsys: pytest.CaptureFixture[str]) -> None:
    proxy, shards, set_ = twins.bucket.proxy, 3, str(twins.remote)
    for words, most, lists in (
        (["sql", set_, "SELECT count(*) FROM samples"], shards + 5, 1),  # that of joined/
        (["sql", set_, "SELECT caption, status FROM samples WHERE width > 0"], shards + 5, 1),
        (["verify", set_], 4 * shards + 6, 2),  # a tar, a Parquet and its uids, counts; strangers in shards/
        (["export-list", set_, "--to", str(twins.root / "counted.parquet")], 2 * shards + 7, 0),
    ):
        proxy.forget()
        assert main(words) == 0
        counts = proxy.counts()
        assert counts["LIST"] <= lists, words
        assert counts.total() <= most + lists, (words, counts)


def test_subsets_are_taken_from_and_into_a_bucket(twins: Twins, capsys: pytest.CaptureFixture[str]) -> None:
    made, where = BucketPath.of(f"{twins.bucket.url}/subset"), ["--where", "num_bytes > 0", "--limit_per_query", "4"]
    scores = twins.root / "scores.parquet"
    pq.write_table(pa.table({"uid": [_a_uid(twins)], "score": [1.0]}), scores)
    by_url = BucketPath.of(f"{twins.bucket.url}/scores.parquet")
    by_url.put(scores)
    for of, table in ((twins.local, scores), (twins.remote, by_url)):
        assert main(["join", str(of), str(table)]) == 0
        assert main(["sql", str(of), "SELECT count(*) FROM samples WHERE score = 1"]) == 0
    assert main(["subset", str(twins.local), "--out", str(twins.root / "subset"), *where]) == 0
    assert main(["subset", str(twins.remote), "--out", str(twins.root / "subset 2"), *where]) == 0
    write_json(made / "openwit.json", {"layout_version": 1, "made_by": "openwit"})  # of one that was killed
    (made / "subset.unfinished").put(b"{}")
    (made / "work" / "chosen" / "chosen.parquet").put(b"half")
    assert main(["subset", str(twins.remote), "--out", str(made), *where]) == 0
    names = {path.relative_to(made) for path, _ in made.walk()} - {"lock"}
    for name in names - {"shards/config.yaml"}:
        for twin in (twins.root / "subset", twins.root / "subset 2"):
            assert (made / name).read_bytes() == (twin / name).read_bytes(), name
    assert {"subset.json", "joined/scores.parquet", "shards/manifest.json"} <= names
    for of in (twins.local, twins.remote):
        (of / "joined" / "scores.parquet").unlink()
    capsys.readouterr()
    assert main(["verify", str(made)]) == 0
    assert main(["subset", str(twins.remote), "--out", str(made), *where]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["subset", str(twins.remote), "--out", f"{twins.remote}/inside", *where]) == 2
    assert main(["subset", str(twins.remote), "--out", f"{twins.bucket.url}/none", "--where", "num_bytes < 0"]) == 2
    assert not BucketPath.of(f"{twins.bucket.url}/none").exists(), "what fails leaves nothing"


@pytest.mark.parametrize("when", ["as this one waited", "as this one worked"])
def test_subset_that_another_has_made_meanwhile_stays(
    twins: Twins, when: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = BucketPath.of(f"{twins.bucket.url}/made-{when.replace(' ', '-')}")

    def make() -> None:
        for name in ("subset.json", "shards/manifest.json"):
            (made / name).put(b"{}")

    @contextmanager
    def opened_late(place: Place, **options: Any) -> Iterator[Place]:
        with open_output(place, **options):
            make()
            yield place

    def build(*words: Any) -> None:
        make()
        raise LockedError("another has it")

    if when == "as this one waited":
        monkeypatch.setattr("pipeline.sets.subset.open_output", opened_late)
    else:
        monkeypatch.setattr("pipeline.sets.subset._build", build)
    assert main(["subset", str(twins.remote), "--out", str(made), "--where", "num_bytes > 0"]) == 2
    assert {path.relative_to(made) for path, _ in made.walk()} >= {"subset.json", "shards/manifest.json"}


def _records(step: BucketPath) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (step / "done").glob("*.json")}


@pytest.mark.parametrize("what", [pytest.param("files", marks=pytest.mark.slow), "manifest"])
def test_what_is_damaged_in_a_bucket_is_told_and_made_again(
    twins: Twins, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = twins.remote / "shards"
    whole = {path.name: path.read_bytes() for path, _ in shards.walk()}
    requests, made = len(twins.server.requests), _records(twins.remote / "work" / "shards")
    beneath = next(path for path, _ in (twins.remote / "work" / "dedup").walk() if path.suffix == ".parquet")
    names = ("00000.tar", "00001.parquet", "00002_stats.json") if what == "files" else ("manifest.json",)
    damaged = [*(shards / name for name in names), beneath]
    for path in damaged:
        data = bytearray(path.read_bytes())
        data[0 if path.suffix == ".json" else len(data) // 2] ^= 64  # of JSON, so that it is none whatever it says
        path.put(bytes(data))
    if what == "files":
        (shards / "00001.tar").unlink()
    capsys.readouterr()
    assert main(["verify", str(twins.remote), "--work"]) == 1
    told = capsys.readouterr().out
    for path in damaged:
        assert f"damaged: {path.relative_to(twins.remote)}: " in told
    if what == "files":
        assert "damaged: shards/00001.tar: cannot be read (No such file or directory)" in told
        assert re.search(r"damaged: work/shards/at/\S+/00001\.tar: cannot be read", told), "now it is missed"
        assert not re.search(r"damaged: work/shards/at/\S+/0000[02]\.tar", told)
    assert main(["verify", str(twins.remote), "--work", "--repair"]) == 0
    assert {path.name: path.read_bytes() for path, _ in shards.walk()} == whole
    assert len(twins.server.requests) == requests, "nothing is requested"
    again = {name for name, data in _records(twins.remote / "work" / "shards").items() if data != made[name]}
    assert again == ({"00000.json", "00001.json"} if what == "files" else set()), "no other shard is made again"


def test_a_run_puts_a_published_file_back_that_is_gone_or_short(twins: Twins) -> None:
    shards = twins.remote / "shards"
    whole = {path.name: path.read_bytes() for path, _ in shards.walk()}
    (shards / "00000.tar").put(whole["00000.tar"][:-512])
    (shards / "00001.parquet").unlink()
    assert main(["run", str(twins.config), *OPTIONS, "--output", str(twins.remote)]) == 0
    assert {path.name: path.read_bytes() for path, _ in shards.walk()} == whole

"""What a config names may lie in a bucket: the list, sources, block lists, hashes, captions, scores, the config."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fsspec.utils import glob_translate

from pipeline.commands import main
from pipeline.errors import PipelineError
from pipeline.records.queries import read_queries
from pipeline.steps.sources import find_sources
from pipeline.storage.bucket import BucketPath
from pipeline.storage.named_objects import named_objects
from tests.object_store.fixtures import Bucket
from tests.pipeline.loopback_server import LoopbackServer, Route, answer, text
from tests.pipeline.small_run import SmallRun, picture

PATHS = [f"/{i}" for i in range(6)]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallRun]:
    with LoopbackServer({path: text(picture(i)) for i, path in enumerate(PATHS)}) as server:
        yield SmallRun.make(tmp_path, server, PATHS)


def test_a_run_reads_by_url_what_its_config_names_and_sees_its_changes(small: SmallRun, bucket: Bucket) -> None:
    inputs = BucketPath.of(f"{bucket.url}/in")
    config = yaml.safe_load(small.config.read_text())
    config["texts"] = {"partitions": 1}
    small.config.write_text(yaml.safe_dump(config))
    assert small.run() == 0
    rows = pq.read_table(small.output / "shards" / "00000.parquet").to_pylist()
    by_path = {"/" + row["url"].rpartition("/")[2]: row for row in rows}
    (inputs / "links.parquet").put(small.root / "links.parquet")
    (inputs / "queries.txt").put(small.root / "queries.txt")
    (inputs / "block.txt").put(f"{by_path['/0']['url']}\r\n# a comment\n".encode())
    (inputs / "hashes.txt").put(hashlib.sha256(picture(1)).hexdigest().encode())
    (inputs / "captions.txt").put(by_path["/2"]["caption"].encode() + b"\n")
    scores = {"uid": [row["uid"].hex() for row in rows], "good": [float(row is not by_path["/3"]) for row in rows]}
    pq.write_table(pa.table(scores), small.root / "scores.parquet")
    (inputs / "scores-1.parquet").put(small.root / "scores.parquet")
    config["sources"] = [f"{inputs}/*.parquet".replace("*", "link*")]
    config["queries"] = f"{inputs}/queries.txt"
    config["fetch"]["block_files"] = [f"{inputs}/block.txt"]
    with tarfile.open(small.root / "eval.tar", "w") as tar:
        (small.root / "5.jpg").write_bytes(picture(5))
        tar.add(small.root / "5.jpg")
    (inputs / "eval.tar").put(small.root / "eval.tar")
    config["decontaminate"] = {
        "hashes": [f"{inputs}/hashes.txt"],
        "captions": [f"{inputs}/captions.txt"],
        "images": [f"{inputs}/*.tar"],
    }
    config["filters"] = {"scores": [{"files": [f"{inputs}/scores-*.parquet"], "column": "good", "min": 0.5}]}
    (inputs / "config.yaml").put(yaml.safe_dump(config).encode())
    words = ["run", f"{inputs}/config.yaml", "--output", str(small.root / "other")]
    assert main(words) == 0
    other = SmallRun(root=small.root, config=small.config, output=small.root / "other")
    assert other.samples() == ["/4"]
    before = other.state()
    assert main(words) == 0
    assert other.state() == before, "nothing to do"
    (inputs / "hashes.txt").put(hashlib.sha256(picture(4)).hexdigest().encode())
    (inputs / "captions.txt").put(b"another caption\n")
    (inputs / "block.txt").put(b"# nothing\n")
    assert main(words) == 0
    assert other.samples() == ["/0", "/1", "/2"]


def test_objects_are_found_by_glob(bucket: Bucket) -> None:
    for name in ("a/1.parquet", "a/2.parquet", "a/b/3.parquet", "a/4.csv"):
        BucketPath.of(f"{bucket.url}/{name}").put(name.encode())
    found = find_sources([f"{bucket.url}/a/*.parquet"])
    assert list(found) == [f"{bucket.url}/a/1.parquet", f"{bucket.url}/a/2.parquet"]
    assert list(named_objects(f"{bucket.url}/a/**/*.parquet"))[-1] == f"{bucket.url}/a/b/3.parquet"
    for pattern in ("*/?.parquet", "a/*/3.parquet", "?/b/*", "[!b]/**/*.parquet", "*/[12].*"):
        everything = BucketPath.of(bucket.url).walk()
        fits = re.compile(glob_translate(f"{bucket.url}/{pattern}")).match
        assert list(named_objects(f"{bucket.url}/{pattern}")) == [str(p) for p, _ in everything if fits(str(p))]
    bucket.proxy.forget()
    assert len(named_objects(f"{bucket.url}/*/b/*.parquet")) == 1
    assert bucket.proxy.counts() == {"LIST": 2}, "what lies beside it is not listed"
    BucketPath.of(f"{bucket.url}/a/1.parquet").put(b"A/1.parquet")
    again = find_sources([f"{bucket.url}/a/?.parquet"])
    assert again.keys() == found.keys()
    assert [again[name] == found[name] for name in found] == [False, True], "of the same size, but not the same"
    with pytest.raises(PipelineError, match="no such source file"):
        find_sources([f"{bucket.url}/a/none.parquet"])
    with pytest.raises(PipelineError, match="can only be an entire path component"):
        find_sources([f"{bucket.url}/a/x**.parquet"])
    with pytest.raises(PipelineError, match="there is no such bucket"):
        find_sources([f"s3://no-{bucket.name}/*.parquet"])
    with pytest.raises(PipelineError, match=r"none\.txt: no such query list"):
        read_queries(f"{bucket.url}/none.txt")


MARKER = "zq7-a-secret-that-no-file-may-hold"
"""As the key of a store: it must be nowhere."""


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://127.0.0.1/set", "ftp://127.0.0.1/set: not the URL of a bucket"),
        ("https://127.0.0.1/set", "not the URL of a bucket"),
        (f"s3://user:{MARKER}@bucket/set", "s3://bucket/set: no place for keys"),
        ("s3://no-BUCKET/set", "s3://no-BUCKET: there is no such bucket"),
        (f"s3://bucket/set?key={MARKER}", "has no ? and no #"),
    ],
)
def test_a_url_that_cannot_be_served_is_refused_in_one_line(
    small: SmallRun, bucket: Bucket, url: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url, told = url.replace("BUCKET", bucket.name), told.replace("BUCKET", bucket.name)
    for words in (["run", str(small.config), "--output", url], ["verify", url], ["sql", url, "SELECT 1"]):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")
        assert told in line
        assert MARKER not in line
    assert not small.output.exists()
    assert not list(Path.cwd().glob("s3:*"))


class _Refusing(dict[str, Route]):
    """Whatever is asked for."""

    def get(self, path: str, default: object = None) -> Route:  # type: ignore[override]  # never absent
        return answer(403, b"<Error><Code>AccessDenied</Code></Error>", {"Content-Type": "application/xml"})


@pytest.mark.parametrize(
    ("store", "told"), [("gone", "error sending request"), ("refusing", "the store refuses: look at the keys")]
)
def test_a_store_that_does_not_serve_is_told_of_in_one_line(
    small: SmallRun,
    bucket: Bucket,
    store: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "pipeline.storage.store_client._RETRIES", {"max_retries": 0}
    )  # how long it tries is shown elsewhere
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", MARKER)
    with LoopbackServer(_Refusing()) as refusing:
        port = 9 if store == "gone" else refusing.port
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for words in (["run", str(small.config), "--output", f"{bucket.url}/set"], ["verify", f"{bucket.url}/set"]):
            assert main(words) == 2
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert line.startswith(f"error: {bucket.url}/set")
            assert told in line
            assert MARKER not in line
    assert not small.output.exists()


def test_keys_are_written_nowhere(
    small: SmallRun, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, f"{name}-{MARKER}")
    monkeypatch.setenv("TMPDIR", str(small.root))
    monkeypatch.setattr("tempfile.tempdir", None)
    output = BucketPath.of(f"{bucket.url}/set")
    assert main(["run", str(small.config), "--texts.partitions", "1", "--output", str(output)]) == 0
    for words in (
        ["status", str(output)],
        ["verify", str(output), "--work"],
        ["sql", str(output), "SELECT no_column FROM samples"],
        ["sql", str(output), f"FROM read_csv('{bucket.url}/x.csv')", "--allow-files"],
        ["sql", f"{bucket.url}/none", "SELECT 1"],
        ["run", str(small.config), "--output", f"s3://no-{bucket.name}/set"],
    ):
        main(words)
    told = capsys.readouterr()
    assert MARKER not in told.out + told.err
    objects = [path for path, _ in output.walk()]
    assert len(objects) > 50
    assert not [path for path in objects if MARKER.encode() in path.read_bytes() or MARKER in str(path)]
    local = [path for path in small.root.rglob("*") if path.is_file()]
    assert not [path for path in local if MARKER.encode() in path.read_bytes()]

"""The commands and programs of docs/crawl.md, docs/storage.md and docs/how-to/cluster.md, on a bucket of a server on
loopback.

What is ours is run as it stands there, or, where it would take a web, a cluster or hours, read by who would take it:
Ray's command line, make, the config's own checks. Other programs' words are only looked at: that the files are there
which they name.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.load import load
from openwit.command import main as openwit
from pipeline.commands import main
from pipeline.config import WitConfig
from tests.conftest import REPOSITORY
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture
from tests.ray_commands import parse_ray

_CRAWL = (REPOSITORY / "docs/crawl.md").read_text(encoding="utf-8")
_STORAGE = (REPOSITORY / "docs/storage.md").read_text(encoding="utf-8")
_CLUSTER = (REPOSITORY / "docs/how-to/cluster.md").read_text(encoding="utf-8")
_OTHERS = ("aws", "chmod", "done", "export", "for", "kubectl", "podman", "sbatch", "scancel", "sed", "squeue")
_PATHS = {f"/{i}": text(picture(i)) for i in range(8)}


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


COMMANDS = [
    shlex.split(line, comments=True)
    for page in (_CRAWL, _STORAGE, _CLUSTER)
    for block in _blocks(page, "sh")
    for line in block.splitlines()
]


def _of(*begin: str) -> list[list[str]]:
    """The commands that begin so, after any variables, without these words."""
    plain = [[word for i, word in enumerate(c) if i or "=" not in word] for c in COMMANDS]
    return [command[len(begin) :] for command in plain if command[: len(begin)] == list(begin)]


def test_every_command_of_the_pages_is_of_a_kind_that_is_looked_at() -> None:
    first = {next(word for word in command if "=" not in word) for command in COMMANDS}
    assert first <= {"make", "openwit", "ray", ".venv/bin/python", ".venv/bin/ray", *_OTHERS}
    modules = {command[1] for command in _of(".venv/bin/python")}
    assert modules == {"pipeline", "query_list", "pip"}


def test_files_that_the_pages_name_are_there() -> None:
    for page in (_CRAWL, _STORAGE, _CLUSTER):
        for name in re.findall(r"\b(configs/[\w./-]+\.\w+|configs/cluster/Containerfile)", page):
            assert (REPOSITORY / name).is_file(), name


def test_commands_for_ray_are_ones_that_it_knows() -> None:
    commands = _of(".venv/bin/ray")
    assert {command[0] for command in commands} == {"get-auth-token", "start", "up", "exec", "job", "down"}
    for command in [*commands, *_of("ray")]:
        parse_ray(["ray", *command])


def test_make_knows_its_targets(tmp_path: Path) -> None:
    for command in _of("make"):
        words = ["make", "-n", "-o", ".venv/ready", "-o", ".venv/ready-train", *command]
        done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_query_list_commands_name_a_config_and_its_output() -> None:
    from query_list.config import BuildConfig

    (build, stats) = _of(".venv/bin/python", "-m", "query_list")
    assert (build[0], stats[0]) == ("build", "stats")
    assert load(BuildConfig, REPOSITORY / build[1]).output == stats[1]


# --- a bucket -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(_PATHS) as server:
        yield server


def _filled_in(command: list[str]) -> str:
    """What `sed` makes of the file that its words name."""
    expression, source, *_ = command
    return subprocess.run(["sed", expression, REPOSITORY / source], capture_output=True, text=True, check=True).stdout


def test_places_for_the_readers_own_words_are_all_filled_in() -> None:
    commands = _of("sed")
    assert {command[1] for command in commands} == {
        f"configs/cluster/{name}" for name in ("crawl.yaml", "aws-bucket.json", "kuberay.yaml")
    }
    for command in commands:
        lines = [line.partition("#")[0] for line in _filled_in(command).splitlines()]
        assert not re.search(r"\b(BUCKET|REGISTRY|ROLE)\b", "\n".join(lines)), command


@pytest.fixture(scope="module")
def my_bucket(object_store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of the store in which the bucket of the pages is; the environment points at it."""
    import boto3

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", object_store)
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("scratch")))
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="my-bucket")
        yield client


@pytest.fixture(scope="module")
def crawled(my_bucket: Any, server: LoopbackServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of the set that the page's config makes, of links to a server of the test's."""
    directory = tmp_path_factory.mktemp("crawl")
    small = SmallRun.make(directory, server, _PATHS)
    (command, *_) = _of("sed")
    config = yaml.safe_load(_filled_in(command))
    own = yaml.safe_load(small.config.read_text())
    config |= {name: own[name] for name in ("sources", "queries", "fetch", "image", "engine")}
    config["texts"] = {"partitions": 1}
    my_bucket.put_object(Bucket="my-bucket", Key="crawl.yaml", Body=yaml.safe_dump(config).encode())
    run = next(words for words in _of(".venv/bin/python", "-m", "pipeline") if words[0] == "run")
    assert main(run) == 0
    return str(config["output"])


def test_commands_for_a_set_in_a_bucket_work(
    crawled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = _of(".venv/bin/python", "-m", "pipeline")
    assert {command[0] for command in commands} == {"run", "status", "sql", "verify"}
    for command in commands:
        assert main(command) == 0, command
    commands = _of("openwit")
    assert {command[0] for command in commands} == {"plan", "shards", "status", "sql", "report", "verify"}
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert openwit(command) == 0, command
    printed = capsys.readouterr()
    assert "nothing to do, 8 samples" in printed.err
    assert "nothing to retry" in printed.err
    assert "final_balance" in printed.out


def test_objects_lie_where_the_page_says(crawled: str, my_bucket: Any) -> None:
    found = my_bucket.list_objects_v2(Bucket="my-bucket", Prefix="wit/")["Contents"]
    names = {each["Key"].removeprefix("wit/") for each in found}
    shapes = {re.sub(r"\d{6}-[0-9a-f]{12}", "TOKEN-ATTEMPT", name) for name in names}
    assert {"lock", "openwit.json", "config.yaml", "ledger.json", "runs.jsonl"} <= names
    assert {"shards/00000.tar", "shards/00000.parquet", "shards/00000_stats.json", "shards/manifest.json"} <= names
    assert "work/shards/at/TOKEN-ATTEMPT/00000.parquet" in shapes
    assert "work/shards/at/TOKEN-ATTEMPT/00000.tar" not in shapes  # published: a picture lies there once
    assert any(re.fullmatch(r"work/fetch/at/TOKEN-ATTEMPT/00000-\w+\.tar", shape) for shape in shapes)
    assert {"work/shards/done/00000.json", "work/shards/manifest.json"} <= names
    assert not any("lock.probe" in name or name.startswith("versions/") for name in names)


# --- reading the set from elsewhere ----------------------------------------------------------------

_AWS = """#!{python}
import sys, boto3
quiet, url, to = sys.argv[3:]
assert (sys.argv[1:3], quiet, to) == (["s3", "cp"], "--quiet", "-")
bucket, _, key = url.removeprefix("s3://").partition("/")
client = boto3.client("s3", region_name="us-east-1")
sys.stdout.buffer.write(client.get_object(Bucket=bucket, Key=key)["Body"].read())
"""


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_set_by_a_pipe(crawled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of the name `aws` stands in for Amazon's."""
    (tmp_path / "aws").write_text(_AWS.replace("{python}", sys.executable))
    (tmp_path / "aws").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    program, _ = _blocks(_STORAGE, "python")
    (tars,) = re.findall(r'"(pipe:.+?)"', program)
    assert f"--train-data '{tars}'" in _STORAGE  # open_clip's
    told: dict[str, Any] = {}
    exec(program.replace("{00000..00006}", "00000"), told)
    assert told["image"].shape[2] == 3
    assert told["caption"]


def test_pyarrow_and_pandas_read_the_set(crawled: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, program = _blocks(_STORAGE, "python")
    assert "S3FileSystem()" in program
    host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    program = program.replace("S3FileSystem()", f"S3FileSystem(endpoint_override={host!r}, scheme='http')")
    told: dict[str, Any] = {}
    exec(program, told)
    assert capsys.readouterr().out.strip() == "8"
    assert list(told["frame"].columns) == ["caption", "width", "height"]


def test_the_query_for_a_shell_of_duckdb_reads_the_set(crawled: str) -> None:
    """Without httpfs, which would be downloaded: our client stands in for it."""
    import duckdb

    from pipeline.storage.bucket import BucketPath
    from pipeline.storage.duck import use_buckets

    (block,) = _blocks(_STORAGE, "sql")
    *before, query = [statement.strip() for statement in block.split(";") if statement.strip()]
    assert [statement.split()[0] for statement in before] == ["INSTALL", "LOAD", "CREATE"]
    with duckdb.connect() as database:
        use_buckets(database, [BucketPath.of("s3://my-bucket")])
        found = database.execute(query.replace("list_contains(query_ids, 7)", "true")).fetchall()
    assert len(found) == 5


def test_config_of_the_page_is_one_of_a_run() -> None:
    written = (REPOSITORY / "configs/cluster/crawl.yaml").read_text(encoding="utf-8")
    assert set(yaml.safe_load(written)) <= set(WitConfig.__dataclass_fields__)

"""A run whose output is in a bucket: the same bytes as on a disk, whatever the store does, and whoever else tries."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.load import load
from pipeline.commands import main
from pipeline.config import WitConfig
from pipeline.errors import DamagedFileError, LockedError
from pipeline.runs import publish_in_bucket
from pipeline.runs.damage import withdraw
from pipeline.storage.atomic import append_line, remove_tree, write_bytes
from pipeline.storage.bucket import BucketPath
from pipeline.storage.holes import can_punch
from pipeline.storage.lease import _LEASES
from pipeline.storage.output import open_output
from pipeline.wit import build
from tests.object_store.fault_proxy import Faults
from tests.object_store.fixtures import Bucket
from tests.pipeline.loopback_server import LoopbackServer, answer
from tests.pipeline.small_run import SmallRun, picture

_PATHS = [f"/{number}" for number in range(6)]
_EVERY_FAULT = {"500": 0.05, "slow": 0.02, "cut request": 0.02, "cut answer": 0.03, "lost answer": 0.03}


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer({path: answer(200, picture(int(path[1:]))) for path in _PATHS}) as running:
        yield running


@pytest.fixture(scope="module")
def local(server: LoopbackServer, tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    small = SmallRun.make(tmp_path_factory.mktemp("local"), server, _PATHS)
    assert run(small, small.output) == 0
    return small


def run(small: SmallRun, output: object, *words: str) -> int:
    """Few tasks, since each costs a dozen requests."""
    return small.run(f"--output={output}", "--texts.partitions=1", *words)


def published_on(disk: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (disk / "shards").iterdir() if path.name != "config.yaml"}


def published_in(output: BucketPath) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path, _ in (output / "shards").walk() if path.name != "config.yaml"}


def test_bytes_are_those_of_a_disk_whatever_the_store_does(local: SmallRun, bucket: Bucket) -> None:
    output = BucketPath.of(f"{bucket.url}/set")
    bucket.proxy.faults = Faults(shares=_EVERY_FAULT, seed=1, slow_s=0.02)
    assert run(local, output) == 0
    bucket.proxy.faults = Faults()
    assert bucket.proxy.fault_counts()
    assert published_in(output) == published_on(local.output)
    assert (output / "ledger.json").read_bytes() == (local.output / "ledger.json").read_bytes()


def test_nothing_to_do_asks_for_little_and_puts_nothing(
    local: SmallRun, bucket: Bucket, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    output = BucketPath.of(f"{bucket.url}/set")
    assert run(local, output) == 0
    before = {str(path): path.read_tagged()[1] for path, _ in output.walk() if path.name != "lock"}
    bucket.proxy.forget()
    asked = len(server.requests)
    assert run(local, output) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert len(server.requests) == asked
    counts = bucket.proxy.counts()
    assert counts["PUT"] <= 6, "the lock, and what shows that the store compares"
    assert {str(path): path.read_tagged()[1] for path, _ in output.walk() if path.name != "lock"} == before


def test_killed_anywhere_it_goes_on_to_the_same_bytes(
    local: SmallRun, bucket: Bucket, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, left = BucketPath.put, 0

    def put_or_die(self: BucketPath, data: Any) -> None:
        nonlocal left
        if threading.current_thread() is threading.main_thread():  # the log and the lock have threads of their own
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        put(self, data)

    output = BucketPath.of(f"{bucket.url}/set")
    monkeypatch.setattr(BucketPath, "put", put_or_die)
    asked, deaths = len(server.requests), 0
    for after in (2, 4, 3, 5, 7, 6, 8, 4, 3, 2, 10**6):
        left = after
        deaths += run(local, output) == 130
    assert deaths >= 5, deaths
    assert published_in(output) == published_on(local.output)
    assert len(server.requests) - asked <= 2 * len(_PATHS), "one attempt at the fetch was lost, if any"
    names = [path.relative_to(output) for path, _ in (output / "work").walk()]
    ours = {file.path.removeprefix(f"{output}/") for file in _files_of_records(output)}
    assert {name for name in names if "/at/" in name and not name.endswith(".tar")} == {
        name for name in ours if not name.endswith(".tar")
    }, "what attempts left that were given up is gone"


def _files_of_records(output: BucketPath) -> Iterator[Any]:
    from pipeline.engine import records_in, steps_in

    for step in steps_in(output / "work"):
        for record in records_in(step):
            yield from record.located(step).values()


def test_of_two_drivers_one_runs_and_the_other_says_so(
    local: SmallRun, bucket: Bucket, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.lease.LEASE_S", 3.0)
    output = BucketPath.of(f"{bucket.url}/set")
    with open_output(output), monkeypatch.context() as other:
        other.setattr("pipeline.storage.lease._LEASES", {})  # as another process would see it
        assert run(local, output) == 2
    assert "a live run holds it" in capsys.readouterr().err
    assert run(local, output) == 0


def test_hold_of_a_dead_driver_runs_out(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.storage.lease.LEASE_S", 1.0)
    output = BucketPath.of(f"{bucket.url}/set")
    said = {"token": 7, "holder": "gone", "lease_s": 1.0, "free": False, "beat": "x"}
    (output / "openwit.json").put(b'{"layout_version": 1}')
    (output / "lock").put(json.dumps(said).encode())
    with open_output(output):
        assert json.loads((output / "lock").read_bytes())["token"] == 8


def test_driver_that_lost_its_hold_puts_nothing_more(
    local: SmallRun, bucket: Bucket, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.engine import commit

    output = BucketPath.of(f"{bucket.url}/set")
    put_record, taken = commit._put_record, []

    def taken_over(path: Any, *words: Any) -> Any:
        if not taken and "/dedup/" in str(path):  # as if this process had slept for a minute
            lock = json.loads((output / "lock").read_bytes())
            (output / "lock").put(json.dumps({**lock, "token": lock["token"] + 1, "free": True}).encode())
            taken.append(path)
        return put_record(path, *words)

    monkeypatch.setattr(commit, "_put_record", taken_over)
    assert run(local, output) == 2
    assert "taken" in capsys.readouterr().err
    assert not (output / "shards").exists()
    assert run(local, output) == 0
    assert published_in(output) == published_on(local.output)


def test_store_without_conditional_puts_is_refused_unless_one_driver_is_promised(
    local: SmallRun, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    output = BucketPath.of(f"{bucket.url}/set")
    bucket.proxy.conditional_puts = False
    assert run(local, output) == 2
    assert "single_driver" in capsys.readouterr().err
    assert [path.name for path, _ in output.walk()] == []
    assert run(local, output, "--engine.single_driver=true") == 0
    assert published_in(output) == published_on(local.output)


@pytest.mark.slow
def test_new_version_replaces_the_old_one_and_the_manifest_comes_last(
    local: SmallRun, bucket: Bucket, server: LoopbackServer, tmp_path: Path
) -> None:
    output = BucketPath.of(f"{bucket.url}/set")
    for shards in ("--shards.samples_per_shard=2", "--shards.samples_per_shard=3"):
        bucket.proxy.forget()
        assert run(local, output, shards) == 0
        twin = SmallRun(root=local.root, config=local.config, output=tmp_path / shards[-1])
        assert run(twin, twin.output, shards) == 0
        assert published_in(output) == published_on(twin.output)
        touched = [
            request.key
            for request, _ in bucket.proxy.log
            if request.method in ("PUT", "DELETE") and "set/shards/" in request.key
        ]
        assert touched[0].endswith("manifest.json")
        assert touched[-1].endswith("manifest.json")
    assert not [path for path, _ in (output / "work" / "shards").walk() if path.suffix == ".tar"]


@pytest.mark.slow
def test_pictures_in_a_shared_store_are_asked_for_once(
    local: SmallRun, bucket: Bucket, server: LoopbackServer, tmp_path: Path
) -> None:
    asked = len(server.requests)
    for output in (f"{bucket.url}/one", f"{bucket.url}/two", str(tmp_path / "three")):
        assert run(local, output, f"--fetch.store={bucket.url}/pictures") == 0
    assert len(server.requests) - asked == len(_PATHS)
    assert published_in(BucketPath.of(f"{bucket.url}/two")) == published_on(tmp_path / "three")
    assert published_on(tmp_path / "three") == published_on(local.output)


@pytest.mark.slow
def test_damage_in_a_bucket_is_named_and_made_again(
    local: SmallRun, bucket: Bucket, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    output = BucketPath.of(f"{bucket.url}/set")
    assert run(local, output) == 0
    for path, _ in list((output / "work").walk()):
        if "/at/" in str(path) and "/fetch/" not in str(path):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.put(bytes(data))
    for path, _ in list((output / "shards").walk()):
        path.unlink()
    asked = len(server.requests)
    capsys.readouterr()
    assert run(local, output) == 0
    assert "damaged: work/" in capsys.readouterr().err
    assert len(server.requests) == asked
    assert published_in(output) == published_on(local.output)


def test_damaged_copy_costs_no_object(
    local: SmallRun, bucket: Bucket, server: LoopbackServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A machine's memory or disk at fault must not cost pictures that are whole in the bucket."""
    output = BucketPath.of(f"{bucket.url}/set")
    assert run(local, output) == 0
    (facts,) = (path for path, _ in (output / "work" / "fetch").walk() if path.name.endswith(".facts.parquet"))
    page = build(config_of_run(output)).run
    before = {str(path): size for path, size in (output / "work").walk()}
    said = withdraw(page, DamagedFileError(str(facts), "its bytes are not those that were written"))
    assert "whole in the bucket" in said
    assert {str(path): size for path, size in (output / "work").walk()} == before


def config_of_run(output: BucketPath) -> WitConfig:
    return dataclasses.replace(load(WitConfig, output / "config.yaml"), output=str(output))


@pytest.mark.slow
def test_repair_holds_the_store_of_pictures_too(
    local: SmallRun, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    output, store = BucketPath.of(f"{bucket.url}/set"), BucketPath.of(f"{bucket.url}/pictures")
    assert run(local, output, f"--fetch.store={store}") == 0
    (tar,) = (path for path, _ in store.walk() if path.suffix == ".tar")
    tar.put(b"x")
    with open_output(store):
        assert main(["verify", str(output), "--work", "--repair"]) == 2
    assert "holds it" in capsys.readouterr().err
    assert tar.is_file()


@pytest.mark.slow
def test_set_that_was_copied_out_of_a_bucket_goes_on_from_there(
    local: SmallRun, bucket: Bucket, server: LoopbackServer, tmp_path: Path
) -> None:
    output, copied = BucketPath.of(f"{bucket.url}/set"), tmp_path / "copied"
    assert run(local, output) == 0
    for path, _ in list(output.walk()):
        name = path.relative_to(output)
        if name != "lock" and not name.startswith("shards/"):
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            (copied / name).write_bytes(path.read_bytes())
    asked = len(server.requests)
    assert run(local, copied) == 0
    assert len(server.requests) == asked
    assert published_on(copied) == published_on(local.output)
    (tar,) = (copied / "work" / "fetch").rglob("*.tar")
    assert not can_punch(tmp_path) or b"\xff\xd8\xff" not in tar.read_bytes(), "a picture lies there once"
    assert run(local, copied, "--shards.samples_per_shard=2") == 0
    assert len(server.requests) == asked


@pytest.mark.slow
def test_set_whose_pictures_lie_once_on_a_disk_is_read_in_a_bucket(
    local: SmallRun, bucket: Bucket, server: LoopbackServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not can_punch(tmp_path):
        pytest.skip("the file system of the temporary directory has no holes")
    output, asked = BucketPath.of(f"{bucket.url}/set"), len(server.requests)
    for path in (path for path in local.output.rglob("*") if path.is_file() and path.name != "lock"):
        name = str(path.relative_to(local.output))
        if not name.startswith("versions/"):
            (output / name).put(path.read_bytes())
    for path in (local.output / "shards").iterdir():
        (output / "shards" / path.name).put(path.read_bytes())
    before = published_in(output)
    assert run(local, output) == 0
    assert main(["verify", str(output), "--work"]) == 0
    assert run(local, output, "--shards.samples_per_shard=2") == 2
    assert "run there once with --shards.keep_staging true" in capsys.readouterr().err
    assert published_in(output) == before
    assert run(local, local.output, "--shards.keep_staging=true") == 0
    for path in (local.output / "work" / "fetch").glob("*.tar"):
        (output / "work" / "fetch" / path.name).put(path.read_bytes())
    remove_tree(output / "work" / "released")
    assert run(local, output, "--shards.samples_per_shard=2") == 0
    assert len(server.requests) == asked


@pytest.mark.slow
def test_what_cannot_be_repaired_stays_as_it_is_until_it_is_requested_again(
    local: SmallRun, bucket: Bucket, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    output = BucketPath.of(f"{bucket.url}/set")
    assert run(local, output) == 0
    (staging,) = (path for path, _ in (output / "work" / "fetch").walk() if path.suffix == ".tar")
    for path in (staging, output / "shards" / "00000.tar"):
        data = bytearray(path.read_bytes())
        data[1000:2000] = bytes(1000)
        path.put(bytes(data))
    left = published_in(output)
    assert main(["verify", str(output), "--work", "--repair"]) == 2
    assert "cannot be repaired" in capsys.readouterr().err
    assert published_in(output) == left
    assert run(local, output) == 0
    assert published_in(output) == published_on(local.output)


@pytest.mark.slow
def test_empty_version_takes_the_place_of_what_is_blocked(local: SmallRun, bucket: Bucket, tmp_path: Path) -> None:
    output, twin = BucketPath.of(f"{bucket.url}/set"), tmp_path / "set"
    for place in (output, twin):
        assert run(local, place) == 0
        assert run(local, place, "--fetch.block=[127.0.0.1]") == 0
    assert published_in(output) == published_on(twin)


def test_store_of_pictures_that_is_not_there_is_refused_before_anything_is_written(
    local: SmallRun, bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(local, tmp_path / "set", f"--fetch.store=s3://no-{bucket.name}/pictures") == 2
    assert "there is no such bucket" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_who_lost_its_hold_writes_and_removes_nothing(bucket: Bucket) -> None:
    output = BucketPath.of(f"{bucket.url}/set")
    with open_output(output):
        write_bytes(output / "work" / "x", b"x")
        lock = json.loads((output / "lock").read_bytes())
        (output / "lock").put(json.dumps({**lock, "token": lock["token"] + 1}).encode())
        _LEASES[output]._renewed -= 60.0  # as if this process had slept for a minute
        for write in (
            lambda: write_bytes(output / "config.yaml", b"x"),
            lambda: append_line(output / "runs.jsonl", "x"),
            lambda: remove_tree(output / "work"),
        ):
            with pytest.raises(LockedError):
                write()
    assert (output / "work" / "x").is_file()
    assert not (output / "runs.jsonl").exists()


def test_hold_is_one_a_process(bucket: Bucket) -> None:
    output = BucketPath.of(f"{bucket.url}/set")
    with open_output(output), pytest.raises(LockedError, match="already"), open_output(output):
        pass


def test_keys_enter_nothing(local: SmallRun, bucket: Bucket, capfd: pytest.CaptureFixture[str]) -> None:
    output = BucketPath.of(f"{bucket.url}/set")
    assert run(local, output) == 0
    assert main(["status", str(output)]) == 0
    told = "".join(capfd.readouterr())
    secret = bucket.environment["AWS_SECRET_ACCESS_KEY"]
    assert secret not in told
    assert all(secret.encode() not in path.read_bytes() for path, _ in output.walk())


@pytest.mark.parametrize("left", [b"", pytest.param(b"damaged", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_output_that_lost_its_lock_goes_on(
    local: SmallRun, bucket: Bucket, capsys: pytest.CaptureFixture[str], left: bytes
) -> None:
    output = BucketPath.of(f"{bucket.url}/set")
    assert run(local, output) == 0
    (output / "lock").put(b'{"token": 1000, "free": true}')
    assert run(local, output, "--balance.max_pairs_per_query=1") == 0
    (output / "lock").unlink()
    if left:
        (output / "lock").put(left)
    assert run(local, output, "--balance.max_pairs_per_query=2") == 0, capsys.readouterr()


@pytest.mark.slow
def test_process_that_slept_while_it_published_puts_nothing_over_the_others(
    local: SmallRun, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, copy = BucketPath.of(f"{bucket.url}/set"), BucketPath.copy
    taken: list[BucketPath] = []

    def taken_over(self: BucketPath, to: BucketPath) -> None:
        if not taken:  # as if this process had slept for a minute, and another had run meanwhile
            lease = _LEASES[output]
            taken.append(to)
            lock = json.loads((output / "lock").read_bytes())
            (output / "lock").put(json.dumps({**lock, "token": lock["token"] + 1, "free": True}).encode())
            lease._renewed -= 60.0
        else:
            taken.append(to)
        copy(self, to)

    monkeypatch.setattr(publish_in_bucket, "_COPIES", 1)
    monkeypatch.setattr(BucketPath, "copy", taken_over)
    assert run(local, output, "--shards.samples_per_shard=1") == 2
    assert len(taken) == 1


@pytest.mark.slow
def test_tars_that_a_killed_run_left_twice_lie_once_after_the_next(local: SmallRun, bucket: Bucket) -> None:
    output = BucketPath.of(f"{bucket.url}/set")
    assert run(local, output) == 0
    (file,) = (
        each for each in _files_of_records(output) if each.path.endswith("/00000.tar") and "/shards/" in each.path
    )
    (output / "shards" / "00000.tar").copy(BucketPath.of(file.path))
    assert run(local, output) == 0
    assert not BucketPath.of(file.path).exists()
    assert published_in(output) == published_on(local.output)


@pytest.mark.parametrize("inside", ["", "/work/pictures", "/shards", "/versions/pictures"])
@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_store_of_pictures_in_a_place_that_runs_tidy_is_refused(
    local: SmallRun, bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str, inside: str
) -> None:
    output = str(tmp_path / "set") if where == "disk" else f"{bucket.url}/set"
    assert run(local, output, f"--fetch.store={output}{inside}") == 2
    assert "is a part of a data set" in capsys.readouterr().err
    if inside:
        assert run(local, f"{bucket.url}/other", f"--fetch.store={local.output}{inside}") == 2
        assert "is a part of a data set" in capsys.readouterr().err


def test_set_without_its_mark_says_how_to_put_it_back(
    local: SmallRun, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    output = BucketPath.of(f"{bucket.url}/set")
    assert run(local, output) == 0
    (output / "openwit.json").unlink()
    assert run(local, output) == 2
    assert 'put it there again, with {"layout_version": 1} in it' in capsys.readouterr().err


@pytest.mark.slow
def test_name_of_an_output_may_hold_what_patterns_and_urls_are_made_of(local: SmallRun, bucket: Bucket) -> None:
    url = f'{bucket.url}/it\'s a "set"; % [x] * +é'
    assert run(local, url) == 0
    assert published_in(BucketPath.of(url)) == published_on(local.output)
    assert main(["sql", url, "select count(*) from samples"]) == 0
    assert main(["verify", url, "--work"]) == 0


def test_machine_that_damages_what_it_made_again_is_named(
    local: SmallRun, bucket: Bucket, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = BucketPath.put

    def put_damaged(self: BucketPath, data: Any) -> None:
        put(self, b"of a bad memory" if self.name.endswith("matched.parquet") else data)

    monkeypatch.setattr(BucketPath, "put", put_damaged)
    assert run(local, f"{bucket.url}/set") == 2
    assert "look at the disk and the memory of the machine" in capsys.readouterr().err


def test_full_disk_of_this_machine_is_told_as_what_it_is(
    local: SmallRun, bucket: Bucket, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pipeline.engine.commit._perform", full)
    assert run(local, f"{bucket.url}/set") == 2
    assert (
        f"{tempfile.gettempdir()}: no space left on the disk for what goes to {bucket.url}" in capsys.readouterr().err
    )

"""The log of a run in a bucket: few requests, every event, and a store that fails harms nothing."""

from __future__ import annotations

import json

import pytest

from pipeline.runs import run_log
from pipeline.runs.last_run import last_run
from pipeline.runs.run_log import RunLog
from pipeline.storage.bucket import BucketPath
from tests.object_store.fixtures import Bucket
from tests.pipeline.test_run_log import ABOUT, a_now

STEP = {"step": "fetch", "title": "fetch and check images", "tasks": 12, "skipped": 0}


def events(output: BucketPath) -> list[str]:
    paths = sorted((output / "log").iterdir(), key=str)
    return [json.loads(line)["event"] for path in paths for line in path.read_text().splitlines()]


def test_lines_are_put_now_and_then_and_at_the_end(bucket: Bucket) -> None:
    output = BucketPath.of(f"{bucket.url}/set")
    log = RunLog(output, ABOUT)
    log.tell("step_start", STEP)
    bucket.proxy.forget()
    for number in range(50):
        log.tell("said", {"text": str(number)})
        log.tick(a_now())
    assert bucket.proxy.counts()["PUT"] == 1
    last = last_run(output)
    assert last is not None
    assert last.lives, "it is of this process"
    log.end("finished", None)
    assert events(output)[0] == "run_start"
    assert events(output).count("said") == 50
    assert events(output)[-1] == "run_end"
    last = last_run(output)
    assert last is not None
    assert last.end is not None


def test_long_log_is_of_several_objects(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "SEGMENT_BYTES", 500)
    monkeypatch.setattr(run_log, "_PUT_EVERY_S", 0.0)
    output = BucketPath.of(f"{bucket.url}/set")
    log = RunLog(output, ABOUT)
    log.tell("step_start", STEP)
    for number in range(20):
        log.tell("said", {"text": f"{number} " + 50 * "x"})
        log.tick(None)
    log.end("failed", RuntimeError("x"))
    names = sorted(path.name for path in (output / "log").iterdir())
    assert len(names) > 2
    assert [name.split(".")[1] for name in names] == [f"{number:03d}" for number in range(len(names))]
    assert events(output).count("said") == 20
    last = last_run(output)
    assert last is not None
    assert last.start["run"] == names[0].split(".")[0]
    assert last.end is not None
    assert last.end["error"] == "x"


def test_store_that_does_not_answer_ends_nothing(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "_PUT_EVERY_S", 0.0)
    output = BucketPath.of(f"{bucket.url}/set")
    log = RunLog(output, ABOUT)
    log.tell("step_start", STEP)
    monkeypatch.setattr(BucketPath, "put", _fails)
    log.tick(a_now())
    log.end("failed", None)
    monkeypatch.undo()
    assert not (output / "log").is_dir()


def _fails(self: BucketPath, data: object) -> None:
    raise OSError("the store does not answer")

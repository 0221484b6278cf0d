"""docs/watching.md: its commands are run as they stand, and what it says of events and metrics is what there is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.runs import metrics
from pipeline.runs.hints import Hint
from pipeline.runs.run_log import LOG_FORMAT
from tests.conftest import REPOSITORY
from tests.pipeline.loopback_server import LoopbackServer, answer
from tests.pipeline.small_run import SmallRun, picture
from tests.pipeline.test_run_log import a_now, stuck_task

PAGE = (REPOSITORY / "docs/watching.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```sh\n(.*?)\n```", PAGE, re.MULTILINE | re.DOTALL)
EVENTS = {
    name: set(re.findall(r"`(\w+)`", rest)) for name, rest in re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE)
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallRun]:
    with LoopbackServer({f"/{n}": answer(200, picture(n)) for n in range(4)}) as server:
        small = SmallRun.make(tmp_path_factory.mktemp("watched"), server, [f"/{n}" for n in range(4)])
        (small.root / "data").mkdir()
        (small.root / "data/sample").symlink_to(small.output)
        (small.root / ".venv").symlink_to(sys.prefix)
        assert small.run() == 0
        yield small


@pytest.mark.parametrize("command", COMMANDS)
def test_command_works(command: str, made: SmallRun) -> None:
    words = command.replace("configs/shards/sample.yaml", str(made.config))
    done = subprocess.run(
        ["bash", "-c", words], cwd=made.root, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout or "--metrics-file" in command


def _said(name: str) -> set[str]:
    """The fields that the page tells of an event, with those that it names by another's row."""
    told = EVENTS[name] | {"at", "event"}
    if name == "task_stuck":
        return told
    return told | (EVENTS["progress"] if name == "step_end" else set())


def test_events_have_the_fields_that_are_told(made: SmallRun) -> None:
    lines = [line for path in sorted((made.output / "log").iterdir()) for line in path.read_text().splitlines()]
    for event in map(json.loads, lines):
        assert set(event) <= _said(event["event"]), event["event"]
        if event["event"] not in ("step_end", "progress"):
            assert set(event) - {"error"} == _said(event["event"]) - {"error"} - _values(event["event"])
    assert set(a_now().plain()) | {"slowest", "stuck", "num_stuck", "next_s"} == EVENTS["progress"]
    assert set(stuck_task().plain()) | {"step", "slowest"} == EVENTS["task_stuck"]
    assert set(Hint.__dataclass_fields__) == EVENTS["hint"]
    assert f"`format` ({LOG_FORMAT};" in PAGE


def _values(name: str) -> set[str]:
    """Words in quotes that are no fields."""
    values = {"run_start": {"status"}, "run_end": {"finished", "empty", "failed", "stopped"}}
    return values.get(name, set())


def test_metrics_are_those_that_are_told() -> None:
    assert set(re.findall(r"`(openwit_\w+)`", PAGE)) == set(metrics._METRICS)


def test_kept_files_are_told_in_the_formats() -> None:
    formats = (REPOSITORY / "docs/formats.md").read_text(encoding="utf-8")
    assert "`log/RUN.NNN.jsonl`" in formats
    assert Path(REPOSITORY / "docs/watching.md").exists()

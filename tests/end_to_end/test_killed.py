"""Killed at any moment and run again: the same bytes, and finished work is not redone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.load import dump
from pipeline.config import WitConfig
from tests.conftest import REPOSITORY
from tests.end_to_end.conftest import published_hashes


def _start(config: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipeline", "run", str(config)]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL, start_new_session=True)


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists(), f"{path} never came"


def _kill_when(path: Path, config: Path, delay_s: float) -> None:
    process = _start(config)
    _wait_for(path, process)
    time.sleep(delay_s)
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("moment", "delay_s"),
    [
        pytest.param("work/fetch/done", 0.3, marks=pytest.mark.slow),
        pytest.param("work/texts/done", 0.05, marks=pytest.mark.slow),
        pytest.param("work/dedup/done", 0.02, marks=pytest.mark.slow),
        pytest.param("work/schedule/manifest.json", 0.8, marks=pytest.mark.slow),
        pytest.param("work/shards/done", 0.01, marks=pytest.mark.slow),
        pytest.param("versions", 0.0, marks=pytest.mark.slow),
    ],
)
def test_killed_run_goes_on_to_the_same_bytes(
    moment: str, delay_s: float, finished: Path, make_config: Callable[..., WitConfig], tmp_path: Path
) -> None:
    output = tmp_path / "set"
    config = tmp_path / "config.yaml"
    config.write_text(dump(make_config(output)))
    _kill_when(output / moment, config, delay_s)
    kept = {path: path.stat().st_mtime_ns for path in output.glob("work/*/done/*.json")}
    process = _start(config)
    assert process.wait(timeout=240) == 0
    assert published_hashes(output) == published_hashes(finished)
    changed = [str(path) for path, time_ns in kept.items() if path.stat().st_mtime_ns != time_ns]
    assert not changed, "finished tasks were done again"
    assert not [path for path in output.rglob("*") if ".tmp-" in path.name]


@pytest.mark.slow
def test_killed_workers_cost_nothing(finished: Path, make_config: Callable[..., WitConfig], tmp_path: Path) -> None:
    output = tmp_path / "set"
    config = tmp_path / "config.yaml"
    config.write_text(dump(make_config(output)))
    process = _start(config)
    killed = 0
    for moment in ("work/texts", "work/fetch"):
        _wait_for(output / moment, process)
        killed += _kill_one_worker(process.pid)
    assert process.wait(timeout=240) == 0
    assert killed
    assert published_hashes(output) == published_hashes(finished)
    assert json.loads((output / "runs.jsonl").read_text())["status"] == "finished"


def _kill_one_worker(driver: int) -> int:
    """SIGKILL to one busy Ray worker of this run; they are in the driver's session."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            name = (entry / "cmdline").read_bytes()
            if name.startswith(b"ray::run_parcel") and os.getsid(int(entry.name)) == driver:
                os.kill(int(entry.name), signal.SIGKILL)
                return 1
        except (OSError, ProcessLookupError):
            continue
    return 0

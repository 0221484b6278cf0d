"""The desk of a step: one clerk for all of its tasks, whatever process they run in, and whichever of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from pipeline.engine import (
    DeskError,
    Engine,
    EngineConfig,
    Info,
    Task,
    apart,
    desk_here,
    open_engine,
    output,
)
from pipeline.engine.desk import DeskTicket, at_desk, inline_desk
from pipeline.storage.location import Location
from tests.conftest import REPOSITORY


class Counter:
    """A clerk that counts what it is asked."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def serve(self, message: bytes, now_s: float) -> bytes:
        self.count += 1
        return b"%d" % self.count

    def dump(self) -> bytes:
        return b"%d" % self.count

    @classmethod
    def load(cls, data: bytes) -> Self:
        return cls(int(data)) if data.isdigit() else cls.after_loss()

    @classmethod
    def after_loss(cls) -> Self:
        return cls(1_000_000)


@dataclass(frozen=True, kw_only=True)
class Out:
    told: Location = output("txt")


@dataclass(frozen=True, kw_only=True)
class AskDesk(Task[Out]):
    times: int = apart()

    @property
    def clerk(self) -> type[Any]:
        return Counter

    def work(self, out: Out) -> Info:
        desk = desk_here()
        assert desk is not None
        told = [int(desk.ask(b"", 10.0)) for _ in range(self.times)]
        out.told.local.write_text("told")
        return {"told": told, "number": desk.number, "process": os.getpid()}


@dataclass(frozen=True, kw_only=True)
class HasNone(Task[Out]):
    def work(self, out: Out) -> Info:
        assert desk_here() is None
        out.told.local.write_text("none")
        return {}


def ask_from_all(engine: Engine, directory: Path, tasks: int, times: int) -> Sequence[Any]:
    records = engine.run_step(directory, [AskDesk(partition=f"{i:02d}", times=times) for i in range(tasks)])
    engine.run_step(directory.with_name("without"), [HasNone(partition="a")])
    return [record.info for record in records]


def test_tasks_of_this_process_share_a_desk(tmp_path: Path) -> None:
    with open_engine(EngineConfig(kind="inline")) as engine:
        said = ask_from_all(engine, tmp_path / "step", 3, 2)
    assert [info["told"] for info in said] == [[1, 2], [3, 4], [5, 6]]
    assert desk_here() is None


def test_workers_share_a_desk(ray_engine: Engine, tmp_path: Path) -> None:
    said = ask_from_all(ray_engine, tmp_path / "step", 6, 20)
    assert sorted(number for info in said for number in info["told"]) == list(range(1, 121))
    assert {info["number"] for info in said} <= set(range(6))
    assert all(info["number"] >= 0 for info in said)
    again = ask_from_all(ray_engine, tmp_path / "other", 1, 1)
    assert again[0]["told"] == [1]  # each step has its own


ASK_FOR_EVER = """
import sys
from pipeline.engine.desk import DeskTicket, at_desk, desk_here
from tests.pipeline.test_engine_desk import Counter
with at_desk(DeskTicket(Counter, 0, sys.argv[1], 0), ()):
    while True:
        desk_here().ask(b"", 10.0)
"""


def ask(directory: Path) -> int:
    with at_desk(DeskTicket(Counter, 0, str(directory), 0), ()):
        desk = desk_here()
        assert desk is not None
        return int(desk.ask(b"", 10.0))


def test_a_process_that_is_killed_at_the_desk_holds_up_nobody(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASK_FOR_EVER, str(tmp_path)]
    others = [subprocess.Popen(command, cwd=REPOSITORY) for _ in range(2)]
    try:
        while not (tmp_path / "state").exists():
            assert others[0].poll() is None
            time.sleep(0.01)
        before = 0
        for other in others:
            time.sleep(0.1)
            other.send_signal(signal.SIGKILL)
            other.wait()
            found = ask(tmp_path)
            assert found > before
            before = found
    finally:
        for other in others:
            other.kill()
    assert ask(tmp_path) == before + 1  # they were served whole, or not at all


def test_a_desk_whose_state_is_damaged_says_so_to_its_clerk(tmp_path: Path) -> None:
    ask(tmp_path)
    (tmp_path / "state").write_bytes(b"\xff")
    assert ask(tmp_path) == 1_000_001


def test_a_desk_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    with pytest.raises(DeskError, match="No such file"):
        ask(tmp_path / "gone")


def test_no_clerk_no_desk() -> None:
    assert inline_desk(None) is None

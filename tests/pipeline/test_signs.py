"""Signs of life of tasks on Ray: they reach the driver while the task runs, and their loss harms nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import EngineConfig, Info, Task, apart, open_engine, output
from pipeline.engine.signs import Signing, deliver, pack_sign, signs_of
from pipeline.engine.start_ray import RayStart, start_ray
from pipeline.storage.location import Location
from pipeline.terminal.progress import Progress
from pipeline.watching import Counts, Now, Sign, StepWatch, counting
from tests.pipeline.test_watching import Told


@dataclass(frozen=True, kw_only=True)
class Text:
    text: Location = output("txt")


@dataclass(frozen=True, kw_only=True)
class Count(Task[Text]):
    """Counts to 40 in two seconds, or more; with `flag` its process dies half way, once."""

    flag: str = apart(default="")
    pause_s: float = apart(default=0.05)

    @property
    def subject(self) -> str:
        return "numbers"

    def work(self, out: Text) -> Info:
        tally = counting("number", total=40, kept_as="even")
        for number in range(40):
            tally.done += 1
            tally.kept += number % 2 == 0
            time.sleep(self.pause_s)
            if number == 30 and self.flag and not Path(self.flag).exists():
                Path(self.flag).touch()
                time.sleep(2.5)  # its sign is seen, on a busy machine, too
                os.kill(os.getpid(), signal.SIGKILL)
        out.text.local.write_text("40")
        return {"rows": 40}


class Watcher(Told):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Now] = []

    def tick(self, now: Now | None) -> None:
        self.seen += [] if now is None else [now]


def _watched(root: Path, flag: Path | None = None, *, pause_s: float = 0.05) -> tuple[Watcher, list[Any]]:
    progress, watcher = Progress(quiet=True), Watcher()
    tasks = [Count(partition="a", pause_s=pause_s), Count(partition="b", pause_s=pause_s, flag=str(flag or ""))]
    with progress.listened_to(watcher), open_engine(EngineConfig(num_cpus=2), progress) as engine:
        done = engine.run_step(root / "step", tasks, title="count")
    return watcher, done


@pytest.mark.slow
def test_local_ray_tells_of_tasks_while_they_run_and_of_those_that_began_again(tmp_path: Path) -> None:
    watcher, done = _watched(tmp_path, tmp_path / "died")
    inside = [now for now in watcher.seen if now.done < 2 and 0 < now.counts.done < 80]
    assert inside
    assert any(0.4 < (now.kept_share or 0) < 0.7 for now in inside)
    assert {task.subject for now in inside for task in now.slowest} == {"numbers"}
    (end,) = [about for event, about in watcher.events if event == "step_end"]
    assert (end["unit"], end["units"], end["kept"], end["rows"]) == ("number", 80, 40, 80)
    (again,) = [about for event, about in watcher.events if event == "task_retried"]
    assert again["task"] == "b"
    # What is recorded knows nothing of who watched.
    unwatched = Count(partition="a")
    assert done[0].key == unwatched.key
    assert dict(done[0].info) == {"rows": 40}


@pytest.mark.slow  # a Ray, and an actor that takes a while to start
def test_ray_of_somebody_else_tells_by_an_actor(tmp_path: Path) -> None:
    start = RayStart(
        address=None, num_cpus=2, object_store_bytes=128 << 20, packages=[], option="", otherwise="",
    )  # fmt: skip
    with start_ray(start):
        watcher, _ = _watched(tmp_path, pause_s=0.15)  # the engine takes the Ray that is up as it is
    inside = [now for now in watcher.seen if now.done < 2 and 0 < now.counts.done < 80]
    assert inside
    (end,) = [about for event, about in watcher.events if event == "step_end"]
    assert end["units"] == 80


def test_sign_that_cannot_be_put_costs_the_task_nothing(tmp_path: Path) -> None:
    with signs_of("a", Signing(str(tmp_path / "gone"), 0.01), ()) as now:
        counting("number").done += 3
        time.sleep(0.05)
        assert now.look().counts.done == 3
    assert not [thread for thread in threading.enumerate() if thread.name == "signs of life" and not thread.daemon]


def test_sign_that_cannot_be_read_is_passed_over() -> None:
    class Box:
        def take(self) -> list[bytes]:
            good = Sign(task="a", attempt="x", node="n", process=1, seconds=1.0, quiet_s=0.0, counts=Counts("row", 3))
            return [b"\xc1", b"", pack_sign(good)[:-3], pack_sign(good)]

    watch = StepWatch(step="s", title="s", tasks=1, skipped=0)
    watch.given("a", key="k", subject="")
    deliver(Box(), watch)  # type: ignore[arg-type]  # all that is asked of it is there
    assert watch.now().counts.done == 3


@pytest.mark.parametrize(("in_flight", "every_s"), [(4, 1.0), (500, 1.0), (16_000, 32.0)])
def test_more_workers_sign_more_seldom(in_flight: int, every_s: float) -> None:
    from pipeline.engine.signs import SignBox

    class Box(SignBox):
        def take(self) -> list[bytes]:
            return []

    assert Box().signing(in_flight).every_s == every_s

"""What is known of a step while it runs, and what is shown of it."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.terminal import progress as progress_module
from pipeline.terminal.console import PrintableConsole
from pipeline.terminal.progress import Progress
from pipeline.terminal.step_line import clock_of, end_line, step_line
from pipeline.watching import Counts, Now, Sign, StepWatch, counting, running, tally_here

HOUR = 3600.0


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def sign(task: str, *, done: int = 0, total: int = 0, seconds: float = 1.0, quiet_s: float = 0.0, **more: Any) -> Sign:
    about = {"attempt": "a", "node": "n", "process": 7} | {k: v for k, v in more.items() if k in ("attempt", "process")}
    counted = {k: v for k, v in more.items() if k not in about}
    counts = Counts(unit="URL", done=done, total=total, kept_as="ok", **counted)
    return Sign(task=task, seconds=seconds, quiet_s=quiet_s, counts=counts, **about)


def watch_of(tasks: int, clock: Clock, *, skipped: int = 0) -> StepWatch:
    watch = StepWatch(step="fetch", title="fetch and check images", tasks=tasks, skipped=skipped, clock=clock)
    for number in range(skipped, tasks):
        watch.given(str(number), key=f"key{number}", subject=f"subject {number}")
    return watch


# --- a task's numbers -----------------------------------------------------------------------------


def test_task_counts_where_it_is_watched_and_nowhere_else() -> None:
    assert counting("URL", total=3) is tally_here(), "nobody's: it may be added to all the same"
    with running("a") as now:
        tally = counting("URL", total=4, kept_as="ok")
        tally.done += 1
        tally.kept += 1
        assert now.look().counts == Counts(unit="URL", done=1, total=4, kept=1, kept_as="ok")
        assert now.look().counts.share == 0.25
    assert tally_here() is not tally


def test_task_that_says_nothing_is_told_by_the_rows_that_it_reads() -> None:
    with running("a") as now:
        assert now.look().counts == Counts()
        tally_here().rows_read += 10
        assert now.look().counts == Counts(unit="row", done=10)


def test_silence_is_since_the_counts_changed() -> None:
    with running("a") as now:
        time.sleep(0.05)
        tally_here().rows_read += 1
        assert now.look().quiet_s < 0.05
        time.sleep(0.02)
        assert now.look().quiet_s >= 0.02


# --- what is known of a step ----------------------------------------------------------------------


def test_rates_success_and_time_left_come_from_inside_the_tasks() -> None:
    clock = Clock()
    watch = watch_of(2, clock)
    assert watch.now().left_s is None
    for second in range(1, 21):
        clock.now += 1
        watch.heard(sign("0", done=10 * second, total=1000, kept=9 * second, num_bytes=1000 * second, seconds=second))
        watch.heard(sign("1", done=10 * second, total=1000, kept=9 * second, num_bytes=1000 * second, seconds=second))
        now = watch.now()
    assert (now.done, now.running, now.counts.done, now.counts.num_bytes) == (0, 2, 400, 40_000)
    assert now.units_per_s == pytest.approx(20)
    assert now.bytes_per_s == pytest.approx(2000)
    assert now.kept_share == 0.9
    assert now.left_s == pytest.approx(80), "a fifth is done after 20 s"


def test_time_left_stays_blank_until_it_can_be_told() -> None:
    clock = Clock()
    watch = watch_of(100, clock)
    clock.now += 60
    assert watch.now().left_s is None, "nothing is done"
    watch.heard(sign("0", done=1, total=1000))
    clock.now += 60
    assert watch.now().left_s is None, "a thousandth of one task of a hundred"


def test_time_left_is_of_the_tasks_of_this_run() -> None:
    clock = Clock()
    watch = watch_of(100, clock, skipped=50)
    watch.now()
    for number in range(50, 60):
        clock.now += 10
        watch.ended(sign(str(number), seconds=10), rows=5)
        now = watch.now()
    assert (now.done, now.rows, now.left_s) == (60, 50, pytest.approx(400))


def test_counts_of_a_task_that_ended_stay_and_late_signs_are_old_news() -> None:
    clock = Clock()
    watch = watch_of(2, clock)
    watch.heard(sign("0", done=5, total=10))
    watch.ended(sign("0", done=10, total=10), rows=10)
    watch.heard(sign("0", done=7, total=10))
    assert (watch.now().counts.done, watch.now().running) == (10, 0)


def test_task_that_began_again_is_told_once() -> None:
    clock = Clock()
    watch = watch_of(1, clock)
    watch.heard(sign("0", done=500, total=1000))
    watch.heard(sign("0", done=3, total=1000, attempt="b", process=8))
    assert watch.take_retries() == [("0", "what process 7 on n had begun came to nothing")]
    assert not watch.take_retries()
    assert (watch.now().counts.done, watch.now().retried) == (3, 1)


@pytest.mark.parametrize(("quiet_s", "is_stuck"), [(299.0, False), (301.0, True)])
def test_task_that_counts_nothing_more_for_five_minutes_is_stuck(quiet_s: float, is_stuck: bool) -> None:
    clock = Clock()
    watch = watch_of(2, clock)
    watch.heard(sign("0", done=5, total=1000, seconds=HOUR, quiet_s=quiet_s))
    watch.heard(sign("1", done=5, total=1000, seconds=HOUR))
    assert [(task.task, task.key, task.subject) for task in watch.now().stuck] == [("0", "key0", "subject 0")][
        :is_stuck
    ]


@pytest.mark.parametrize(("quiet_s", "is_stuck"), [(900.0, False), (1100.0, True)])
def test_where_tasks_are_long_a_stuck_one_is_ten_times_as_long(quiet_s: float, is_stuck: bool) -> None:
    clock = Clock()
    watch = watch_of(4, clock)
    for number in range(3):
        watch.ended(sign(str(number), seconds=100.0), rows=1)
    watch.heard(sign("3", done=5, total=1000, seconds=HOUR, quiet_s=quiet_s))
    assert bool(watch.now().stuck) is is_stuck


def test_task_that_never_counts_is_not_called_stuck_before_others_have_ended() -> None:
    clock = Clock()
    watch = watch_of(2, clock)
    watch.heard(Sign(task="1", attempt="a", node="n", process=7, seconds=HOUR, quiet_s=HOUR))
    assert not watch.now().stuck
    watch.ended(sign("0", seconds=1.0), rows=1)
    assert [task.task for task in watch.now().stuck] == ["1"]


def test_worker_that_is_not_heard_of_any_more_is_quiet_too() -> None:
    clock = Clock()
    watch = watch_of(1, clock)
    watch.heard(sign("0", done=1, total=10))
    clock.now += 400
    assert watch.now().stuck[0].quiet_s == 400


# --- what is shown --------------------------------------------------------------------------------


def a_now(**changed: Any) -> Now:
    facts: dict[str, Any] = {
        "step": "fetch", "title": "fetch and check images", "tasks": 12, "done": 3, "skipped": 0, "running": 2,
        "rows": 0, "seconds": 185.0, "units_per_s": 1412.0, "bytes_per_s": 31_200_000.0, "left_s": 760.0,
        "counts": Counts(unit="URL", done=100, kept=92, kept_as="ok", num_bytes=10), "slowest": [], "stuck": [],
        "retried": 0,
    }  # fmt: skip
    return Now(**(facts | changed))


def test_eighty_columns_hold_all_that_matters() -> None:
    line = step_line(a_now(), 80)
    assert line == "fetch and check i…  3/12  1,412 URLs/s  31.2 MB/s  92% ok  0:03:05  0:12:40 left"


def test_a_wider_terminal_shows_more_and_a_narrow_one_keeps_tasks_and_times() -> None:
    assert step_line(a_now(), 120).startswith("fetch and check images  3/12  ")
    assert step_line(a_now(), 120).endswith("  2 running")
    assert step_line(a_now(), 48) == "fetch and check im…  3/12  0:03:05  0:12:40 left"
    assert step_line(a_now(tasks=90_000, done=45_000), 40).endswith("  45,000/90,000  0:03:05")


@given(
    width=st.integers(30, 200),
    tasks=st.integers(1, 10**6),
    seconds=st.floats(0, 10**7),
    rate=st.one_of(st.none(), st.floats(0, 10**9)),
    left=st.one_of(st.none(), st.floats(0, 10**8)),
    title=st.text(min_size=1, max_size=60),
)
def test_no_line_is_wider_than_the_terminal(
    width: int, tasks: int, seconds: float, rate: float | None, left: float | None, title: str
) -> None:
    now = a_now(tasks=tasks, done=tasks, seconds=seconds, units_per_s=rate, left_s=left, title=title)
    assert len(step_line(now, width)) <= width
    assert len(step_line(now, width, pad=True)) <= width


def test_what_is_not_known_is_not_shown() -> None:
    bare = a_now(units_per_s=None, bytes_per_s=None, left_s=None, running=0, counts=Counts())
    assert step_line(bare, 80) == "fetch and check images  3/12  0:03:05"


def test_end_of_a_step_fits_eighty_columns() -> None:
    line = end_line(a_now(done=12, rows=100), 80)
    assert line == "  fetch and check images               12 tasks    185.0 s  100 URLs  92% ok"
    assert end_line(a_now(done=12, rows=100), 120).endswith("1,412 URLs/s  31.2 MB/s")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(7.9, "0:00:07"), (3605, "1:00:05"), (86_400 * 2 + 3 * 3600 + 900, "2 d 03:15:00")]
)
def test_times_are_read_at_a_glance(seconds: float, shown: str) -> None:
    assert clock_of(seconds) == shown


# --- who is told ----------------------------------------------------------------------------------


@dataclass
class Told:
    events: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    ticks: int = 0

    def tell(self, event: str, about: Mapping[str, Any]) -> None:
        self.events.append((event, about))

    def tick(self, now: Now | None) -> None:
        self.ticks += 1


def _run_step(progress: Progress, seconds: float) -> None:
    with progress.step("fetch", "fetch and check images", tasks=1, skipped=0) as watch, running("a") as now:
        watch.given("a", key="the-key", subject="a list of URLs")
        watch.look = lambda: watch.heard(now.look())
        tally = counting("URL", total=10, kept_as="ok")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            tally.done = min(tally.done + 1, 10)
            time.sleep(0.01)
        watch.ended(now.look(), rows=10)


def _console(*, is_terminal: bool, width: int = 80) -> tuple[PrintableConsole, io.StringIO]:
    file = io.StringIO()
    return PrintableConsole(file=file, force_terminal=is_terminal, width=width), file


def test_terminal_has_one_line_that_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_LOOK_EVERY_S", 0.05)
    console, file = _console(is_terminal=True)
    _run_step(Progress(console), 0.4)
    shown = file.getvalue()
    assert "fetch and check images    0/1" in shown
    assert re.search(r"\x1b\[\d*[A-K]", shown), "lines are taken back"
    last = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", shown).splitlines()[-1]
    assert re.fullmatch(r"  fetch and check images                1 task       0\.\d s  10 URLs  0% ok(  .*)?", last)


def test_without_a_terminal_there_are_plain_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(progress_module, "_PLAIN_EVERY_S", 0.15)
    console, file = _console(is_terminal=False)
    _run_step(Progress(console), 0.4)
    lines = file.getvalue().splitlines()
    assert 2 <= len(lines) <= 4
    assert all(line.startswith("  fetch and check images") for line in lines)
    assert "\x1b" not in file.getvalue()
    assert "\r" not in file.getvalue()


def test_stuck_task_is_named_once_to_people_and_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_LOOK_EVERY_S", 0.02)
    monkeypatch.setattr("pipeline.watching.step_watch.STUCK_AFTER_S", 0.1)
    console, file = _console(is_terminal=False)
    progress, told = Progress(console), Told()
    with progress.listened_to(told):
        _run_step(progress, 0.5)
    stuck = [about for event, about in told.events if event == "task_stuck"]
    assert [(about["task"], about["key"], about["subject"]) for about in stuck] == [("a", "the-key", "a list of URLs")]
    assert file.getvalue().count("stuck: a (a list of URLs), 10 of 10 URLs") == 1
    assert [event for event, _ in told.events] == ["step_start", "task_stuck", "step_end"]


def test_a_listener_that_fails_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_LOOK_EVERY_S", 0.02)

    class Broken(Told):
        def tell(self, event: str, about: Mapping[str, Any]) -> None:
            raise RuntimeError("broken")

        def tick(self, now: Now | None) -> None:
            self.ticks += 1
            raise RuntimeError("broken")

    progress, broken = Progress(quiet=True), Broken()
    with progress.listened_to(broken):
        _run_step(progress, 0.2)
    assert broken.ticks > 1


def test_nobody_who_watches_costs_no_thread() -> None:
    import threading

    before = threading.active_count()
    with Progress(quiet=True).step("fetch", "fetch", tasks=1, skipped=0):
        assert threading.active_count() == before

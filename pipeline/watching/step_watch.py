"""A step that runs, as it is known from signs of life: how fast, how well, how long still, and who is stuck.

    given, heard(sign), ended  -->  StepWatch  --now()-->  Now

What can not be told is None: a time that is left needs something that was done to be told by.
"""

from __future__ import annotations

import dataclasses
import heapq
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.watching.tally import Counts, Sign

__all__ = ["Now", "StepWatch", "TaskNow"]

STUCK_AFTER_S = 300.0
"""A task is stuck when it counted nothing for so long, and for ten times what a task of its step takes."""
_STUCK_TIMES = 10.0
_RATE_OVER_S = 30.0
"""What a rate is the mean of: short enough to see a change, long enough that a batch makes no jump."""
_SAMPLE_EVERY_S = 1.0
_LEFT_AFTER_S = 5.0
_LEFT_FROM = 0.05
"""Of all work, or a whole task: with less done, the time that is left would be a guess."""
_PACE_OVER_S = 60.0
_RECENT_TASKS = 10
_RECENT_SHARES = 2
"""What a pace is told by at least, of tasks that are done or not, and of such that say how far they are."""
_DURATIONS = 1001
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class TaskNow:
    """A task that runs."""

    task: str
    key: str
    subject: str
    """What it works on; empty where it does not say."""
    node: str
    process: int
    seconds: float
    """Since it began."""
    quiet_s: float
    """Since it counted anything, or began."""
    counts: Counts

    def plain(self) -> dict[str, Any]:
        """As JSON has it (docs/watching.md)."""
        counts = self.counts
        of = {"task": self.task, "key": self.key, "subject": self.subject, "node": self.node, "process": self.process}
        times = {"seconds": round(self.seconds, 1), "quiet_s": round(self.quiet_s, 1)}
        return {**of, **times, "unit": counts.unit, "units": counts.done, "units_total": counts.total or None}


@dataclass(frozen=True, kw_only=True)
class Now:
    """A step that runs, at a moment."""

    step: str
    title: str
    tasks: int
    done: int
    """Tasks; with those that were done before."""
    skipped: int
    """Tasks that were done before."""
    running: int
    """Tasks that are known to run: those that wait for room do not."""
    rows: int
    """That finished tasks told."""
    seconds: float
    counts: Counts
    """Of all tasks of this run together: those that ended, and those that run."""
    units_per_s: float | None
    """Of late."""
    bytes_per_s: float | None
    """Of late."""
    left_s: float | None
    slowest: Sequence[TaskNow]
    """A few that run, the longest first."""
    stuck: Sequence[TaskNow]
    retried: int
    """Tasks that began again after their process, or their node, died."""

    @property
    def kept_share(self) -> float | None:
        """Of the units that are done, since the step began; None where no task says so."""
        return self.counts.kept / self.counts.done if self.counts.kept_as and self.counts.done else None

    def at_end(self) -> Now:
        """Of a step that is over: its rates are of all of it."""
        seconds, counts = max(self.seconds, 1e-3), self.counts
        units = counts.done / seconds if counts.unit else None
        num_bytes = counts.num_bytes / seconds if counts.num_bytes else None
        return dataclasses.replace(self, units_per_s=units, bytes_per_s=num_bytes, left_s=None)

    def plain(self) -> dict[str, Any]:
        """As JSON has it (docs/watching.md), but for the tasks that run."""
        counts = self.counts
        return {
            "step": self.step,
            "title": self.title,
            "tasks": self.tasks,
            "done": self.done,
            "skipped": self.skipped,
            "running": self.running,
            "retried": self.retried,
            "seconds": round(self.seconds, 1),
            "rows": self.rows,
            "unit": counts.unit,
            "units": counts.done,
            "units_per_s": _rounded(self.units_per_s),
            "kept": counts.kept if counts.kept_as else None,
            "kept_as": counts.kept_as or None,
            "bytes": counts.num_bytes,
            "bytes_per_s": _rounded(self.bytes_per_s),
            "left_s": _rounded(self.left_s),
        }


class _Sample(NamedTuple):
    at: float
    units: int
    num_bytes: int
    work: float
    """In tasks."""


@dataclass(slots=True)
class _Live:
    """A task that was given to somebody, and what is known of it."""

    key: str
    subject: str
    sign: Sign | None = None
    heard: float = 0.0


@dataclass(slots=True)
class _Sums:
    unit: str = ""
    kept_as: str = ""
    done: int = 0
    kept: int = 0
    num_bytes: int = 0
    share: float = 0.0

    def add(self, counts: Counts, sign: int, *, share: bool) -> None:
        self.unit, self.kept_as = self.unit or counts.unit, self.kept_as or counts.kept_as
        self.done += sign * counts.done
        self.kept += sign * counts.kept
        self.num_bytes += sign * counts.num_bytes
        if share:
            self.share += sign * counts.share


@dataclass(kw_only=True)
class StepWatch:
    """What is known of a step while it runs. Threads may share it."""

    step: str
    title: str
    tasks: int
    skipped: int
    look: Callable[[], None] | None = None
    """Brings new signs, where they must be fetched: called by whoever asks for `now`, before."""
    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _live: dict[str, _Live] = field(default_factory=dict)
    _sums: _Sums = field(default_factory=_Sums)
    _durations: deque[float] = field(default_factory=lambda: deque(maxlen=_DURATIONS))

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._done, self._rows, self._retried = self.skipped, 0, 0
        self._samples: deque[_Sample] = deque([_Sample(self._began, 0, 0, 0.0)])
        self._retries: list[tuple[str, str]] = []

    # --- what is heard ---------------------------------------------------------------------------

    def given(self, task: str, *, key: str, subject: str) -> None:
        """The task was handed to somebody: it waits, or runs."""
        with self._lock:
            self._live[task] = _Live(key, subject)

    def heard(self, sign: Sign) -> None:
        """A task was looked at. What is said of one that ended is old news."""
        with self._lock:
            live = self._live.get(sign.task)
            if live is None:
                return
            if live.sign is not None:
                self._sums.add(live.sign.counts, -1, share=True)
                if live.sign.attempt != sign.attempt:
                    self._retried += 1
                    self._retries.append(
                        (sign.task, f"what process {live.sign.process} on {live.sign.node} had begun came to nothing")
                    )
            live.sign, live.heard = sign, self.clock()
            self._sums.add(sign.counts, 1, share=True)

    def ended(self, sign: Sign, *, rows: int) -> None:
        """The task is done; `sign` is its last."""
        with self._lock:
            live = self._live.pop(sign.task, None)
            if live is not None and live.sign is not None:
                self._sums.add(live.sign.counts, -1, share=True)
            self._sums.add(sign.counts, 1, share=False)
            self._durations.append(sign.seconds)
            self._done += 1
            self._rows += rows

    # --- what is known ---------------------------------------------------------------------------

    def take_retries(self) -> list[tuple[str, str]]:
        """Tasks that began again since this was asked last, and why."""
        with self._lock:
            taken, self._retries = self._retries, []
            return taken

    def now(self) -> Now:
        """All of it."""
        with self._lock:
            at, sums = self.clock(), self._sums
            work = self._done - self.skipped + max(sums.share, 0.0)
            sample = _Sample(at, sums.done, sums.num_bytes, work)
            if at - self._samples[-1].at >= _SAMPLE_EVERY_S:
                self._samples.append(sample)
            self._forget(sample)
            since = self._since(sample, _RATE_OVER_S)
            passed = at - since.at
            running = [live for live in self._live.values() if live.sign is not None]
            return Now(
                step=self.step,
                title=self.title,
                tasks=self.tasks,
                done=self._done,
                skipped=self.skipped,
                running=len(running),
                rows=self._rows,
                seconds=at - self._began,
                counts=Counts(sums.unit, sums.done, 0, sums.kept, sums.kept_as, num_bytes=sums.num_bytes),
                units_per_s=max(sample.units - since.units, 0) / passed if passed and sums.unit else None,
                bytes_per_s=max(sample.num_bytes - since.num_bytes, 0) / passed if passed and sums.num_bytes else None,
                left_s=self._left(sample),
                slowest=self._slowest(running, at),
                stuck=self._stuck(running, at),
                retried=self._retried,
            )

    def _forget(self, now: _Sample) -> None:
        """Samples that no question goes back to. What is left of a long step are a few thousand at most."""
        samples = self._samples
        while len(samples) > 3600 or (
            len(samples) > 2 and now.at - samples[1].at > _RATE_OVER_S and now.work - samples[1].work > _RECENT_TASKS
        ):
            samples.popleft()

    def _since(self, now: _Sample, seconds: float) -> _Sample:
        """The last sample that is at least so old; the first of all where none is."""
        found = self._samples[0]
        for sample in reversed(self._samples):
            if now.at - sample.at >= seconds:
                found = sample
                break
        return found

    def _left(self, now: _Sample) -> float | None:
        """By the pace of late, or of all since the first task began to count: workers take a while to start."""
        tasks = _RECENT_TASKS if self._sums.share <= 0 else _RECENT_SHARES
        since = self._samples[-1]
        for sample in reversed(self._samples):
            since = sample
            if not sample.work or (now.at - sample.at >= _PACE_OVER_S and now.work - sample.work >= tasks):
                break
        passed, worked, all_work = now.at - since.at, now.work - since.work, self.tasks - self.skipped
        if passed < _LEFT_AFTER_S or worked < min(1.0, _LEFT_FROM * all_work):
            return None
        return max(all_work - now.work, 0.0) * passed / worked

    def _slowest(self, running: Sequence[_Live], at: float) -> list[TaskNow]:
        chosen = heapq.nlargest(_SHOWN, running, key=lambda live: _seconds(live, at))
        return [_task_now(live, at) for live in chosen]

    def _stuck(self, running: Sequence[_Live], at: float) -> list[TaskNow]:
        usual = statistics.median(self._durations) if self._durations else None
        least = max(STUCK_AFTER_S, _STUCK_TIMES * (usual or 0.0))
        late = [live for live in running if _quiet(live, at) > least]
        # One that counts nothing may be at its work all the same: only the time that others took tells.
        stuck = [live for live in late if live.sign is not None and (live.sign.counts.done or usual is not None)]
        return [_task_now(live, at) for live in sorted(stuck, key=lambda live: _quiet(live, at), reverse=True)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _seconds(live: _Live, at: float) -> float:
    assert live.sign is not None
    return live.sign.seconds + at - live.heard


def _quiet(live: _Live, at: float) -> float:
    assert live.sign is not None
    return live.sign.quiet_s + at - live.heard


def _task_now(live: _Live, at: float) -> TaskNow:
    sign = live.sign
    assert sign is not None
    return TaskNow(
        task=sign.task,
        key=live.key,
        subject=live.subject,
        node=sign.node,
        process=sign.process,
        seconds=_seconds(live, at),
        quiet_s=_quiet(live, at),
        counts=sign.counts,
    )

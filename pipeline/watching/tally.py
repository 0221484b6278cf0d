"""The numbers that a running task adds to, and a look at them from outside.

    tally = counting("URL", total=len(urls), kept_as="ok")     # in the task; then, now and then:
    tally.done += 1

    with running("00003") as now:                              # around the task, by whoever runs it
        ...                                                    # another thread: now.look()

To add to a number is all that a task does: nothing is sent, nothing waits, nothing can fail.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import msgspec

__all__ = ["Counts", "Running", "Sign", "Tally", "counting", "running", "tally_here"]


class Counts(msgspec.Struct, frozen=True, array_like=True):
    """What a task has counted so far."""

    unit: str = ""
    """What `done` counts, in the singular; empty where the task says nothing."""
    done: int = 0
    total: int = 0
    """0 where nobody knows."""
    kept: int = 0
    kept_as: str = ""
    """The word for what `kept` counts of those that are done; empty where the task does not say."""
    num_bytes: int = 0
    """That came in."""
    total_bytes: int = 0
    """0 where nobody knows."""

    @property
    def share(self) -> float:
        """How much of the task is done, 0 to 1; 0 where nobody knows."""
        done, total = (self.done, self.total) if self.total else (self.num_bytes, self.total_bytes)
        return min(done / total, 1.0) if total else 0.0


@dataclass(kw_only=True, slots=True)
class Tally:
    """As `Counts`, to add to."""

    unit: str = ""
    done: int = 0
    total: int = 0
    kept: int = 0
    kept_as: str = ""
    num_bytes: int = 0
    total_bytes: int = 0
    rows_read: int = 0
    """Of Parquet, which is what is counted where the task says nothing."""

    def counts(self) -> Counts:
        """As they are now."""
        if not self.unit:
            return Counts(unit="row" if self.rows_read else "", done=self.rows_read)
        return Counts(
            self.unit, self.done, self.total, self.kept, self.kept_as, num_bytes=self.num_bytes,
            total_bytes=self.total_bytes,
        )  # fmt: skip


_NOBODYS = Tally()
_here: ContextVar[Tally] = ContextVar("tally", default=_NOBODYS)


def tally_here() -> Tally:
    """The tally of the task that runs here; one that nobody reads where nobody watches."""
    return _here.get()


def counting(unit: str, *, total: int = 0, total_bytes: int = 0, kept_as: str = "") -> Tally:
    """The tally of the task that runs here, which counts these from now on, from 0. The names are those of `Counts`."""
    tally = _here.get()
    tally.unit, tally.total, tally.total_bytes, tally.kept_as = unit, total, total_bytes, kept_as
    tally.done = tally.kept = tally.num_bytes = 0
    return tally


class Sign(msgspec.Struct, frozen=True, array_like=True):
    """A sign of life: what a task had counted when somebody looked. It travels, so it holds no clock's time."""

    task: str
    """Its partition."""
    attempt: str
    """Differs between two attempts at the task."""
    node: str
    process: int
    seconds: float
    """Since it began."""
    quiet_s: float
    """Since its counts changed last."""
    counts: Counts = Counts()


_begun = itertools.count()


@dataclass(kw_only=True)
class Running:
    """A task that runs in this process."""

    task: str
    tally: Tally = field(default_factory=Tally)
    attempt: str = field(default_factory=lambda: f"{os.uname().nodename}-{os.getpid()}-{next(_begun)}")

    def __post_init__(self) -> None:
        self._began = self._changed = time.monotonic()
        self._before = Counts()

    def look(self) -> Sign:
        """How it is. From any thread, but always the same."""
        now, counts = time.monotonic(), self.tally.counts()
        if counts != self._before:
            self._before, self._changed = counts, now
        return Sign(
            task=self.task,
            attempt=self.attempt,
            node=os.uname().nodename,
            process=os.getpid(),
            seconds=now - self._began,
            quiet_s=now - self._changed,
            counts=counts,
        )


@contextmanager
def running(task: str) -> Iterator[Running]:
    """A task of this name runs here, in this thread, for the block."""
    now = Running(task=task)
    token = _here.set(now.tally)
    try:
        yield now
    finally:
        _here.reset(token)

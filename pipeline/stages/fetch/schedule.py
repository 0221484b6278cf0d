"""Whose turn it is: one queue per host, with a limit on transfers at once, a rate, and waits.

    add --> waiting (per host) --next--> in flight --release-->
              ^   not yet due: a heap by time

Hosts take turns, so one host with many URLs does not hold back the others. The clock is an argument.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["Schedule"]

Job = TypeVar("Job")


@dataclass
class _Host(Generic[Job]):
    waiting: deque[Job] = field(default_factory=deque)
    active: int = 0
    next_start_s: float = 0.0
    queued: bool = False  # in `ready`, or in `later` on its own account


class Schedule(Generic[Job]):
    """Queues of jobs by host. Times are seconds of one monotonic clock."""

    def __init__(self, *, per_host_concurrency: int, per_host_rate: float) -> None:
        """`per_host_rate` in starts a second, 0 for no limit."""
        self._limit = per_host_concurrency
        self._interval_s = 1.0 / per_host_rate if per_host_rate > 0 else 0.0
        self._hosts: dict[str, _Host[Job]] = {}
        self._ready: deque[str] = deque()
        self._later: list[tuple[float, int, str, Job | None]] = []
        self._sequence = 0
        self._waiting = 0

    def __len__(self) -> int:
        """Jobs that wait."""
        return self._waiting

    def add(self, host: str, job: Job, *, not_before_s: float = 0.0) -> None:
        """Put `job` in its host's queue, or in line for it at `not_before_s`."""
        self._waiting += 1
        if not_before_s > 0.0:
            self._push_later(not_before_s, host, job)
            return
        state = self._hosts.setdefault(host, _Host())
        state.waiting.append(job)
        self._offer(host, state)

    def next(self, now_s: float) -> tuple[str, Job] | None:
        """A job that may start now (it counts as in flight until `release`), or None."""
        while self._later and self._later[0][0] <= now_s:
            _, _, host, job = heapq.heappop(self._later)
            state = self._hosts.setdefault(host, _Host())
            if job is None:
                state.queued = False
            else:
                state.waiting.append(job)
            self._offer(host, state)
        while self._ready:
            host = self._ready.popleft()
            state = self._hosts[host]
            state.queued = False
            if not state.waiting or state.active >= self._limit:
                continue
            if state.next_start_s > now_s:
                state.queued = True
                self._push_later(state.next_start_s, host, None)
                continue
            chosen = state.waiting.popleft()
            state.active += 1
            self._waiting -= 1
            if self._interval_s:
                state.next_start_s = now_s + self._interval_s
            self._offer(host, state)
            return host, chosen
        return None

    def release(self, host: str, *, asked: bool = True) -> None:
        """A job of `host` is no longer in flight; where the host was not even asked, the next need not wait."""
        state = self._hosts[host]
        state.active -= 1
        if not asked:
            state.next_start_s = 0.0
        if state.active == 0 and not state.waiting and not state.queued and state.next_start_s == 0.0:
            del self._hosts[host]
            return
        self._offer(host, state)

    def hold(self, host: str, until_s: float) -> None:
        """Start nothing on `host` before `until_s` (its Retry-After)."""
        state = self._hosts.setdefault(host, _Host())
        state.next_start_s = max(state.next_start_s, until_s)

    def wake_s(self) -> float | None:
        """When something that waits for a time becomes due; None if nothing does."""
        return self._later[0][0] if self._later else None

    def drain(self) -> list[Job]:
        """Take out every job that waits."""
        jobs = [job for _, _, _, job in self._later if job is not None]
        for state in self._hosts.values():
            jobs.extend(state.waiting)
            state.waiting.clear()
        self._later.clear()
        self._ready.clear()
        for state in self._hosts.values():
            state.queued = False
        self._waiting = 0
        return jobs

    def _offer(self, host: str, state: _Host[Job]) -> None:
        if not state.queued and state.waiting and state.active < self._limit:
            state.queued = True
            self._ready.append(host)

    def _push_later(self, when_s: float, host: str, job: Job | None) -> None:
        self._sequence += 1
        heapq.heappush(self._later, (when_s, self._sequence, host, job))

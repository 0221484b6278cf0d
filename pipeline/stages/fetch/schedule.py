"""Whose turn it is: one queue per host, with a limit on transfers at once, a rate, and waits.

    add --> waiting (per host) --next--> in flight --release-->
              ^   not yet due: a heap by time

Hosts take turns, so one host with many URLs does not hold back the others. Nor do hosts that hang, though each of
their transfers holds its place until a time limit: hosts that have shown nothing yet come first but with one transfer
each, then those that answer, then those that were silent; and of the places, those that answer are kept enough for
what they can use, up to a half of all. The clock is an argument.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

__all__ = ["Schedule"]

Job = TypeVar("Job")


class _Rank(Enum):
    """Kinds of hosts with something to start, in the order in which they are served."""

    FRESH = 0  # has shown nothing, and nothing is in flight
    ANSWERING = 1
    SILENT = 2  # the last that was heard of it is a time limit; nothing is in flight
    UNSURE = 3  # one of FRESH or SILENT of which something is in flight


@dataclass
class _Host(Generic[Job]):
    waiting: deque[Job] = field(default_factory=deque)
    active: int = 0
    next_start_s: float = 0.0
    queued: _Rank | None = None  # where it stands in line; what else is in line under its name is out of date
    later: bool = False  # it stands in `later` on its own account


class Schedule(Generic[Job]):
    """Queues of jobs by host. Times are seconds of one monotonic clock."""

    def __init__(self, *, per_host_concurrency: int, per_host_rate: float, concurrency: int = 64) -> None:
        """`per_host_rate` in starts a second, 0 for no limit; `concurrency` is how many places there are.

        The caller holds to `concurrency`; here it says how many places hosts that answer are kept.
        """
        self._limit = per_host_concurrency
        self._places = concurrency
        self._interval_s = 1.0 / per_host_rate if per_host_rate > 0 else 0.0
        self._hosts: dict[str, _Host[Job]] = {}
        self._answering: dict[str, bool] = {}  # what was last heard of a host; absent: nothing
        self._wanting: set[str] = set()  # hosts that answer and have jobs, waiting or in flight
        self._unproven = 0  # transfers in flight to other hosts
        self._ready: dict[_Rank, deque[str]] = {rank: deque() for rank in _Rank}
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
        self._take_what_is_due(now_s)
        for rank, line in self._ready.items():
            if rank is not _Rank.ANSWERING and not self._has_place_for_unproven():
                continue
            while line:
                host = line.popleft()
                state = self._hosts.get(host)
                if state is None or state.queued is not rank:
                    continue  # it stands elsewhere by now
                state.queued = None
                if not state.waiting or state.active >= self._limit:
                    continue
                if state.next_start_s > now_s:
                    state.later = True
                    self._push_later(state.next_start_s, host, None)
                    continue
                return host, self._start(host, state, now_s)
        return None

    def _take_what_is_due(self, now_s: float) -> None:
        while self._later and self._later[0][0] <= now_s:
            _, _, host, job = heapq.heappop(self._later)
            state = self._hosts.setdefault(host, _Host())
            if job is None:
                state.later = False
            else:
                state.waiting.append(job)
            self._offer(host, state)

    def _has_place_for_unproven(self) -> bool:
        kept = min(self._places // 2, len(self._wanting) * self._limit)
        return self._unproven < self._places - kept

    def _start(self, host: str, state: _Host[Job], now_s: float) -> Job:
        chosen = state.waiting.popleft()
        state.active += 1
        self._waiting -= 1
        self._unproven += not self._answering.get(host, False)
        if self._interval_s:
            state.next_start_s = now_s + self._interval_s
        self._offer(host, state)
        return chosen

    def heard(self, host: str, *, answered: bool) -> None:
        """A transfer of `host`, still in flight, had an answer, or none within its time."""
        if self._answering.get(host, False) != answered:
            self._unproven += -self._hosts[host].active if answered else self._hosts[host].active
        self._answering[host] = answered
        self._offer(host, self._hosts[host])

    def release(self, host: str, *, asked: bool = True) -> None:
        """A job of `host` is no longer in flight; where the host was not even asked, the next need not wait."""
        state = self._hosts[host]
        state.active -= 1
        self._unproven -= not self._answering.get(host, False)
        if not asked:
            state.next_start_s = 0.0
        self._offer(host, state)
        if state.active == 0 and not state.waiting and not state.later and state.next_start_s == 0.0:
            del self._hosts[host]

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
            state.queued, state.later = None, False
        self._later.clear()
        for line in self._ready.values():
            line.clear()
        self._waiting = 0
        return jobs

    def _offer(self, host: str, state: _Host[Job]) -> None:
        """Put `host` in line where it belongs, if it has something to start."""
        if self._answering.get(host, False) and (state.waiting or state.active):
            self._wanting.add(host)
        else:
            self._wanting.discard(host)
        if state.later or not state.waiting or state.active >= self._limit:
            return
        rank = self._rank(host, state)
        if state.queued is not rank:
            state.queued = rank
            self._ready[rank].append(host)

    def _rank(self, host: str, state: _Host[Job]) -> _Rank:
        answering = self._answering.get(host)
        if answering:
            return _Rank.ANSWERING
        if state.active:
            return _Rank.UNSURE
        return _Rank.FRESH if answering is None else _Rank.SILENT

    def _push_later(self, when_s: float, host: str, job: Job | None) -> None:
        self._sequence += 1
        heapq.heappush(self._later, (when_s, self._sequence, host, job))

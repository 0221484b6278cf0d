"""Whose turn it is: one queue per host, with a limit on transfers at once, a rate, and waits.

    add --> waiting (per host) --next--> in flight --release-->
              ^   not yet due: a heap by time

Hosts take turns, so one host with many URLs does not hold back the others. Nor do hosts that hang, though each of
their transfers holds its place until a time limit: hosts that have shown nothing yet come first but with one transfer
each, then those that answer, then those that were silent; and of the places, those that answer are kept enough for
what they can use, up to a half of all. The clock is an argument.

A shared host is one of which this is not the only schedule: it starts what it is granted (`shared_hosts.py`), and
nothing else.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from pipeline.stages.fetch.limiter import LATE_S

__all__ = ["Schedule", "Standing"]

Job = TypeVar("Job")


class _Rank(Enum):
    """Kinds of hosts with something to start, in the order in which they are served."""

    FRESH = 0  # has shown nothing, and nothing is in flight
    ANSWERING = 1
    SILENT = 2  # the last that was heard of it is a time limit; nothing is in flight
    UNSURE = 3  # one of FRESH or SILENT of which something is in flight


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How things stand with a shared host."""

    host: str
    waiting: int
    active: int
    places: int
    starts: int
    """That were granted, and not used yet."""


@dataclass
class _Share:
    """What is granted of a shared host."""

    starts: deque[float] = field(default_factory=deque)
    places: int = 0
    ends: bool = False  # with these starts
    connections: int = 0  # that may be open
    taken_s: float = 0.0  # the start that was used last


@dataclass
class _Host(Generic[Job]):
    waiting: deque[Job] = field(default_factory=deque)
    active: int = 0
    next_start_s: float = 0.0
    queued: _Rank | None = None  # where it stands in line; what else is in line under its name is out of date
    later: bool = False  # it stands in `later` on its own account
    share: _Share | None = None  # of a shared host

    def has_start(self, limit: int) -> bool:
        """Whether something may start, now or later."""
        if self.share is not None:
            return self.active < min(limit, self.share.places) and bool(self.share.starts)
        return self.active < limit


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
        self._shared: dict[str, _Host[Job]] = {}

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
                next_start_s = self._next_start_s(state, now_s)
                if not state.waiting or not state.has_start(self._limit):
                    continue
                if next_start_s > now_s:
                    state.later = True
                    self._push_later(next_start_s, host, None)
                    continue
                return host, self._start(host, state, now_s)
        return None

    def _next_start_s(self, state: _Host[Job], now_s: float) -> float:
        """When the next transfer may start; what was granted for too long ago lapses."""
        share = state.share
        if share is None:
            return state.next_start_s
        while share.starts and share.starts[0] < now_s - LATE_S:
            share.starts.popleft()
        return max(state.next_start_s, share.starts[0]) if share.starts else state.next_start_s

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
        if state.share is not None:
            state.share.taken_s = state.share.starts.popleft()
            state.share.connections = max(state.share.connections, state.active)
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
            if state.share is not None:
                state.share.starts.appendleft(state.share.taken_s)
        self._offer(host, state)
        gone = state.active == 0 and not state.waiting and not state.later and state.next_start_s == 0.0
        if gone and state.share is None:
            del self._hosts[host]

    def hold(self, host: str, until_s: float) -> None:
        """Start nothing on `host` before `until_s` (its Retry-After)."""
        state = self._hosts.setdefault(host, _Host())
        state.next_start_s = max(state.next_start_s, until_s)
        if state.share is not None:  # its time is granted anew
            state.share.starts = deque(start for start in state.share.starts if start >= until_s)

    # --- shared hosts ----------------------------------------------------------------------------

    def share(self, host: str) -> None:
        """From now on `host` is a shared one."""
        if host in self._shared:
            return
        state = self._shared[host] = self._hosts.setdefault(host, _Host())
        state.share = _Share(connections=state.active)

    def grant(self, host: str, *, places: int, starts: Sequence[float], ends: bool = False) -> None:
        """So many transfers of a shared host may be in flight from now on, and start at these times as well; where it
        `ends`, they close their connections."""
        state = self._shared[host]
        assert state.share is not None
        state.share.places, state.share.ends = places, ends
        if not places:
            state.share.starts.clear()
        state.share.starts.extend(starts)
        self._offer(host, state)

    def standings(self, now_s: float) -> Iterator[Standing]:
        """Of every shared host with something to do, or with something granted."""
        for host, state in self._shared.items():
            share = state.share
            assert share is not None
            if state.waiting or state.active or share.places:
                self._next_start_s(state, now_s)
                yield Standing(
                    host=host,
                    waiting=len(state.waiting),
                    active=state.active,
                    places=share.places,
                    starts=len(share.starts),
                )

    def is_idle(self, host: str) -> bool:
        """Whether nothing of `host` waits or is in flight."""
        state = self._hosts.get(host)
        return state is None or not (state.waiting or state.active)

    def closes(self, host: str) -> bool:
        """Whether the transfer that was just started on `host` is to close its connection. As many of the last ones do
        as may be open: no connection stays behind where the place for it does not."""
        state = self._hosts[host]
        if state.share is None:
            return False
        share, left = state.share, len(state.waiting)
        left = min(left, len(share.starts)) if share.ends else left
        last = left < share.connections or share.connections > share.places
        share.connections -= last
        return last

    # --- what waits for a time -------------------------------------------------------------------

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
        has_start = state.has_start(self._limit)
        if self._answering.get(host, False) and (state.active or (state.waiting and has_start)):
            self._wanting.add(host)
        else:
            self._wanting.discard(host)
        if state.later or not state.waiting or not has_start:
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

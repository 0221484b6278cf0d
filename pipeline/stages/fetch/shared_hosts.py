"""The hosts that this task shares with all others of the run: what it asks the limiter for, and goes by.

    loop:    Schedule.standings --asks, now and then--> | thread: asks the run's Limiter |
             Schedule.grant     <--grants-------------- |                                |

Heavy hosts are shared, and those that asked for a Crawl-delay. The loop never waits for an answer. Where none comes, a
grant ends with its lease; then the task stands still for as long as a request may take, so that whatever others hold
has ended too; and then it keeps to a part of the limit that is its own, if it is one of the few that have one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec

from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.limiter import ASK_EVERY_S, LATE_S, Ask, Asks, Grants, Limiter, lease_s
from pipeline.stages.fetch.names import LookUps
from pipeline.stages.fetch.schedule import Schedule, Standing

__all__ = ["LimiterGoneError", "RunWide", "SharedHosts"]

_SOON_S = 0.02
"""What comes up within so long of each other is asked for together."""
_MOST_HOSTS = 128
"""Of which none is held yet, in one question: more than a task can begin with before it asks again."""
_ASK_TIMEOUT_S = 2.0
_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(Grants).decode


class LimiterGoneError(Exception):
    """The run's limiter did not answer in time. Never leaves this room: the task goes on without it."""


@dataclass(frozen=True, kw_only=True)
class RunWide:
    """What the fetch tasks of a run have in common."""

    heavy: Collection[str] = ()
    """Names of hosts with many URLs in the plan."""
    ask: Callable[[bytes, float], bytes] | None = None
    """Asks the run's Limiter, for so many seconds at most. Raises LimiterGoneError. None: no other task shares a
    host."""
    number: int = 0
    """Differs among the tasks that may run at once; from 0, as small as can be."""
    delay_of: Callable[[str], float | None] = lambda host: None
    """Seconds that a host wants between two requests, as far as its rules are known before it is asked."""
    names: Path | None = None
    """The directory where tasks of one machine keep what names resolve to."""
    look_ups: LookUps = field(default_factory=LookUps)
    """Where this fetch counts its own."""


class SharedHosts:
    """Of one fetch; all but the asking itself is the loop's."""

    def __init__(self, config: FetchConfig, run: RunWide, schedule: Schedule[Any], wake: Callable[[], None]) -> None:
        """`wake` ends the loop's waiting, from another thread."""
        self._config, self._run, self._schedule, self._wake = config, run, schedule, wake
        self._task = uuid.uuid4().hex
        # A grant may be used until it is known that no answer comes; and libcurl takes a moment to end a request.
        self._longest_s = config.timeout_s + _ASK_TIMEOUT_S + 1.0
        self._own = Limiter()
        self._heavy = frozenset(run.heavy) if config.heavy_host_urls else frozenset()
        self._delays: dict[str, float] = {}
        self._known: set[str] = set()
        self._held_until_s: dict[str, float] = {}
        self._heard_s = time.monotonic()
        self._lease_s, self._every_s = lease_s(ASK_EVERY_S), ASK_EVERY_S
        self._due_s = float("inf")
        self._asked = False
        self._asked_for: Set[str] = set()
        self._last_s = float("-inf")
        self._turn = 0  # how many hosts that wait stand before those to be asked for next
        self._alone_s: dict[str, float] = {}  # where nobody answers: when the next start is
        self._questions: SimpleQueue[Asks | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[float, Grants | None]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    # --- what the loop tells ---------------------------------------------------------------------

    def admit(self, host: str) -> None:
        """A request to `host` is put in line, or will be in a moment."""
        if host not in self._known:
            self._known.add(host)
            delay_s = self._run.delay_of(host)
            if delay_s:
                self.delay(host, delay_s)
            elif host in self._heavy:
                self._schedule.share(host)
                self._delays[host] = 0.0
        if host in self._delays:
            in_s = _SOON_S if self._schedule.is_idle(host) else self._every_s
            self._due_s = min(self._due_s, time.monotonic() + in_s)

    def delay(self, host: str, seconds: float) -> None:
        """`host` wants so long between two requests: it gets it up to `max_crawl_delay_s`."""
        seconds = min(seconds, self._config.max_crawl_delay_s)
        if seconds > 0:
            self._schedule.share(host)
            self._delays[host] = max(seconds, self._delays.get(host, 0.0))

    def ended(self, host: str) -> None:
        """A transfer of `host` is no longer in flight."""
        if host in self._delays and self._schedule.is_idle(host):
            self._due_s = min(self._due_s, time.monotonic() + _SOON_S)

    def held(self, host: str, until_s: float) -> None:
        """`host` wants no request before (Retry-After)."""
        if host in self._delays:
            self._held_until_s[host] = until_s
            self._due_s = min(self._due_s, time.monotonic() + _SOON_S)

    def wake_s(self) -> float:
        """When `tend` has something to do, if nothing is heard before."""
        return float("inf") if self._asked else self._next_s()

    def _next_s(self) -> float:
        """When to ask: however much there is to tell, not all the time."""
        return max(self._due_s, self._last_s + self._every_s / 2)

    # --- asking ----------------------------------------------------------------------------------

    def tend(self, now_s: float) -> None:
        """Go by what was heard since, and ask if it is time to."""
        while self._asked and not self._answers.empty():
            self._asked = False
            sent_s, grants = self._answers.get()
            self._go_by(grants, sent_s, now_s)
        if self._asked or now_s < self._next_s():
            return
        self._last_s = now_s
        self._due_s = now_s + self._every_s  # a request that waited for its time tells nobody when it joins the line
        standings = self._chosen(now_s)
        self._asked_for = {each.host for each in standings}
        if not standings:
            self._heard_s = now_s  # nothing is held, and nothing was to be heard
            return
        if self._run.ask is None:
            self._go_by(self._own.grant(self._asks(standings, now_s), now_s), now_s, now_s)
            return
        self._asked = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._ask_always, name="limiter", daemon=True)
            self._thread.start()
        self._questions.put(self._asks(standings, now_s))

    def _chosen(self, now_s: float) -> Sequence[Standing]:
        """What to ask for: all that is held, and of hosts that only wait some, those in turn whose turn it is."""
        standings = list(self._schedule.standings(now_s))
        held = [self._without_excess(each) for each in standings if each.active or each.places]
        others = [each for each in standings if not (each.active or each.places)]
        begin = self._turn if self._turn < len(others) else 0
        self._turn = begin + min(_MOST_HOSTS, 2 * self._config.concurrency)
        return [*held, *others[begin : self._turn]]

    def _without_excess(self, each: Standing) -> Standing:
        """Of a host that can not use its places any more only those that it can."""
        places = min(each.places, each.waiting + each.active)
        if places == each.places:
            return each
        self._schedule.grant(each.host, places=places, starts=())
        return dataclasses.replace(each, places=places, starts=each.starts if places else 0)

    def _asks(self, standings: Sequence[Standing], now_s: float) -> Asks:
        most = self._config.per_host_concurrency
        asks = []
        for each in standings:
            held_s = max(0.0, self._held_until_s.get(each.host, 0.0) - now_s)
            ask = Ask(
                each.host, each.waiting, each.active, each.places, each.starts, most, held_s, self._delays[each.host]
            )
            asks.append(ask)
        return self._packed(asks)

    def _packed(self, hosts: list[Ask]) -> Asks:
        config = self._config
        return Asks(self._task, config.heavy_host_concurrency, config.heavy_host_rate, self._longest_s, hosts)

    def _go_by(self, grants: Grants | None, sent_s: float, now_s: float) -> None:
        if grants is None:
            if now_s > self._heard_s + self._lease_s:
                self._do_without(now_s)
            self._due_s = min(self._due_s, now_s + self._every_s)
            return
        self._heard_s = sent_s
        self._lease_s, self._every_s = grants.lease_s, grants.ask_again_s
        self._due_s = now_s + self._every_s
        self._alone_s.clear()
        in_time = now_s - sent_s <= LATE_S
        for grant in grants.hosts:
            if grant.held_s:
                self._held_until_s[grant.host] = now_s + grant.held_s
                self._schedule.hold(grant.host, now_s + grant.held_s)
            starts = [now_s + start_s for start_s in grant.starts] if in_time else []
            self._schedule.grant(grant.host, places=grant.places, starts=starts, ends=grant.ends)

    def _do_without(self, now_s: float) -> None:
        """Nobody has answered for longer than a lease."""
        share = self._config.heavy_host_concurrency
        alone = self._run.number < share and now_s > self._heard_s + self._lease_s + self._longest_s
        for each in list(self._schedule.standings(now_s)):
            starts: list[float] = []
            if alone and not each.starts and self._alone_s.get(each.host, 0.0) <= now_s:
                interval_s = max(1.0 / self._config.heavy_host_rate, self._delays[each.host])
                self._alone_s[each.host] = now_s + interval_s * share
                starts = [now_s]
            self._schedule.grant(each.host, places=int(alone), starts=starts)

    def _ask_always(self) -> None:
        assert self._run.ask is not None
        while (asks := self._questions.get()) is not None:
            sent_s, grants = time.monotonic(), None
            with contextlib.suppress(LimiterGoneError, msgspec.MsgspecError):
                grants = _decode(self._run.ask(_encode(asks), _ASK_TIMEOUT_S))
            self._answers.put((sent_s, grants))
            self._wake()

    def silence(self) -> None:
        """Wake nobody any more."""
        self._wake = lambda: None

    def close(self) -> None:
        """Give up every place. Nothing of the task may be in flight any more."""
        if self._thread is None:
            return
        held = {each.host for each in self._schedule.standings(time.monotonic()) if each.places or each.active}
        held |= self._asked_for  # whose answer may be under way
        self._questions.put(self._packed([Ask(host, 0, 0, 0, 0, 0, 0.0, 0.0) for host in sorted(held)]))
        self._questions.put(None)
        self._thread.join(_ASK_TIMEOUT_S)

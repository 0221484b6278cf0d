"""What all fetch tasks of a run together may ask of a host: places for requests at once, and starts in time.

    task: Asks (waiting, in flight, of each shared host) --> Limiter --> Grants (places, starts of the next second)

One Limiter serves the whole run (`engine/desk.py` says where it is kept), a task asks it now and then for many
requests at once, and what is not used lapses, so the limit is never exceeded. A place is a connection: a task that
gives one up closes it. It is held until its task gives it up, or is silent for a lease and the longest request; while
others wait, for a turn at most. The clock is an argument, and only its owner's: what travels is seconds from now.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TypeVar

import msgspec

__all__ = ["ASK_EVERY_S", "LATE_S", "Ask", "Asks", "Grant", "Grants", "Limiter", "lease_s"]

Known = TypeVar("Known")

ASK_EVERY_S = 0.5
"""How often a task asks, with few of them."""
LATE_S = 0.5
"""How late a start may be used. So a host sees at most the starts of so much longer a time at once."""
_QUESTIONS_A_SECOND = 500
_HOSTS_A_SECOND = 50_000
"""Of all tasks together, 8 us each: the more there is to ask for, the rarer each task asks."""
_TURN_S = 5.0
"""How long a place stays with a task while others wait for one."""
_MOST_STARTS = 1000
"""In one grant."""


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """How a task stands with a host. With nothing waiting and nothing in flight it gives up all."""

    host: str
    waiting: int
    """Requests that could start."""
    active: int
    """Requests in flight."""
    places: int
    """That it has: it starts nothing beyond them until it hears more."""
    starts: int
    """Starts that it still has."""
    most: int
    """Places that it can use."""
    held_s: float
    """For how much longer, as far as it knows, the host wants no request (Retry-After)."""
    delay_s: float
    """Between two requests, at least (Crawl-delay)."""


class Asks(msgspec.Struct, frozen=True, array_like=True):
    """Of one task; the limits are those of its config, the same for all."""

    task: str
    places: int
    rate: float
    """Starts a second."""
    longest_s: float
    """That a request may take."""
    hosts: list[Ask]


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """What a task may do with a host until it hears more."""

    host: str
    places: int
    """How many requests may be in flight."""
    starts: list[float]
    """When further ones may start, in seconds from now."""
    ends: bool
    """Whether these starts are the last of its turn: it closes its connections with them."""
    held_s: float
    """As in `Ask`: what any task said."""


class Grants(msgspec.Struct, frozen=True, array_like=True):
    """Of one answer."""

    lease_s: float
    """They hold for so long from when they were asked for."""
    ask_again_s: float
    hosts: list[Grant]


class _Holder(msgspec.Struct, array_like=True):
    places: int
    since_s: float
    until_s: float
    ends: bool = False


class _Host(msgspec.Struct, array_like=True):
    holders: dict[str, _Holder] = {}
    waiting: dict[str, float] = {}
    """Task -> until when it is believed to wait; who came first stands first."""
    next_start_s: float = 0.0
    held_until_s: float = 0.0
    delay_s: float = 0.0

    def is_idle(self, now_s: float) -> bool:
        """Whether nothing is lost with what is known of it."""
        ends = (holder.until_s for holder in self.holders.values())
        return max(self.next_start_s, self.held_until_s, *ends, *self.waiting.values()) <= now_s


class _State(msgspec.Struct, array_like=True):
    silent_until_s: float | None = 0.0
    """Nothing is granted before; None: what was granted before is not known, nor yet for how long it held."""
    hosts: dict[str, _Host] = {}
    tasks: dict[str, float] = {}
    """Task -> until when it counts as one that asks."""


_decode_asks = msgspec.msgpack.Decoder(Asks).decode
_decode_state = msgspec.msgpack.Decoder(_State).decode
_encode = msgspec.msgpack.encode


def lease_s(ask_again_s: float) -> float:
    """How long a grant holds for a task that asks so often: some of its questions may be lost."""
    return max(5.0, 5 * ask_again_s)


class Limiter:
    """Times are seconds of one clock, its owner's."""

    def __init__(self, state: _State | None = None) -> None:
        self._state = _State() if state is None else state

    @classmethod
    def after_loss(cls) -> Limiter:
        """One that takes the place of another whose grants are not known: it waits until they have lapsed."""
        return cls(_State(silent_until_s=None))

    @classmethod
    def load(cls, data: bytes) -> Limiter:
        """The one that `dump` told; where it told something else, one as after a loss."""
        try:
            return cls(_decode_state(data))
        except msgspec.MsgspecError:
            return cls.after_loss()

    def dump(self) -> bytes:
        """All that it knows."""
        return _encode(self._state)

    def serve(self, message: bytes, now_s: float) -> bytes:
        """Grants to packed Asks. Raises msgspec.MsgspecError for anything else."""
        return _encode(self.grant(_decode_asks(message), now_s))

    def grant(self, asks: Asks, now_s: float) -> Grants:
        """What the task may do now."""
        state = self._state
        again_s = self._ask_again_s(asks, now_s)
        lease = lease_s(again_s)
        if state.silent_until_s is None:
            state.silent_until_s = now_s + lease + asks.longest_s
        granted = []
        for ask in asks.hosts:
            host = state.hosts[ask.host] = state.hosts.pop(ask.host) if ask.host in state.hosts else _Host()
            host.held_until_s = max(host.held_until_s, now_s + ask.held_s)
            host.delay_s = max(host.delay_s, ask.delay_s)
            silent = now_s < state.silent_until_s
            places = 0 if silent else _place(host, asks, ask, now_s, now_s + lease)
            starts, ends = _starts(host, asks, ask, now_s, 2 * again_s) if places else ([], False)
            granted.append(Grant(ask.host, places, starts, ends, max(0.0, host.held_until_s - now_s)))
        _forget(state.hosts, lambda host: host.is_idle(now_s), most=len(asks.hosts) + 2)
        return Grants(lease, again_s, granted)

    def _ask_again_s(self, asks: Asks, now_s: float) -> float:
        """When a task should ask again, by how many there are and what they ask."""
        tasks = self._state.tasks
        tasks.pop(asks.task, None)
        _forget(tasks, lambda until_s: until_s <= now_s, most=2)
        count = len(tasks) + 1
        again_s = max(ASK_EVERY_S, count / _QUESTIONS_A_SECOND, count * len(asks.hosts) / _HOSTS_A_SECOND)
        tasks[asks.task] = now_s + lease_s(again_s)
        return again_s


def _forget(known: dict[str, Known], is_over: Callable[[Known], bool], *, most: int) -> None:
    """Drop those of the first few that are over: what was asked last is at the end, so the rest gathers in front."""
    for name in list(itertools.islice(known, most)):
        if is_over(known[name]):
            del known[name]


def _place(host: _Host, asks: Asks, ask: Ask, now_s: float, lease_end_s: float) -> int:
    """How many places of the host the task has from now on."""
    for task in [task for task, holder in host.holders.items() if holder.until_s <= now_s]:
        del host.holders[task]
    mine, until_s = host.holders.get(asks.task), lease_end_s + asks.longest_s
    if mine is not None and mine.ends:
        places = max(ask.active, min(ask.starts, ask.places))
        mine.places, mine.until_s = max(places, ask.places if places else 0), until_s
        if places:
            return places
        mine = None
    if mine is None or not (ask.waiting or ask.active):
        host.holders.pop(asks.task, None)
    if not (ask.waiting or ask.active):
        host.waiting.pop(asks.task, None)
        return 0
    free = asks.places - sum(holder.places for task, holder in host.holders.items() if task != asks.task)
    if mine is None and not ask.active:
        host.waiting[asks.task] = lease_end_s  # where it stands already, it stays
    others = _waiting_before(host, asks.task, now_s, most=free)
    if mine is None and not ask.active:
        free -= others
        if free <= 0:
            return 0
        del host.waiting[asks.task]
    fair = asks.places
    if others or host.waiting:
        fair = max(1, asks.places // (len(host.holders) + len(host.waiting) + (mine is None)))
    places = max(ask.active, min(ask.waiting + ask.active, ask.most, free, fair))
    if places <= 0:
        host.holders.pop(asks.task, None)
        return 0
    if mine is None:
        mine = host.holders[asks.task] = _Holder(places, now_s, until_s)
    mine.places, mine.until_s = max(places, ask.places), until_s  # it goes by the old number until it hears the new one
    return places


def _waiting_before(host: _Host, task: str, now_s: float, *, most: int) -> int:
    """How many tasks wait that came before this one, counted up to `most`, or all where it does not wait itself."""
    count = 0
    for other, until_s in list(host.waiting.items()):
        if other == task or count > max(0, most):
            break
        if until_s <= now_s:
            del host.waiting[other]
        else:
            count += 1
    return count


def _starts(host: _Host, asks: Asks, ask: Ask, now_s: float, ahead_s: float) -> tuple[list[float], bool]:
    """The starts of the next `ahead_s` that fall to the task, and whether they are the last of its turn."""
    mine = host.holders[asks.task]
    if mine.ends:
        return [], True
    interval_s = max(1.0 / asks.rate, host.delay_s)
    first_s = max(now_s, host.next_start_s, host.held_until_s)
    left = math.floor((now_s + ahead_s - first_s) / interval_s) + 1 if first_s <= now_s + ahead_s else 0
    places = sum(holder.places for holder in host.holders.values())
    share = max(1, math.ceil(ahead_s / interval_s * mine.places / places))
    count = max(0, min(ask.waiting - ask.starts, left, share - ask.starts, _MOST_STARTS))
    if count:
        host.next_start_s = first_s + count * interval_s
    # With no start it could not close what it has open.
    mine.ends = count > 0 and bool(host.waiting) and now_s - mine.since_s >= _TURN_S
    return [first_s + number * interval_s - now_s for number in range(count)], mine.ends

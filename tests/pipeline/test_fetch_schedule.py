"""The address guard and the schedule: rules without a network."""

from __future__ import annotations

import heapq
import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.load import ConfigError
from pipeline.stages.fetch.address import AddressGuard, is_global
from pipeline.stages.fetch.schedule import Schedule


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "93.184.215.14",
        "172.32.0.1",
        "192.0.1.1",
        "2606:4700::1111",
        "2a00:1450::1",
        "::ffff:8.8.8.8",
    ],
)
def test_public_addresses_are_global(address: str) -> None:
    assert is_global(ipaddress.ip_address(address))
    assert AddressGuard().permits(address, 443)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.255", "169.254.169.254",
        "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.168.1.1", "198.18.0.1", "198.51.100.1",
        "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "::8.8.8.8", "fe80::1",
        "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1", "2001::1", "2002:a00:1::", "64:ff9b::a00:1",
        "64:ff9b:1::1", "100::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "fec0::1", "3fff::1", "5f00::1", "name", "",
    ],
)  # fmt: skip
def test_other_addresses_are_refused(address: str) -> None:
    assert not AddressGuard().permits(address, 80)


@given(st.integers(0, 2**32 - 1))
def test_an_ipv4_address_and_its_ipv6_disguises_get_one_verdict(value: int) -> None:
    plain = ipaddress.IPv4Address(value)
    for disguise in (0xFFFF << 32 | value, 0x64FF9B << 96 | value, 0x2002 << 112 | value << 80):
        assert is_global(ipaddress.IPv6Address(disguise)) == is_global(plain)


@given(st.integers(0, 2**32 - 1))
def test_no_ipv4_address_is_global_that_python_calls_private(value: int) -> None:
    address = ipaddress.IPv4Address(value)
    if is_global(address):
        assert not address.is_private
        assert not address.is_multicast


def test_allowed_ranges_open_exactly_themselves() -> None:
    guard = AddressGuard(["127.0.0.0/8:8766", "10.1.0.0/16", "[::1/128]:80", "fd00::/8"])
    allowed = [("127.0.0.1", 8766), ("::ffff:127.9.9.9", 8766), ("10.1.2.3", 1), ("::1", 80), ("fd00::1", 443)]
    refused = [("127.0.0.1", 80), ("10.2.0.1", 1), ("::1", 8766), ("fe80::1", 80), ("192.168.0.1", 8766)]
    assert all(guard.permits(*each) for each in allowed)
    assert not any(guard.permits(*each) for each in refused)


@pytest.mark.parametrize(
    "entry", ["", "localhost", "127.0.0.1/33", "127.0.0.0/8:", "127.0.0.0/8:70000", "[::1", "::1/128:80x"]
)
def test_entries_that_are_no_range_are_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match="allow_addresses"):
        AddressGuard([entry])


# --- the schedule -------------------------------------------------------------------------------

Steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abc"), st.floats(0, 3)),
        st.tuples(st.just("hold"), st.sampled_from("abc"), st.floats(0, 3)),
        st.tuples(st.just("pass"), st.just(""), st.floats(0, 2)),
        st.tuples(st.just("next"), st.just(""), st.just(0.0)),
        st.tuples(st.sampled_from(["release", "answer", "silence"]), st.sampled_from("abc"), st.just(0.0)),
    ),
    max_size=60,
)


@given(Steps, st.integers(1, 3), st.sampled_from([0.0, 1.0, 4.0]), st.sampled_from([1, 3, 64]))
def test_every_job_comes_out_once_within_its_hosts_limits(
    steps: list[tuple[str, str, float]], limit: int, rate: float, places: int
) -> None:
    schedule: Schedule[int] = Schedule(per_host_concurrency=limit, per_host_rate=rate, concurrency=places)
    now, added, out = 0.0, 0, []
    active = dict.fromkeys("abc", 0)
    last_start: dict[str, float] = {}
    held: dict[str, float] = {}
    due: dict[int, float] = {}

    def take() -> bool:
        nonlocal added
        turn = schedule.next(now)
        if turn is None:
            return False
        host, job = turn
        active[host] += 1
        assert active[host] <= limit
        assert now >= due[job]
        assert now >= held.get(host, 0.0)
        if rate and host in last_start:
            assert now - last_start[host] >= 1.0 / rate - 1e-9
        last_start[host] = now
        out.append(job)
        return True

    for kind, host, amount in steps:
        if kind == "add":
            due[added] = now + amount if amount > 1 else 0.0
            schedule.add(host, added, not_before_s=due[added])
            added += 1
        elif kind == "hold":
            schedule.hold(host, now + amount)
            held[host] = max(held.get(host, 0.0), now + amount)
        elif kind == "pass":
            now += amount
        elif kind == "next":
            take()
        elif active[host]:
            if kind != "release":
                schedule.heard(host, answered=kind == "answer")
            active[host] -= 1
            schedule.release(host)
        assert len(schedule) == added - len(out)
    for _ in range(1000):
        if len(out) == added:
            break
        if not take():
            busy = [host for host, count in active.items() if count]
            for host in busy:
                active[host] -= 1
                schedule.release(host)
            wake = schedule.wake_s()
            assert busy or wake is not None
            if wake is not None and not busy:
                now = max(now, wake)
    assert sorted(out) == list(range(added))


def test_hosts_take_turns() -> None:
    schedule: Schedule[str] = Schedule(per_host_concurrency=10, per_host_rate=0)
    for i in range(3):
        schedule.add("big", f"big{i}")
    schedule.add("small", "small0")
    order = [schedule.next(0.0) for _ in range(4)]
    assert [turn[1] for turn in order if turn] == ["big0", "small0", "big1", "big2"]


def test_draining_takes_out_everything_that_waits() -> None:
    schedule: Schedule[int] = Schedule(per_host_concurrency=1, per_host_rate=1)
    for i in range(3):
        schedule.add("a", i)
    schedule.add("b", 3, not_before_s=99.0)
    assert schedule.next(0.0) == ("a", 0)
    assert sorted(schedule.drain()) == [1, 2, 3]
    assert len(schedule) == 0
    assert schedule.next(1000.0) is None


def test_a_host_that_was_not_asked_need_not_be_waited_for() -> None:
    schedule: Schedule[int] = Schedule(per_host_concurrency=1, per_host_rate=0.1)
    for i in range(3):
        schedule.add("a", i)
    assert schedule.next(0.0) == ("a", 0)
    schedule.release("a", asked=False)
    assert schedule.next(0.0) == ("a", 1)
    schedule.release("a")
    assert schedule.next(5.0) is None
    assert schedule.next(10.0) == ("a", 2)


# --- hosts that hang ----------------------------------------------------------------------------


def last_good_s(
    schedule: Schedule[int], *, places: int, urls: int, hanging: float, limit_s: float
) -> tuple[float, float]:
    """When the last good answer comes, and the end, of 200 hosts with `urls` each; good ones answer within 0.1 s."""
    draw = random.Random(0)
    silent = {f"h{i}" for i in draw.sample(range(200), round(200 * hanging))}
    jobs = [f"h{i}" for i in range(200) for _ in range(urls)]
    draw.shuffle(jobs)
    for number, host in enumerate(jobs):
        schedule.add(host, number)
    flying: list[tuple[float, str]] = []
    now = last = 0.0
    while True:
        while len(flying) < places and (turn := schedule.next(now)) is not None:
            heapq.heappush(flying, (now + (limit_s if turn[0] in silent else draw.uniform(0.01, 0.1)), turn[0]))
        if not flying:
            assert not len(schedule)
            return last, now
        now, host = heapq.heappop(flying)
        schedule.heard(host, answered=host not in silent)
        schedule.release(host)
        last = last if host in silent else now


@pytest.mark.parametrize("urls", [1, 10, 50])
@pytest.mark.parametrize("places", [8, 64])
def test_hosts_that_hang_do_not_starve_good_ones(places: int, urls: int) -> None:
    def run(hanging: float) -> tuple[float, float]:
        schedule: Schedule[int] = Schedule(per_host_concurrency=4, per_host_rate=0, concurrency=places)
        return last_good_s(schedule, places=places, urls=urls, hanging=hanging, limit_s=10.0)

    alone, _ = run(0.0)
    last, end = run(0.3)
    rounds = -(-60 // (places // 2))  # in which each hanging host is met once, in at most half of the places
    assert last <= 2 * alone + 10.0 * (rounds - 1) + 0.5
    assert end <= 60 * urls * 10.0 / places + last + 10.0 * (1 + -(-urls // 4)), "no place stays empty for it"


def test_a_host_that_has_shown_nothing_gets_a_second_place_only_when_others_need_none() -> None:
    schedule: Schedule[str] = Schedule(per_host_concurrency=4, per_host_rate=0, concurrency=4)
    for host in ("silent", "good"):
        for i in range(3):
            schedule.add(host, f"{host}{i}")
    assert [schedule.next(0.0), schedule.next(0.0)] == [("silent", "silent0"), ("good", "good0")]
    schedule.heard("good", answered=True)
    schedule.release("good")
    assert [schedule.next(0.0), schedule.next(0.0)] == [("good", "good1"), ("good", "good2")]
    assert schedule.next(0.0) == ("silent", "silent1"), "half of the places may be theirs"
    assert schedule.next(0.0) is None, "the rest is kept for a host that answers, and has work"
    for _ in range(2):
        schedule.release("good")
    assert schedule.next(0.0) == ("silent", "silent2"), "it has none any more"


def test_a_host_that_falls_silent_comes_last_until_it_answers() -> None:
    schedule: Schedule[str] = Schedule(per_host_concurrency=1, per_host_rate=0)
    for host in ("a", "b"):
        for i in range(3):
            schedule.add(host, f"{host}{i}")
    order = []
    for host, answered in (("a", False), ("b", True), ("b", True), ("b", True), ("a", True), ("a", True)):
        turn = schedule.next(0.0)
        assert turn is not None
        order.append(turn[1])
        assert turn[0] == host
        schedule.heard(host, answered=answered)
        schedule.release(host)
    assert order == ["a0", "b0", "b1", "b2", "a1", "a2"]

"""The limit that the fetch tasks of a run share for a host: never exceeded, used well, and everybody gets a turn."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import msgspec
import pytest

from configs.load import ConfigError
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.download import Fetched, fetch
from pipeline.stages.fetch.limiter import LATE_S, Ask, Asks, Grant, Limiter, lease_s
from pipeline.stages.fetch.shared_hosts import LimiterGoneError, RunWide
from tests.pipeline.loopback_server import LoopbackServer, answer, in_turn, text

LONGEST_S = 3.0


@dataclass
class Task:
    """A task in a time of the test's own, with `waiting` requests that take up to `seconds` each."""

    name: str
    waiting: int
    seconds: float
    due_s: float
    ends: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    places: int = 0
    heard_s: float = 0.0
    dead: bool = False

    def asks(self, *, places: int, rate: float, delay_s: float = 0.0, most: int = 4) -> Asks:
        self.places = min(self.places, self.waiting + len(self.ends))
        self.starts = self.starts if self.places else []
        ask = Ask("h", self.waiting, len(self.ends), self.places, len(self.starts), most, 0.0, delay_s)
        return Asks(self.name, places, rate, LONGEST_S, [ask])


@dataclass
class Web:
    """Tasks that share one host, in steps of 10 ms."""

    tasks: list[Task]
    places: int
    rate: float
    seed: int
    delay_s: float = 0.0
    lost: float = 0.0
    """The part of questions, and of answers, that never arrive."""
    limiter: Limiter = field(default_factory=Limiter)
    now_s: float = 0.0
    begun: list[float] = field(default_factory=list)
    most_at_once: int = 0

    def run(self, until_s: float = 1e9, kill: Callable[[Web], None] = lambda web: None) -> None:
        dice = random.Random(self.seed)
        while self.now_s < until_s and any(task.waiting or task.ends for task in self.tasks if not task.dead):
            self.now_s += 0.01
            kill(self)
            for task in self.tasks:
                self._step(task, dice)
            self.most_at_once = max(self.most_at_once, sum(len(task.ends) for task in self.tasks))

    def _step(self, task: Task, dice: random.Random) -> None:
        task.ends = [end_s for end_s in task.ends if end_s > self.now_s]
        if task.dead:
            return
        task.starts = [start_s for start_s in task.starts if start_s >= self.now_s - LATE_S]
        if self.now_s > task.heard_s + lease_s(0.5):
            task.places, task.starts = 0, []
        while task.waiting and task.starts and task.starts[0] <= self.now_s and len(task.ends) < task.places:
            task.starts.pop(0)
            task.waiting -= 1
            task.ends.append(self.now_s + task.seconds * dice.random())
            self.begun.append(self.now_s)
        if self.now_s < task.due_s or not (task.waiting or task.ends or task.places):
            return
        task.due_s = self.now_s + 0.5 * dice.uniform(0.9, 1.1)
        asks = task.asks(places=self.places, rate=self.rate, delay_s=self.delay_s)
        if dice.random() < self.lost:
            return
        grants = self.limiter.grant(asks, self.now_s)
        if dice.random() < self.lost:
            return
        (grant,) = grants.hosts
        task.heard_s, task.places = self.now_s, grant.places
        task.starts = [*(task.starts if grant.places else ()), *(self.now_s + start_s for start_s in grant.starts)]

    def most_in(self, seconds: float) -> int:
        """Requests that began within so long of each other."""
        window: deque[float] = deque()
        most = 0
        for at_s in self.begun:
            window.append(at_s)
            while window[0] <= at_s - seconds:
                window.popleft()
            most = max(most, len(window))
        return most


def web_of(count: int, urls: int, seconds: float, *, places: int = 8, rate: float = 20.0, seed: int = 0) -> Web:
    tasks = [Task(f"task {i}", urls, seconds, due_s=0.003 * i) for i in range(count)]
    return Web(tasks, places, rate, seed)


@pytest.mark.parametrize(
    ("count", "urls", "seconds", "least_rate"),
    [(1, 120, 0.1, 16.0), (2, 60, 2.0, 5.0), (20, 8, 0.4, 14.0), (150, 2, 0.2, 14.0)],
)
def test_tasks_together_keep_to_the_limit_and_use_it(count: int, urls: int, seconds: float, least_rate: float) -> None:
    web = web_of(count, urls, seconds)
    web.run(until_s=300)
    assert len(web.begun) == count * urls
    assert web.most_at_once <= 8
    assert web.most_in(1.0) <= 20 * (1 + LATE_S) + 1
    assert web.most_in(10.0) <= 20 * (10 + LATE_S) + 1
    assert len(web.begun) / web.now_s >= least_rate


def test_what_a_killed_task_held_comes_free_when_its_last_request_must_have_ended() -> None:
    web = web_of(4, 400, 1.0, places=2)

    def kill(web: Web) -> None:
        holders = [task for task in web.tasks if task.places and not task.dead]
        if web.now_s >= 2 and not any(task.dead for task in web.tasks) and holders:
            holders[0].dead = True

    web.run(until_s=lease_s(0.5) + LONGEST_S + 6, kill=kill)
    dead = [task for task in web.tasks if task.dead]
    assert len(dead) == 1
    assert web.most_at_once <= 2
    assert sum(task.places for task in web.tasks if not task.dead) == 2


def test_a_new_limiter_grants_nothing_while_what_the_old_one_granted_may_hold() -> None:
    web = web_of(6, 400, 1.0, places=3)

    def lose(web: Web) -> None:
        if abs(web.now_s - 2) < 0.005:
            web.limiter = Limiter.load(b"half of a state")

    web.run(until_s=2 + lease_s(0.5) + LONGEST_S - 0.5, kill=lose)
    assert web.most_at_once <= 3
    assert max(web.begun) < 4
    web.run(until_s=web.now_s + 5)
    assert web.most_at_once <= 3
    assert max(web.begun) > 10


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_lost_or_killed_no_limit_is_exceeded(seed: int) -> None:
    dice = random.Random(seed)
    web = web_of(
        dice.randint(1, 8), 200, LONGEST_S, places=dice.randint(1, 5), rate=dice.choice([2.0, 20.0]), seed=seed
    )
    web.lost = dice.choice([0.0, 0.1, 0.4])

    def harm(web: Web) -> None:
        if dice.random() < 0.001:
            web.limiter = Limiter.after_loss()
        if dice.random() < 0.002:
            dice.choice(web.tasks).dead = True
            web.tasks.append(Task(f"later {web.now_s}", 50, LONGEST_S, web.now_s, heard_s=web.now_s))
        assert sum(len(task.ends) for task in web.tasks) <= web.places

    web.run(until_s=30, kill=harm)
    assert web.most_at_once <= web.places
    assert web.most_in(5.0) <= web.rate * (5 + LATE_S) + 1


def test_every_task_gets_its_turn() -> None:
    web = web_of(12, 500, 0.5, places=2)
    web.run(until_s=60)
    assert all(task.waiting < 500 for task in web.tasks)


def test_a_crawl_delay_is_kept_by_all_tasks_together() -> None:
    web = web_of(3, 4, 0.2)
    web.delay_s = 2.0
    web.run(until_s=120)
    assert len(web.begun) == 12
    gaps = [after - before for before, after in zip(web.begun, web.begun[1:], strict=False)]
    assert min(gaps) >= 2.0 - LATE_S - 0.02


def test_what_one_task_is_told_to_wait_all_wait() -> None:
    limiter = Limiter()
    limiter.grant(Asks("a", 8, 20.0, 3.0, [Ask("h", 5, 1, 1, 0, 4, 7.0, 0.0)]), 100.0)
    (grant,) = limiter.grant(Asks("b", 8, 20.0, 3.0, [Ask("h", 5, 0, 0, 0, 4, 0.0, 0.0)]), 101.0).hosts
    assert grant == Grant("h", 4, [], False, 6.0)
    (grant,) = limiter.grant(Asks("b", 8, 20.0, 3.0, [Ask("h", 5, 0, 4, 0, 4, 0.0, 0.0)]), 107.0).hosts
    assert grant.starts
    assert grant.held_s == 0


def test_a_limiter_that_was_put_down_and_taken_up_goes_on() -> None:
    limiter = Limiter()
    asks = Asks("a", 8, 20.0, 3.0, [Ask("h", 50, 0, 0, 0, 4, 0.0, 0.0)])
    limiter.grant(asks, 0.0)
    other = Asks("b", 8, 20.0, 3.0, [Ask("h", 50, 0, 0, 0, 4, 0.0, 0.0)])
    copy = Limiter.load(limiter.dump())
    assert copy.grant(other, 0.1) == limiter.grant(other, 0.1)


def test_hosts_that_nobody_asks_about_any_more_are_forgotten() -> None:
    limiter = Limiter()
    for number in range(300):
        at_s = float(number)
        for waiting in (1, 0):
            limiter.grant(Asks("a", 8, 20.0, 3.0, [Ask(f"h{number}", waiting, 0, 0, 0, 4, 0.0, 0.0)]), at_s)
    assert len(limiter.dump()) < 200


# --- over HTTP -----------------------------------------------------------------------------------


def config_of(server: LoopbackServer, **options: object) -> FetchConfig:
    named = {"allow_addresses": (f"127.0.0.0/8:{server.port}",), "retries": 0, "timeout_s": 2.0} | options
    return FetchConfig(user_agent="test/1 (+http://test.example)", **named)  # type: ignore[arg-type]


def fetch_side_by_side(shares: Sequence[Sequence[str]], config: FetchConfig, **run: object) -> list[list[Fetched]]:
    """Each of `shares` by a fetch of its own, at the same time, with one limiter."""
    limiter, lock = Limiter(), threading.Lock()

    def ask(message: bytes, timeout_s: float) -> bytes:
        with lock:
            return limiter.serve(message, time.monotonic())

    def one(number: int) -> list[Fetched]:
        wide = {"heavy": {"a.localhost"}, "ask": ask, "number": number} | run
        return list(fetch(shares[number], config, run=RunWide(**wide)))  # type: ignore[arg-type]

    with ThreadPoolExecutor(len(shares)) as pool:
        return list(pool.map(one, range(len(shares))))


def most_within(server: LoopbackServer, seconds: float) -> int:
    times = sorted(request.at_s for request in server.requests)
    return max(sum(1 for each in times if at_s - seconds < each <= at_s) for at_s in times)


def test_three_fetches_share_the_connections_and_the_rate_of_a_heavy_host() -> None:
    paths = [f"/{i}" for i in range(36)]
    with LoopbackServer({path: answer(200, b"x", delay_s=0.1) for path in paths}) as server:
        urls = [server.url(path) for path in paths]
        config = config_of(server, heavy_host_concurrency=2, heavy_host_rate=30.0)
        shares = fetch_side_by_side([urls[0:12], urls[12:24], urls[24:36]], config)
    assert all(fetched.body == b"x" for share in shares for fetched in share)
    assert server.max_at_once <= 2
    assert server.max_open <= 2
    assert most_within(server, 1.0) <= 30 * (1 + LATE_S) + 1


def test_many_heavy_hosts_are_asked_about_some_at_a_time() -> None:
    hosts = [f"h{i}.localhost" for i in range(150)]
    most: list[int] = []
    limiter = Limiter()

    def ask(message: bytes, timeout_s: float) -> bytes:
        most.append(len(msgspec.msgpack.decode(message, type=Asks).hosts))
        return limiter.serve(message, time.monotonic())

    with LoopbackServer({"/x": text(b"x"), "/y": text(b"y")}) as server:
        urls = [server.url(path, host=host) for path in ("/x", "/y") for host in hosts]
        config = config_of(server, concurrency=16)
        got = list(fetch(urls, config, run=RunWide(heavy=set(hosts), ask=ask)))
    assert len(got) == 300
    assert all(fetched.body for fetched in got)
    assert most[0] == 2 * 16
    assert max(most) < len(hosts)
    assert not limiter.dump().count(b"localhost") or len(limiter.dump()) < 20_000


def test_a_light_host_keeps_the_limit_of_each_fetch() -> None:
    paths = [f"/{i}" for i in range(20)]
    with LoopbackServer({path: answer(200, b"x", delay_s=0.05) for path in paths}) as server:
        urls = [server.url(path, host="b.localhost") for path in paths]
        config = config_of(server, heavy_host_concurrency=1, heavy_host_rate=0.1)
        shares = fetch_side_by_side([urls[:10], urls[10:]], config)
    assert all(fetched.body == b"x" for share in shares for fetched in share)
    assert 2 < server.max_at_once <= 8


def test_a_busy_heavy_host_is_left_alone_by_every_fetch() -> None:
    paths = [f"/{i}" for i in range(60)]
    busy = in_turn(answer(429, headers={"Retry-After": "2"}), text(b"x"))
    routes = {path: text(b"x") for path in paths} | {"/5": busy}
    with LoopbackServer(routes) as server:
        urls = [server.url(path) for path in paths]
        config = config_of(server, heavy_host_rate=20.0, retries=1)
        shares = fetch_side_by_side([urls[:30], urls[30:]], config)
    assert all(fetched.body == b"x" for share in shares for fetched in share)
    (asked_s,) = [r.at_s for r in server.requests if r.target == "/5" and r.number == 1]
    # Whoever was told by the limiter heard of it within the second.
    assert not [r for r in server.requests if asked_s + 1.0 < r.at_s < asked_s + 1.95]


def test_crawl_delay_of_robots_txt_holds_for_all_fetches() -> None:
    routes = {f"/{i}": text(b"x") for i in range(4)} | {"/robots.txt": text(b"User-agent: *\nCrawl-delay: 0.7\n")}
    with LoopbackServer(routes) as server:
        urls = [server.url(f"/{i}") for i in range(4)]
        config = config_of(server, robots_txt=True)
        shares = fetch_side_by_side([urls[:2], urls[2:]], config, heavy=())
        times = sorted(request.at_s for request in server.requests if request.target != "/robots.txt")
    assert all(fetched.body == b"x" for share in shares for fetched in share)
    assert times[-1] - times[0] >= 3 * 0.7 - LATE_S


def test_crawl_delay_is_kept_to_up_to_a_limit_and_known_before_the_host_is_asked() -> None:
    routes = {f"/{i}": text(b"x") for i in range(3)}
    for limit_s, least_s in ((0.4, 0.8 - LATE_S), (0.0, 0.0)):
        with LoopbackServer(routes) as server:
            config = config_of(server, max_crawl_delay_s=limit_s)
            run = RunWide(delay_of=lambda host: 3600.0 if host == "a.localhost" else None)
            began_s = time.monotonic()
            assert len(list(fetch([server.url(path) for path in routes], config, run=run))) == 3
            took_s = time.monotonic() - began_s
        assert took_s >= least_s
        assert took_s < 10


def test_without_its_limiter_a_fetch_keeps_to_a_share_that_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stages.fetch.shared_hosts.lease_s", lambda again_s: 0.2)
    monkeypatch.setattr("pipeline.stages.fetch.shared_hosts._ASK_TIMEOUT_S", 0.1)

    def gone(message: bytes, timeout_s: float) -> bytes:
        raise LimiterGoneError("gone")

    paths = [f"/{i}" for i in range(6)]
    with LoopbackServer({path: text(b"x") for path in paths}) as server:
        urls = [server.url(path) for path in paths]
        config = config_of(server, timeout_s=0.2, heavy_host_concurrency=2, heavy_host_rate=8.0, shard_deadline_s=5.0)
        shares = fetch_side_by_side([urls[:3], urls[3:5], urls[5:]], config, ask=gone)
        times = sorted(request.at_s for request in server.requests)
    assert [[fetched.reason for fetched in share] for share in shares] == [[None] * 3, [None] * 2, ["timeout"]]
    assert server.max_at_once <= 2
    assert most_within(server, 1.0) <= 8 * (1 + LATE_S)
    assert times


@pytest.mark.parametrize(
    "option",
    [{"heavy_host_concurrency": 0}, {"heavy_host_rate": 0.0}, {"heavy_host_urls": -1}, {"max_crawl_delay_s": -1}],
)
def test_limits_that_cannot_be_kept_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        FetchConfig(user_agent="test/1 (+http://test.example)", **option)  # type: ignore[arg-type]

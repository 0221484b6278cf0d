"""fetch(): many URLs at once through libcurl's multi interface, in a thread of its own.

The loop runs beside the consumer, so that a consumer that is busy decoding never makes a transfer time out.
What it may pile up is bounded: no transfer starts while finished bodies of `max_waiting_bytes` wait.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pipeline.consent.robots_answer import NO_HOST, text_of_answer, text_of_failure
from pipeline.consent.robots_rules import RobotsSignals
from pipeline.consent.robots_table import Robots, robots_url_of
from pipeline.consent.signals import AnswerSignals
from pipeline.records.identity import canonical_url, first_64_bits, keyed_hash, url_id_of
from pipeline.stages.fetch.address import AddressGuard
from pipeline.stages.fetch.block import blocking_reason, read_block_list
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.hosts import NO_ANSWER, Hosts
from pipeline.stages.fetch.multi import Multi
from pipeline.stages.fetch.name_cache import NameCache
from pipeline.stages.fetch.names import Found, Names, check_resolvers
from pipeline.stages.fetch.outage import LocalCause, Outage
from pipeline.stages.fetch.schedule import Schedule
from pipeline.stages.fetch.shared_hosts import RunWide, SharedHosts
from pipeline.stages.fetch.transfer import Answer, check_authorities
from pipeline.stages.fetch.wire import OtherSchemeError, joined, wire_url

__all__ = ["STANDARD", "Fetched", "fetch", "fetch_robots"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """What came of one URL. Either `body` or `reason` (a word of `pipeline.records.reasons`, stage fetch) is set."""

    index: int
    """The URL's place in the input."""
    body: bytes | None = None
    reason: str | None = None
    detail: str | None = None
    """For people; free of times and counts that a second run would change."""
    http_status: int | None = None
    """Of the last answer, if there was one."""
    final_url: str | None = None
    """The URL that was requested last, after redirects, as it went over the wire (`wire.py`)."""
    redirects: tuple[str, ...] = ()
    """The URLs that followed the first one in the last attempt, `final_url` at their end."""
    content_type: str | None = None
    attempts: int = 0
    """Attempts begun; 0 where nothing was requested."""
    statements: tuple[str, ...] | None = None
    """What the header lines of the last attempt say of the use (`pipeline.consent.answers`), its redirects' among
    them; null where they are not known."""


STANDARD = AnswerSignals()
"""What `consent.level: standard` honours of an answer."""


def fetch(
    urls: Sequence[str],
    config: FetchConfig,
    signals: AnswerSignals = STANDARD,
    run: RunWide | None = None,
    *,
    robots: Robots | None = None,
    crawled: Sequence[bool] = (),
) -> Iterator[Fetched]:
    """Download `urls`: exactly one Fetched for every index, in the order in which they complete. `run` is what this
    fetch has in common with others of a run.

    `signals` says what of an answer's headers is honoured: what they forbid is not downloaded. `robots` judges each URL
    and each redirect before it is requested; hosts that it does not know are asked for their robots.txt first, if it
    `asks`. `crawled` says of each URL whether it comes from Common Crawl; empty for none.

    Never raises for a URL's fault. Raises ConfigError for a block list or ca_file that cannot be read, NetworkError
    where the first requests show that this machine reaches nothing (`outage.py`). Closing the iterator stops all
    transfers.
    """
    # Reads the files that the config names: a mistake in them shows before anything starts.
    loop = _Loop(urls, config, signals, run or RunWide(), robots, crawled)
    return loop.results()


def fetch_robots(urls: Sequence[str], config: FetchConfig, run: RunWide | None = None) -> Iterator[Fetched]:
    """As `fetch`, of robots.txt files: what is longer than their limit is cut, and what headers say is nothing to
    them."""
    return _Loop(urls, config, STANDARD, run or RunWide(), None, (), are_robots=True).results()


@dataclass(slots=True)
class _Job:
    """One picture, or one robots.txt (index -1), on its way."""

    index: int
    origin: str  # as it goes over the wire
    url: str  # the same; differs from origin after a redirect
    attempts: int = 0
    spent_s: float = 0.0  # of the present attempt
    redirects: list[str] = field(default_factory=list)  # of the present attempt
    statements: list[str] = field(default_factory=list)  # of the present attempt
    robots_of: str = ""  # the authority whose robots.txt this is
    watched: bool = False  # by `outage`

    @property
    def is_robots(self) -> bool:
        return bool(self.robots_of)


class _Loop:
    def __init__(
        self,
        urls: Sequence[str],
        config: FetchConfig,
        signals: AnswerSignals,
        run: RunWide,
        robots: Robots | None,
        crawled: Sequence[bool],
        *,
        are_robots: bool = False,
    ) -> None:
        self._urls = urls
        self._signals = signals
        self._config = config
        check_authorities(config)
        check_resolvers(config)
        self._guard = AddressGuard(config.allow_addresses)
        self._block = read_block_list(config.block, config.block_files)
        self._schedule: Schedule[_Job] = Schedule(
            per_host_concurrency=config.per_host_concurrency,
            per_host_rate=config.per_host_rate,
            concurrency=config.concurrency,
        )
        if robots is None and config.robots_txt and not are_robots:
            own = RobotsSignals(product=config.product, content_usage=False, content_signal=False)
            robots = Robots((), own, asks=True)
        self._rules, self._crawled, self._are_robots = robots, crawled, are_robots
        self._robots: dict[str, Answer | list[_Job]] = {}  # hosts that are being asked, or could not be reached
        self._shared = SharedHosts(config, run, self._schedule, lambda: self._transfers.wake())
        self._cache = None if run.names is None else NameCache(run.names, config.resolvers)
        self._names = Names(config, self._cache, run.look_ups, lambda: self._transfers.wake())
        # Jobs in flight whose host is looked up, and since when.
        self._unnamed: dict[str, list[tuple[_Job, float]]] = {}
        self._num_unnamed = 0
        self._hosts = Hosts(config, self._hold)
        self._outage = Outage((lambda: self._names.answered) if config.resolvers else None)
        self._open = len(urls)
        self._deadline_s = float("inf")
        # Between the threads: the results, their bytes, and the wish to stop.
        self._done: deque[Fetched] = deque()
        self._changed = threading.Condition()
        self._waiting_bytes = 0
        self._starved = False
        self._stop = False
        self._crash: BaseException | None = None

    # --- the consumer's thread -------------------------------------------------------------------

    def results(self) -> Iterator[Fetched]:
        if not self._urls:
            return
        self._transfers: Multi[tuple[str, _Job]] = Multi(self._config, self._signals, self._guard)
        thread = threading.Thread(target=self._run, name="fetch", daemon=True)
        thread.start()
        try:
            for _ in range(len(self._urls)):
                with self._changed:
                    while not self._done and self._crash is None:
                        self._changed.wait()
                    if not self._done:
                        break
                    fetched = self._done.popleft()
                    self._waiting_bytes -= len(fetched.body or b"")
                    wake = self._starved and self._waiting_bytes <= self._config.max_waiting_bytes
                if wake:
                    self._transfers.wake()
                yield fetched
            if self._crash is not None:
                raise self._crash
        finally:
            self._stop = True
            self._transfers.wake()
            thread.join()
            self._shared.silence()
            self._names.close()
            self._transfers.close()
            self._shared.close()
            if self._cache is not None:
                self._cache.close()

    # --- the loop's thread -----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # noqa: BLE001 - carried over to the consumer, who raises it
            with self._changed:
                self._crash = error
                self._changed.notify()

    def _loop(self) -> None:
        if self._config.shard_deadline_s:
            self._deadline_s = time.monotonic() + self._config.shard_deadline_s
        for index, url in enumerate(self._urls):
            self._begin(index, url)
        while self._open and not self._stop:
            if time.monotonic() >= self._deadline_s:
                self._give_up()
                return
            self._shared.tend(time.monotonic())
            self._start_transfers()
            self._transfers.wait(self._idle_s())
            self._collect()

    def _idle_s(self) -> float:
        """How long there is nothing to do but to serve the transfers."""
        now = time.monotonic()
        due_s = self._schedule.wake_s()
        if due_s is None or len(self._transfers) + self._num_unnamed >= self._config.concurrency or self._starved:
            due_s = float("inf")
        return min(1.0, self._deadline_s - now, due_s - now, self._shared.wake_s() - now)

    # --- a job's way -----------------------------------------------------------------------------

    def _begin(self, index: int, url: str) -> None:
        try:
            origin = wire_url(url)
        except OtherSchemeError as scheme:
            self._finish(Fetched(index=index, reason="scheme_not_allowed", detail=f"{str(scheme)[:20]}:"))
            return
        except ValueError:
            self._finish(Fetched(index=index, reason="bad_url"))
            return
        self._admit(_Job(index, origin, origin), 0.0)

    def _admit(self, job: _Job, not_before_s: float) -> None:
        """Let `job` request `job.url` when its turn comes, unless something forbids it."""
        try:
            parts = urlsplit(job.url)
            host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            self._reject(job, "bad_url", None)
            return
        blocked = self._block.match_url(job.url)  # a robots.txt can be redirected to what is blocked
        if blocked is not None:
            self._reject(job, blocking_reason(blocked), blocked)
            return
        if self._config.proxy and not self._guard.permits_host(host, port):
            self._reject(job, "address_not_allowed", f"would ask the proxy for {host} port {port}")
            return
        if self._rules is not None and not job.is_robots and not self._is_allowed(self._rules, job):
            return
        self._shared.admit(host)
        self._schedule.add(host, job, not_before_s=not_before_s)

    def _hold(self, host: str, until_s: float) -> None:
        self._schedule.hold(host, until_s)
        self._shared.held(host, until_s)

    def _is_allowed(self, rules: Robots, job: _Job) -> bool:
        """Whether robots.txt is known and lets `job` pass; else the job waits or is rejected."""
        if rules.covers(job.url):
            crawled = bool(self._crawled) and self._crawled[job.index]
            verdict = rules.verdict(job.url, from_common_crawl=crawled)
            if verdict is not None:
                self._reject(job, verdict.reason, verdict.detail)
            return verdict is None
        if not rules.asks:
            return True
        robots_url = robots_url_of(job.url)
        known = self._robots.get(robots_url)
        if known is None:
            self._robots[robots_url] = [job]
            self._admit(_Job(-1, robots_url, robots_url, robots_of=robots_url), 0.0)
        elif isinstance(known, list):
            known.append(job)
        else:
            if known.local is not None and not job.attempts:
                job.watched = self._outage.asked(urlsplit(job.url).hostname or "")
            self._conclude(job, Answer(reason=known.reason, detail=known.detail, local=known.local))
        return False

    def _start_transfers(self) -> None:
        while len(self._transfers) + self._num_unnamed < self._config.concurrency:
            with self._changed:
                self._starved = self._waiting_bytes > self._config.max_waiting_bytes
            if self._starved:
                return
            turn = self._schedule.next(time.monotonic())
            if turn is None:
                return
            host, job = turn
            if not (job.attempts or job.redirects):
                job.watched = self._outage.asked(host)
            verdict = self._hosts.verdict(host)
            if verdict is not None:
                self._schedule.release(host, asked=False)
                self._conclude(job, verdict)
                continue
            if not job.redirects:
                job.attempts += 1
            self._request(host, job)

    def _request(self, host: str, job: _Job) -> None:
        """Request `job.url` once it is known where its host is."""
        port = urlsplit(job.url).port or (443 if job.url.startswith("https:") else 80)
        addresses = []
        if self._names.looks_up(host, port):
            now_s = time.monotonic()
            found = self._names.find(host, now_s)
            if found is None:
                self._names.look_up(host, now_s)
                self._unnamed.setdefault(host, []).append((job, now_s))
                self._num_unnamed += 1
                return
            if not found.addresses:
                self._settle(host, job, _unresolved(found))
                return
            addresses = [f"+{host}:{port}:{','.join(found.addresses)}"]
        if not self._transfers.start(
            job.url,
            (host, job),
            timeout_s=self._config.timeout_s - job.spent_s,
            is_robots=job.is_robots or self._are_robots,
            closes=self._schedule.closes(host),
            addresses=addresses,
        ):
            self._schedule.release(host)
            self._conclude(job, Answer(reason="bad_url"))

    def _collect(self) -> None:
        for (host, job), answer in self._transfers.ended():
            self._settle(host, job, answer)
        now_s = time.monotonic()
        for host, found in self._names.ended(now_s):
            for job, since_s in self._unnamed.pop(host, ()):
                self._num_unnamed -= 1
                job.spent_s += now_s - since_s
                if found.addresses:
                    self._request(host, job)
                else:
                    self._settle(host, job, _unresolved(found))

    def _settle(self, host: str, job: _Job, answer: Answer) -> None:
        """What was in flight is no longer."""
        self._schedule.heard(host, answered=answer.reason not in NO_ANSWER)
        self._schedule.release(host)
        self._shared.ended(host)
        job.spent_s += answer.elapsed_s
        job.statements += answer.statements
        self._hosts.remember(host, answer)
        self._conclude(job, answer)

    def _conclude(self, job: _Job, answer: Answer) -> None:
        """Follow a redirect, try again, or be done."""
        if answer.redirect is not None:
            self._follow(job, answer)
            return
        wait_s = self._hosts.granted_wait_s(urlsplit(job.url).hostname or "", answer)
        if answer.heals and wait_s is not None and job.attempts <= self._config.retries:
            self._try_again(job, wait_s)
            return
        if job.watched:
            job.watched = False
            left = answer.local if not job.redirects else None
            self._outage.ended(urlsplit(job.url).hostname or "", left, answer.detail or answer.reason or "")
        if job.is_robots:
            self._learn_robots(job, answer)
            return
        blocked = self._block.match_body(answer.body) if answer.body is not None else None
        self._finish(
            Fetched(
                index=job.index,
                body=answer.body if blocked is None else None,
                reason=answer.reason if blocked is None else blocking_reason(blocked),
                detail=answer.detail if blocked is None else blocked,
                http_status=answer.http_status,
                final_url=job.url,
                redirects=tuple(job.redirects),
                content_type=answer.content_type,
                attempts=job.attempts,
                statements=tuple(job.statements),
            )
        )

    def _follow(self, job: _Job, answer: Answer) -> None:
        target, reason, detail = "", None, None
        try:
            target = joined(job.url, answer.redirect or b"")
        except OtherSchemeError as scheme:
            reason, detail = "scheme_not_allowed", f"redirect to {str(scheme)[:20]}:"
        except ValueError:
            reason, detail = "bad_url", "redirect"
        if reason is None and target in (job.origin, *job.redirects):
            reason, detail = "too_many_redirects", "a loop"
        elif reason is None and len(job.redirects) >= self._config.max_redirects:
            reason, detail = "too_many_redirects", f"more than {self._config.max_redirects}"
        elif reason is None and job.spent_s >= self._config.timeout_s:
            reason, detail = "timeout", f"over {self._config.timeout_s:g} s"
        if reason is not None:
            self._conclude(job, Answer(reason=reason, detail=detail, http_status=answer.http_status))
            return
        job.url = target
        job.redirects.append(target)
        self._admit(job, 0.0)

    def _try_again(self, job: _Job, asked_s: float) -> None:
        """Queue another attempt, after `asked_s` or longer."""
        wait_s = self._config.backoff_s * 2.0 ** (job.attempts - 1) * (1.0 + 0.5 * _jitter(job))
        job.url, job.spent_s = job.origin, 0.0
        job.redirects.clear()
        job.statements.clear()
        self._admit(job, time.monotonic() + max(wait_s, asked_s))

    def _learn_robots(self, job: _Job, answer: Answer) -> None:
        waiting = self._robots.pop(job.robots_of)
        assert isinstance(waiting, list)
        assert self._rules is not None
        if answer.reason in NO_HOST and not job.redirects:
            self._robots[job.robots_of] = answer  # the pictures of the host would meet the same end
        else:
            self._rules.learn(job.robots_of, _text_of(answer, job, self._config.product))
            host = urlsplit(job.robots_of).hostname or ""
            if (delay_s := self._rules.crawl_delay_s(urlsplit(job.robots_of).netloc)) is not None:
                self._shared.delay(host, delay_s)
        for each in waiting:
            self._admit(each, 0.0)

    def _reject(self, job: _Job, reason: str, detail: str | None) -> None:
        self._conclude(job, Answer(reason=reason, detail=detail))

    def _give_up(self) -> None:
        """The shard's deadline has passed: everything unfinished is a timeout."""
        jobs = [*self._schedule.drain(), *(job for _, job in self._transfers.jobs())]
        jobs += [job for waiting in self._unnamed.values() for job, _ in waiting]
        jobs += [job for waiting in self._robots.values() if isinstance(waiting, list) for job in waiting]
        detail = f"not finished after the shard's {self._config.shard_deadline_s:g} s"
        for job in jobs:
            if not job.is_robots:
                self._finish(
                    Fetched(index=job.index, reason="timeout", detail=detail, final_url=job.url, attempts=job.attempts)
                )

    def _finish(self, fetched: Fetched) -> None:
        self._open -= 1
        with self._changed:
            self._done.append(fetched)
            self._waiting_bytes += len(fetched.body or b"")
            self._changed.notify()


def _jitter(job: _Job) -> float:
    """In [0, 1), from the URL and the attempt: spread over URLs, the same in every run."""
    key = first_64_bits(url_id_of(canonical_url(job.origin)))
    return float(keyed_hash(job.attempts, key)[0]) / 2.0**64


def _unresolved(found: Found) -> Answer:
    return Answer(reason="dns", detail="timed out" if found.timed_out else None, local=LocalCause.RESOLVER)


def _text_of(answer: Answer, job: _Job, product: str) -> str:
    """What the answer to the request for a robots.txt says."""
    if answer.body is not None:
        return text_of_answer(job.robots_of, 200, None, answer.body, product)
    return text_of_failure(answer.reason or "", was_redirected=bool(job.redirects))

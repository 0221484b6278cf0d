"""fetch: the URLs that are missing in a staging shard -> their pictures in a staging tar, and their facts.

A URL is requested once, however many captions and spellings it has. The done-record freezes the answers: a download
cannot be repeated exactly. The order of the staging tar is the order of arrival; nothing reads it but by
offset. What is written here stays, also when the plan changes (`facts.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.consent.answers import Refusal, judge
from pipeline.consent.body import statements_in
from pipeline.consent.c2pa_manifest import check_c2pa
from pipeline.consent.config import ConsentConfig
from pipeline.consent.robots_rules import RobotsSignals
from pipeline.consent.robots_table import HostTable, Robots, TableFiles
from pipeline.consent.signals import AnswerSignals
from pipeline.engine import Data, Desk, DeskError, Info, Needs, Task, apart, desk_here
from pipeline.pictures.rejected import Rejected
from pipeline.records.schema import FACTS
from pipeline.stages.check_image.config import ImageConfig, Picture
from pipeline.stages.check_image.isolate import IsolatedChecker
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.download import Fetched, fetch
from pipeline.stages.fetch.img2dataset import fetch_with_img2dataset
from pipeline.stages.fetch.limiter import Limiter
from pipeline.stages.fetch.name_cache import machine_directory
from pipeline.stages.fetch.names import check_resolvers
from pipeline.stages.fetch.shared_hosts import LimiterGoneError, RunWide
from pipeline.stages.fetch.tdmrep import reserved
from pipeline.stages.fetch.transfer import check_authorities
from pipeline.stages.privacy.config import PrivacyConfig
from pipeline.stages.privacy.hash_lists import HASH_LIST, HashLists, read_hash_lists
from pipeline.steps.fetch.facts import STORE, Answers, FactsByOrder, named_by_key, settings_of
from pipeline.steps.fetch.fetched import join_facts
from pipeline.steps.fetch.heavy_hosts import HeavyHosts, count_hosts, find_heavy_hosts
from pipeline.steps.fetch.requests import MISSING, Requests, list_requests, stop_key, with_removals
from pipeline.steps.judges.survivors import Survivors
from pipeline.steps.robots.archives import HostRobots
from pipeline.steps.robots.live import KnownRobots, LiveRobots, live_robots
from pipeline.steps.robots.permit import is_from
from pipeline.steps.robots.reservations import Reservations, reservations
from pipeline.steps.schedule import Selected
from pipeline.steps.step import Page, Run, step
from pipeline.storage.atomic import temporary_name
from pipeline.storage.checked import picture_hash, read_table
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import write_parquet
from pipeline.storage.tar import TarWriter
from pipeline.watching import counting

__all__ = ["Fetch", "fetch_missing", "fetch_pictures", "keep_picture"]


@dataclass(frozen=True, kw_only=True)
class Fetch(Task[Answers]):
    """Request the URLs that are missing in a staging shard. What it was asked with goes into its record: a fact is
    found again by that."""

    missing: Location
    settings: str
    """Of `settings_of`."""
    block_key: str
    """Of `stop_key`: where a list was an answer once, the same URLs may be missing again."""
    signals: AnswerSignals
    """What of an answer is honoured; likewise."""
    heeded: RobotsSignals | None = None
    """What of a robots.txt is honoured; likewise."""
    config: FetchConfig = apart()
    image: ImageConfig = apart()
    privacy: PrivacyConfig = apart(default=PrivacyConfig())
    seed: int = apart()
    first: int = apart()
    """The staging shard's range of `order`."""
    last: int = apart()
    retry: int = apart()
    """The number of the last retry."""
    heavy: Files = apart(default=Files())
    """The list of heavy hosts, if there is one."""
    robots: KnownRobots | None = apart(default=None)
    """What is known of hosts' robots.txt; None where nobody asks for it."""
    tdmrep: TableFiles | None = apart(default=None)
    """What hosts reserve by their tdmrep.json; None where nobody asks for it."""
    selected: Location = apart(default=Location(""))
    """The plan of the staging shard, which says where each URL comes from."""

    version = 6

    @property
    def needs(self) -> Needs:
        """A whole CPU where hosts have a rate, which holds in one process, and for the other engine."""
        mostly_waits = self.config.engine == "own" and not self.config.per_host_rate
        return Needs(cpus=self.config.cpus if mostly_waits else 1.0)

    @property
    def clerk(self) -> type[Limiter] | None:
        """The limiter that all of them share, where they share hosts."""
        delays = self.config.robots_txt or (self.robots is not None and self.robots.has_delays)
        shares = self.config.heavy_host_urls or (delays and self.config.max_crawl_delay_s)
        return Limiter if shares and self.config.engine == "own" else None

    def work(self, out: Answers) -> Info:
        missing = read_table(self.missing).cast(MISSING)
        urls = dict(zip(missing["url_id"].to_pylist(), missing["url"].to_pylist(), strict=True))
        path = out.facts.local
        robots = None if self.robots is None else self.robots.open()
        run = self._run_wide(robots)
        with TarWriter(out.tar.local) as tar:
            facts = dict(self._fetch_all(urls, tar, temporary_name(path.with_name("bodies")), run, robots))
        rows = [{"url_id": url_id, **facts[url_id]} for url_id in urls]
        write_parquet(path, pa.Table.from_pylist(rows, schema=FACTS), FACTS)
        success = sum(1 for row in rows if row["status"] == "success")
        about = {"settings": self.settings, "seed": self.seed, "first": self.first, "last": self.last}
        lists = read_hash_lists(self.privacy)
        about |= {"lists": lists.key} if lists else {}
        look_ups = dataclasses.asdict(run.look_ups) if self.config.engine == "own" else {}
        return {"rows": len(rows), "success": success, **about, "retry": self.retry, "look_ups": look_ups}

    def _fetch_all(
        self, urls: Mapping[bytes, str], tar: TarWriter, scratch: Path, run: RunWide, robots: Robots | None
    ) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """(url_id, facts) as the answers come; pictures go to `tar`. `scratch` is a directory to make if one is
        needed."""
        ids = list(urls)
        lists = read_hash_lists(self.privacy)
        tally = counting("URL", total=len(ids), kept_as="ok")
        if self.tdmrep is not None:
            table = HostTable(self.tdmrep)
            files = {ids[index]: file for index, file in reserved(list(urls.values()), table).items()}
            for url_id, file in files.items():
                tally.done += 1
                yield url_id, _refused(Refusal(reason="tdmrep_json", detail=file))
            urls = {url_id: url for url_id, url in urls.items() if url_id not in files}
            ids = list(urls)
        crawled = self._crawled(urls)
        with IsolatedChecker(self.image, with_pdq=lists.wants_pdq) as checker:
            for answer in _answers(list(urls.values()), self.config, self.signals, scratch, run, robots, crawled):
                url_id = ids[answer.index]
                facts: dict[str, Any] = {"http_status": answer.http_status, "redirects": answer.redirects or None}
                facts["statements"] = answer.statements
                facts["rsl_license"] = None if robots is None else robots.license(urls[url_id])
                if answer.body is None:
                    facts |= {"status": "failed_to_download", "stage": "fetch"}
                    facts |= {"reason": answer.reason, "detail": answer.detail}
                    tally.done += 1
                    yield url_id, facts
                    continue
                said = statements_in(answer.body, self.signals)
                facts["statements"] = (*(answer.statements or ()), *said)
                refusal = judge(self.signals, said, product=self.config.product) if said else None
                if refusal is not None and lists.match_body(answer.body) is None:
                    facts |= _refused(refusal)
                else:
                    kept = keep_picture(url_id, answer.body, checker, tar, lists)
                    facts = kept if kept["reason"] == HASH_LIST else facts | kept
                tally.done += 1
                tally.kept += facts["status"] == "success"
                tally.num_bytes += len(answer.body)
                yield url_id, facts

    def _crawled(self, urls: Mapping[bytes, str]) -> list[bool]:
        """Of each URL whether a source of its pairs is of Common Crawl."""
        if self.robots is None:
            return [False] * len(urls)
        table = read_table(self.selected, ["url_id", "source"])
        of_crawl = is_from(self.robots.common_crawl, table["source"].combine_chunks())
        found = {url_id for url_id, crawled in zip(table["url_id"].to_pylist(), of_crawl, strict=True) if crawled}
        return [url_id in found for url_id in urls]

    def _run_wide(self, robots: Robots | None) -> RunWide:
        """What it shares with the other tasks of the run."""
        heavy = frozenset(host for file in self.heavy for host in read_table(file, ["host"])["host"].to_pylist())
        desk = desk_here()
        ask = None if desk is None else functools.partial(_ask, desk)
        run = RunWide(heavy=heavy, ask=ask, number=desk.number if desk else 0, names=machine_directory())
        return run if robots is None else dataclasses.replace(run, delay_of=robots.crawl_delay_s)


def _refused(refusal: Refusal) -> dict[str, Any]:
    about = {"status": "failed_to_download", "stage": "fetch"}
    return about | {"reason": refusal.reason, "detail": refusal.detail}


def _ask(desk: Desk, message: bytes, timeout_s: float) -> bytes:
    try:
        return desk.ask(message, timeout_s)
    except DeskError as error:
        raise LimiterGoneError(str(error)) from error


def _answers(
    urls: Sequence[str],
    config: FetchConfig,
    signals: AnswerSignals,
    scratch: Path,
    run: RunWide,
    robots: Robots | None,
    crawled: Sequence[bool],
) -> Iterator[Fetched]:
    if config.engine == "own":
        yield from fetch(urls, config, signals, run, robots=robots, crawled=crawled)
        return
    allowed = list(range(len(urls)))
    if robots is not None:  # of redirects that engine tells nothing before it follows them
        verdicts = [verdict for verdict, _ in robots.verdicts(urls, crawled)]
        allowed = [index for index, verdict in enumerate(verdicts) if verdict is None]
        for index, verdict in enumerate(verdicts):
            if verdict is not None:
                yield Fetched(index=index, reason=verdict.reason, detail=verdict.detail)
    try:
        for answer in fetch_with_img2dataset([urls[index] for index in allowed], config, signals, scratch):
            yield dataclasses.replace(answer, index=allowed[answer.index])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def keep_picture(
    url_id: bytes, body: bytes, checker: IsolatedChecker, tar: TarWriter, lists: HashLists
) -> dict[str, Any]:
    """Check a body; put what stays into `tar`; its FACTS (without `url_id`) by column.

    Of a body that is on one of `lists`, nothing is stored, and nothing is told but `HashLists.facts_of_hit`; so it is
    of one that looks like a listed picture, once it is decoded (`checker` takes its PDQ).
    """
    if (name := lists.match_body(body)) is not None:
        return lists.facts_of_hit(name)
    (checked,) = checker.check([body])
    if isinstance(checked, Rejected):
        facts = {"status": "failed_to_resize", "stage": "check_image"}
        return facts | {"reason": checked.reason, "detail": checked.detail}
    if (name := lists.match_pdq(checked.pdq)) is not None:
        return lists.facts_of_hit(name)
    offset = tar.add(f"{url_id.hex()}.{checked.extension}", checked.encoded)
    stored = {"num_bytes": len(checked.encoded), "tar_offset": offset, "stored_xxh3": picture_hash(checked.encoded)}
    return _facts_of(checked) | _other_hashes(body, checked) | {"status": "success", "reason": None} | stored


def _facts_of(picture: Picture) -> dict[str, Any]:
    names = ("width", "height", "original_width", "original_height", "original_format", "original_bytes")
    return {name: getattr(picture, name) for name in (*names, "exif", "sha256", "phash", "thumbnail")}


def _other_hashes(body: bytes, picture: Picture) -> dict[str, Any]:
    """For lists that come later."""
    md5, sha1 = (hashlib.new(kind, body, usedforsecurity=False).digest() for kind in ("md5", "sha1"))
    pdq = picture.pdq
    looks = {} if pdq is None else {"pdq": pdq.hashes, "pdq_quality": pdq.quality}
    return {"md5": md5, "sha1": sha1, **looks}


@step(STORE, Fetch, title="fetch and check images", per="staging shard", keep=True)
def fetch_missing(
    run: Run,
    planned: Data[Selected],
    requests: Data[Requests],
    heavy: Data[HeavyHosts] | None,
    live: Data[LiveRobots] | None,
    captured: Data[HostRobots] | None,
    tdmrep: Data[Reservations] | None,
    config: FetchConfig,
    consent: ConsentConfig,
    image: ImageConfig,
    privacy: PrivacyConfig,
) -> Iterator[Fetch]:
    """One task per staging shard that misses something; its name holds its key, so it never replaces another's."""
    settings, signals = settings_of(config, image), AnswerSignals.of(consent)
    config = with_removals(config, run.output)
    key = stop_key(config, privacy)
    lists = Files() if heavy is None else heavy.files(lambda out: out.heavy)
    robots = KnownRobots.of(live, captured, consent, config.product)
    heeded = RobotsSignals.of(consent, config.product)
    for shard, request in zip(planned.parts, requests.parts, strict=True):
        if request.info["missing"]:
            yield named_by_key(
                Fetch(
                    partition=request.name,
                    missing=request.files.missing,
                    settings=settings,
                    block_key=key,
                    signals=signals,
                    heeded=heeded,
                    config=config,
                    image=image,
                    privacy=privacy,
                    seed=run.seed,
                    first=shard.info["first"],
                    last=shard.info["last"],
                    retry=request.info["retry"],
                    heavy=lists,
                    robots=robots,
                    tdmrep=None if tdmrep is None else Reservations.table(tdmrep),
                    selected=shard.files.selected,
                )
            )


@fetch_missing.checked_by
def _check(
    run: Run,
    planned: Data[Selected],
    requests: Data[Requests],
    heavy: Data[HeavyHosts] | None,
    live: Data[LiveRobots] | None,
    captured: Data[HostRobots] | None,
    tdmrep: Data[Reservations] | None,
    config: FetchConfig,
    consent: ConsentConfig,
    image: ImageConfig,
    privacy: PrivacyConfig,
) -> None:
    check_authorities(config)
    check_resolvers(config)
    if consent.honours("c2pa"):
        check_c2pa()


def fetch_pictures(
    page: Page,
    planned: Data[Selected],
    stored: Data[FactsByOrder] | None,
    captured: Data[HostRobots] | None,
    config: FetchConfig,
    consent: ConsentConfig,
    image: ImageConfig,
    privacy: PrivacyConfig,
) -> Data[Survivors]:
    """The steps that find the facts about every URL of the plan: those that are known, `stored` among them, and those
    that are requested now, as far as the hosts' robots.txt, `captured` or asked, let them be."""
    requests = page.add(list_requests(planned, stored, config, consent, image, privacy))
    heavy = None
    if config.heavy_host_urls and config.engine == "own":
        heavy = page.add(find_heavy_hosts(page.add(count_hosts(requests)), config.heavy_host_urls))
    live = live_robots(page, requests, captured, config, consent)
    tdmrep = reservations(page, requests, config, consent)
    answers = page.add(fetch_missing(planned, requests, heavy, live, captured, tdmrep, config, consent, image, privacy))
    return page.add(join_facts(planned, requests, answers))

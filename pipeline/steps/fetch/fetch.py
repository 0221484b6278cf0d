"""fetch: the URLs that are missing in a staging shard -> their pictures in a staging tar, and their facts.

A URL is requested once, however many captions and spellings it has. The done-record freezes the answers: a download
cannot be repeated exactly. The order of the staging tar is the order of arrival; nothing reads it but by
offset. What is written here stays, also when the plan changes (`facts.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.engine import Data, Desk, DeskError, Info, Needs, Task, apart, desk_here
from pipeline.pictures.rejected import Rejected
from pipeline.records.schema import FACTS
from pipeline.stages.check_image.config import ImageConfig, Picture
from pipeline.stages.check_image.isolate import IsolatedChecker
from pipeline.stages.fetch.block import read_block_list
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.download import Fetched, fetch
from pipeline.stages.fetch.img2dataset import fetch_with_img2dataset
from pipeline.stages.fetch.limiter import Limiter
from pipeline.stages.fetch.name_cache import machine_directory
from pipeline.stages.fetch.names import check_resolvers
from pipeline.stages.fetch.shared_hosts import LimiterGoneError, RunWide
from pipeline.stages.fetch.transfer import check_authorities
from pipeline.steps.fetch.facts import STORE, Answers, FactsByOrder, named_by_key, settings_of
from pipeline.steps.fetch.fetched import join_facts
from pipeline.steps.fetch.heavy_hosts import HeavyHosts, count_hosts, find_heavy_hosts
from pipeline.steps.fetch.requests import MISSING, Requests, list_requests
from pipeline.steps.judges.survivors import Survivors
from pipeline.steps.schedule import Selected
from pipeline.steps.step import Page, Run, step
from pipeline.storage.atomic import temporary_name
from pipeline.storage.checked import picture_hash, read_table
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import write_parquet
from pipeline.storage.tar import TarWriter
from pipeline.watching import counting

__all__ = ["Fetch", "fetch_missing", "fetch_pictures", "keep_picture"]

_TRANSFERS_PER_CPU = 256
"""A picture takes 5 to 6 ms of a core (docs/fetching.md), and mostly more than a second to come."""


@dataclass(frozen=True, kw_only=True)
class Fetch(Task[Answers]):
    """Request the URLs that are missing in a staging shard. What it was asked with goes into its record: a fact is
    found again by that."""

    missing: Location
    settings: str
    """Of `settings_of`."""
    block_key: str
    """Of the block list: where it was an answer once, the same URLs may be missing again."""
    config: FetchConfig = apart()
    image: ImageConfig = apart()
    seed: int = apart()
    first: int = apart()
    """The staging shard's range of `order`."""
    last: int = apart()
    retry: int = apart()
    """The number of the last retry."""
    heavy: Files = apart(default=Files())
    """The list of heavy hosts, if there is one."""

    version = 5

    @property
    def needs(self) -> Needs:
        """A whole CPU where hosts have a rate, which holds in one process, and for the other engine."""
        mostly_waits = self.config.engine == "own" and not self.config.per_host_rate
        return Needs(cpus=min(1.0, self.config.concurrency / _TRANSFERS_PER_CPU) if mostly_waits else 1.0)

    @property
    def clerk(self) -> type[Limiter] | None:
        """The limiter that all of them share, where they share hosts."""
        shares = self.config.heavy_host_urls or self.config.max_crawl_delay_s
        return Limiter if shares and self.config.engine == "own" else None

    def work(self, out: Answers) -> Info:
        missing = read_table(self.missing).cast(MISSING)
        urls = dict(zip(missing["url_id"].to_pylist(), missing["url"].to_pylist(), strict=True))
        path = out.facts.local
        run = self._run_wide()
        with TarWriter(out.tar.local) as tar:
            facts = dict(self._fetch_all(urls, tar, temporary_name(path.with_name("bodies")), run))
        rows = [{"url_id": url_id, **facts[url_id]} for url_id in urls]
        write_parquet(path, pa.Table.from_pylist(rows, schema=FACTS), FACTS)
        success = sum(1 for row in rows if row["status"] == "success")
        about = {"settings": self.settings, "seed": self.seed, "first": self.first, "last": self.last}
        look_ups = dataclasses.asdict(run.look_ups) if self.config.engine == "own" else {}
        return {"rows": len(rows), "success": success, **about, "retry": self.retry, "look_ups": look_ups}

    def _fetch_all(
        self, urls: Mapping[bytes, str], tar: TarWriter, scratch: Path, run: RunWide
    ) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """(url_id, facts) as the answers come; pictures go to `tar`. `scratch` is a directory to make if one is
        needed."""
        ids = list(urls)
        tally = counting("URL", total=len(ids), kept_as="ok")
        with IsolatedChecker(self.image) as checker:
            for answer in _answers(list(urls.values()), self.config, scratch, run):
                url_id = ids[answer.index]
                facts: dict[str, Any] = {"http_status": answer.http_status, "redirects": answer.redirects or None}
                if answer.body is None:
                    facts |= {"status": "failed_to_download", "stage": "fetch"}
                    facts |= {"reason": answer.reason, "detail": answer.detail}
                    tally.done += 1
                    yield url_id, facts
                    continue
                facts |= keep_picture(url_id, answer.body, checker, tar)
                tally.done += 1
                tally.kept += facts["status"] == "success"
                tally.num_bytes += len(answer.body)
                yield url_id, facts

    def _run_wide(self) -> RunWide:
        """What it shares with the other tasks of the run."""
        heavy = frozenset(host for file in self.heavy for host in read_table(file, ["host"])["host"].to_pylist())
        desk = desk_here()
        ask = None if desk is None else functools.partial(_ask, desk)
        return RunWide(heavy=heavy, ask=ask, number=desk.number if desk else 0, names=machine_directory())


def _ask(desk: Desk, message: bytes, timeout_s: float) -> bytes:
    try:
        return desk.ask(message, timeout_s)
    except DeskError as error:
        raise LimiterGoneError(str(error)) from error


def _answers(urls: Sequence[str], config: FetchConfig, scratch: Path, run: RunWide) -> Iterator[Fetched]:
    if config.engine == "own":
        yield from fetch(urls, config, run)
        return
    try:
        yield from fetch_with_img2dataset(urls, config, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def keep_picture(url_id: bytes, body: bytes, checker: IsolatedChecker, tar: TarWriter) -> dict[str, Any]:
    """Check a body; put what stays into `tar`; its FACTS (without `url_id`) by column."""
    (checked,) = checker.check([body])
    if isinstance(checked, Rejected):
        facts = {"status": "failed_to_resize", "stage": "check_image"}
        return facts | {"reason": checked.reason, "detail": checked.detail}
    offset = tar.add(f"{url_id.hex()}.{checked.extension}", checked.encoded)
    stored = {"num_bytes": len(checked.encoded), "tar_offset": offset, "stored_xxh3": picture_hash(checked.encoded)}
    return _facts_of(checked) | {"status": "success"} | stored


def _facts_of(picture: Picture) -> dict[str, Any]:
    names = ("width", "height", "original_width", "original_height", "original_format", "original_bytes")
    return {name: getattr(picture, name) for name in (*names, "exif", "sha256", "phash", "thumbnail")}


@step(STORE, Fetch, title="fetch and check images", per="staging shard", keep=True)
def fetch_missing(
    run: Run,
    planned: Data[Selected],
    requests: Data[Requests],
    heavy: Data[HeavyHosts] | None,
    config: FetchConfig,
    image: ImageConfig,
) -> Iterator[Fetch]:
    """One task per staging shard that misses something; its name holds its key, so it never replaces another's."""
    settings = settings_of(config, image)
    block_key = read_block_list(config.block, config.block_files).key
    lists = Files() if heavy is None else heavy.files(lambda out: out.heavy)
    for shard, request in zip(planned.parts, requests.parts, strict=True):
        if request.info["missing"]:
            yield named_by_key(
                Fetch(
                    partition=request.name,
                    missing=request.files.missing,
                    settings=settings,
                    block_key=block_key,
                    config=config,
                    image=image,
                    seed=run.seed,
                    first=shard.info["first"],
                    last=shard.info["last"],
                    retry=request.info["retry"],
                    heavy=lists,
                )
            )


@fetch_missing.checked_by
def _check(
    run: Run,
    planned: Data[Selected],
    requests: Data[Requests],
    heavy: Data[HeavyHosts] | None,
    config: FetchConfig,
    image: ImageConfig,
) -> None:
    check_authorities(config)
    check_resolvers(config)


def fetch_pictures(
    page: Page,
    planned: Data[Selected],
    stored: Data[FactsByOrder] | None,
    config: FetchConfig,
    image: ImageConfig,
) -> Data[Survivors]:
    """The steps that find the facts about every URL of the plan: those that are known, `stored` among them, and those
    that are requested now."""
    requests = page.add(list_requests(planned, stored, config, image))
    heavy = None
    if config.heavy_host_urls and config.engine == "own":
        heavy = page.add(find_heavy_hosts(page.add(count_hosts(requests)), config.heavy_host_urls))
    answers = page.add(fetch_missing(planned, requests, heavy, config, image))
    return page.add(join_facts(planned, requests, answers))

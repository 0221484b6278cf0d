"""fetch: the URLs that are missing in a staging shard -> their pictures in a staging tar, and their facts.

A URL is requested once, however many captions and spellings it has. The done-record freezes the answers: a download
cannot be repeated exactly. The order of the staging tar is the order of arrival; nothing reads it but by
offset. What is written here stays, also when the plan changes (`facts.py`).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.engine import Data, Info, Needs, Task, apart
from pipeline.pictures.rejected import Rejected
from pipeline.records.schema import FACTS
from pipeline.stages.check_image.config import ImageConfig, Picture
from pipeline.stages.check_image.isolate import IsolatedChecker
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.download import Fetched, fetch
from pipeline.stages.fetch.img2dataset import fetch_with_img2dataset
from pipeline.stages.fetch.transfer import check_authorities
from pipeline.stages.privacy.config import PrivacyConfig
from pipeline.stages.privacy.hash_lists import HASH_LIST, HashLists, read_hash_lists
from pipeline.steps.fetch.facts import STORE, Answers, FactsByOrder, named_by_key, settings_of
from pipeline.steps.fetch.fetched import join_facts
from pipeline.steps.fetch.requests import MISSING, Requests, list_requests, stop_key
from pipeline.steps.judges.survivors import Survivors
from pipeline.steps.schedule import Selected
from pipeline.steps.step import Page, Run, step
from pipeline.storage.atomic import temporary_name
from pipeline.storage.checked import picture_hash, read_table
from pipeline.storage.location import Location
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
    """Of `stop_key`: where a list was an answer once, the same URLs may be missing again."""
    config: FetchConfig = apart()
    image: ImageConfig = apart()
    privacy: PrivacyConfig = apart(default=PrivacyConfig())
    seed: int = apart()
    first: int = apart()
    """The staging shard's range of `order`."""
    last: int = apart()
    retry: int = apart()
    """The number of the last retry."""

    version = 5

    @property
    def needs(self) -> Needs:
        """A whole CPU where hosts have a rate, which holds in one process, and for the other engine."""
        mostly_waits = self.config.engine == "own" and not self.config.per_host_rate
        return Needs(cpus=min(1.0, self.config.concurrency / _TRANSFERS_PER_CPU) if mostly_waits else 1.0)

    def work(self, out: Answers) -> Info:
        missing = read_table(self.missing).cast(MISSING)
        urls = dict(zip(missing["url_id"].to_pylist(), missing["url"].to_pylist(), strict=True))
        path = out.facts.local
        with TarWriter(out.tar.local) as tar:
            facts = dict(self._fetch_all(urls, tar, temporary_name(path.with_name("bodies"))))
        rows = [{"url_id": url_id, **facts[url_id]} for url_id in urls]
        write_parquet(path, pa.Table.from_pylist(rows, schema=FACTS), FACTS)
        success = sum(1 for row in rows if row["status"] == "success")
        about = {"settings": self.settings, "seed": self.seed, "first": self.first, "last": self.last}
        lists = read_hash_lists(self.privacy)
        about |= {"lists": lists.key} if lists else {}
        return {"rows": len(rows), "success": success, **about, "retry": self.retry}

    def _fetch_all(
        self, urls: Mapping[bytes, str], tar: TarWriter, scratch: Path
    ) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """(url_id, facts) as the answers come; pictures go to `tar`. `scratch` is a directory to make if one is
        needed."""
        ids = list(urls)
        lists = read_hash_lists(self.privacy)
        tally = counting("URL", total=len(ids), kept_as="ok")
        with IsolatedChecker(self.image, with_pdq=lists.wants_pdq) as checker:
            for answer in _answers(list(urls.values()), self.config, scratch):
                url_id = ids[answer.index]
                facts: dict[str, Any] = {"http_status": answer.http_status, "redirects": answer.redirects or None}
                if answer.body is None:
                    facts |= {"status": "failed_to_download", "stage": "fetch"}
                    facts |= {"reason": answer.reason, "detail": answer.detail}
                    tally.done += 1
                    yield url_id, facts
                    continue
                kept = keep_picture(url_id, answer.body, checker, tar, lists)
                facts = kept if kept["reason"] == HASH_LIST else facts | kept
                tally.done += 1
                tally.kept += facts["status"] == "success"
                tally.num_bytes += len(answer.body)
                yield url_id, facts


def _answers(urls: Sequence[str], config: FetchConfig, scratch: Path) -> Iterator[Fetched]:
    if config.engine == "own":
        yield from fetch(urls, config)
        return
    try:
        yield from fetch_with_img2dataset(urls, config, scratch)
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
    config: FetchConfig,
    image: ImageConfig,
    privacy: PrivacyConfig,
) -> Iterator[Fetch]:
    """One task per staging shard that misses something; its name holds its key, so it never replaces another's."""
    settings = settings_of(config, image)
    key = stop_key(config, privacy)
    for shard, request in zip(planned.parts, requests.parts, strict=True):
        if request.info["missing"]:
            yield named_by_key(
                Fetch(
                    partition=request.name,
                    missing=request.files.missing,
                    settings=settings,
                    block_key=key,
                    config=config,
                    image=image,
                    privacy=privacy,
                    seed=run.seed,
                    first=shard.info["first"],
                    last=shard.info["last"],
                    retry=request.info["retry"],
                )
            )


@fetch_missing.checked_by
def _check(
    run: Run,
    planned: Data[Selected],
    requests: Data[Requests],
    config: FetchConfig,
    image: ImageConfig,
    privacy: PrivacyConfig,
) -> None:
    check_authorities(config)


def fetch_pictures(
    page: Page,
    planned: Data[Selected],
    stored: Data[FactsByOrder] | None,
    config: FetchConfig,
    image: ImageConfig,
    privacy: PrivacyConfig,
) -> Data[Survivors]:
    """The steps that find the facts about every URL of the plan: those that are known, `stored` among them, and those
    that are requested now."""
    requests = page.add(list_requests(planned, stored, config, image, privacy))
    answers = page.add(fetch_missing(planned, requests, config, image, privacy))
    return page.add(join_facts(planned, requests, answers))

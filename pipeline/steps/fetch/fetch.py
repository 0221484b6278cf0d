"""fetch: the URLs that are missing in a staging shard -> their pictures in a staging tar, and their facts.

A URL is requested once, however many captions and spellings it has. The done-record freezes the answers: a download
cannot be repeated exactly. The order of the staging tar is the order of arrival; nothing reads it but by
offset. What is written here stays, also when the plan changes (`facts.py`).
"""

from __future__ import annotations

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
from pipeline.consent.signals import AnswerSignals
from pipeline.engine import Data, Info, Needs, Task, apart
from pipeline.pictures.rejected import Rejected
from pipeline.records.schema import FACTS
from pipeline.stages.check_image.config import ImageConfig, Picture
from pipeline.stages.check_image.isolate import IsolatedChecker
from pipeline.stages.fetch.block import read_block_list
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.download import Fetched, fetch
from pipeline.stages.fetch.img2dataset import fetch_with_img2dataset
from pipeline.stages.fetch.tdmrep import reserved
from pipeline.stages.fetch.transfer import check_authorities
from pipeline.steps.fetch.facts import STORE, Answers, FactsByOrder, named_by_key, settings_of
from pipeline.steps.fetch.fetched import join_facts
from pipeline.steps.fetch.requests import MISSING, Requests, list_requests
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
    """Of the block list: where it was an answer once, the same URLs may be missing again."""
    signals: AnswerSignals
    """What of an answer is honoured; likewise."""
    config: FetchConfig = apart()
    image: ImageConfig = apart()
    seed: int = apart()
    first: int = apart()
    """The staging shard's range of `order`."""
    last: int = apart()
    retry: int = apart()
    """The number of the last retry."""

    version = 6

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
        return {"rows": len(rows), "success": success, **about, "retry": self.retry}

    def _fetch_all(
        self, urls: Mapping[bytes, str], tar: TarWriter, scratch: Path
    ) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """(url_id, facts) as the answers come; pictures go to `tar`. `scratch` is a directory to make if one is
        needed."""
        ids = list(urls)
        tally = counting("URL", total=len(ids), kept_as="ok")
        if self.signals.tdmrep_json:
            files = {ids[index]: file for index, file in reserved(list(urls.values()), self.config).items()}
            for url_id, file in files.items():
                tally.done += 1
                yield url_id, _refused(Refusal(reason="tdmrep_json", detail=file))
            urls = {url_id: url for url_id, url in urls.items() if url_id not in files}
            ids = list(urls)
        with IsolatedChecker(self.image) as checker:
            for answer in _answers(list(urls.values()), self.config, self.signals, scratch):
                url_id = ids[answer.index]
                facts: dict[str, Any] = {"http_status": answer.http_status, "redirects": answer.redirects or None}
                facts["statements"] = answer.statements
                if answer.body is None:
                    facts |= {"status": "failed_to_download", "stage": "fetch"}
                    facts |= {"reason": answer.reason, "detail": answer.detail}
                    tally.done += 1
                    yield url_id, facts
                    continue
                said = statements_in(answer.body, self.signals)
                facts["statements"] = (*(answer.statements or ()), *said)
                refusal = judge(self.signals, said, product=self.config.product) if said else None
                if refusal is None:
                    facts |= keep_picture(url_id, answer.body, checker, tar)
                else:
                    facts |= _refused(refusal)
                tally.done += 1
                tally.kept += facts["status"] == "success"
                tally.num_bytes += len(answer.body)
                yield url_id, facts


def _refused(refusal: Refusal) -> dict[str, Any]:
    about = {"status": "failed_to_download", "stage": "fetch"}
    return about | {"reason": refusal.reason, "detail": refusal.detail}


def _answers(urls: Sequence[str], config: FetchConfig, signals: AnswerSignals, scratch: Path) -> Iterator[Fetched]:
    if config.engine == "own":
        yield from fetch(urls, config, signals)
        return
    try:
        yield from fetch_with_img2dataset(urls, config, signals, scratch)
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
    config: FetchConfig,
    consent: ConsentConfig,
    image: ImageConfig,
) -> Iterator[Fetch]:
    """One task per staging shard that misses something; its name holds its key, so it never replaces another's."""
    settings, signals = settings_of(config, image), AnswerSignals.of(consent)
    block_key = read_block_list(config.block, config.block_files).key
    for shard, request in zip(planned.parts, requests.parts, strict=True):
        if request.info["missing"]:
            yield named_by_key(
                Fetch(
                    partition=request.name,
                    missing=request.files.missing,
                    settings=settings,
                    block_key=block_key,
                    signals=signals,
                    config=config,
                    image=image,
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
    consent: ConsentConfig,
    image: ImageConfig,
) -> None:
    check_authorities(config)
    if consent.honours("c2pa"):
        check_c2pa()


def fetch_pictures(
    page: Page,
    planned: Data[Selected],
    stored: Data[FactsByOrder] | None,
    config: FetchConfig,
    consent: ConsentConfig,
    image: ImageConfig,
) -> Data[Survivors]:
    """The steps that find the facts about every URL of the plan: those that are known, `stored` among them, and those
    that are requested now."""
    requests = page.add(list_requests(planned, stored, config, consent, image))
    answers = page.add(fetch_missing(planned, requests, config, consent, image))
    return page.add(join_facts(planned, requests, answers))

"""fetch: the URLs that are missing in a staging shard -> their pictures in a staging tar, and their facts.

A URL is requested once, however many captions and spellings it has. The done-record freezes the answers: a download
cannot be repeated exactly. The order of the staging tar is the order of arrival; nothing reads it but by
offset. What is written here stays, also when the plan changes (`facts.py`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs.load import fingerprint, from_mapping, to_mapping
from pipeline.checked import picture_hash, read_table
from pipeline.engine import Done, Task
from pipeline.pictures.rejected import Rejected
from pipeline.schema import FACTS
from pipeline.stages.check_image.config import ImageConfig, Picture
from pipeline.stages.check_image.isolate import IsolatedChecker
from pipeline.stages.fetch.block import BlockList
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.fetch.download import Fetched, fetch
from pipeline.stages.fetch.img2dataset import fetch_with_img2dataset
from pipeline.steps.facts import settings_of
from pipeline.steps.requests import MISSING
from pipeline.steps.step import Step
from pipeline.storage import temporary_name, write_parquet
from pipeline.tar import TarWriter

__all__ = ["VERSION", "keep_picture", "plan"]

VERSION = "fetch-4"


def plan(
    requested: Sequence[Done],
    directory: Path,
    scheduled: Sequence[Done],
    fetch_config: FetchConfig,
    image: ImageConfig,
    seed: int,
    *,
    block: BlockList,
) -> Step:
    """One task per staging shard that misses something; its name holds its key, so it never replaces another's.

    `block` is the block list of `fetch_config`: where it was an answer once, the same URLs may be missing again.
    """
    settings = settings_of(fetch_config, image)
    config = {"fetch": to_mapping(fetch_config), "image": to_mapping(image)}
    tasks = []
    for record, shard in zip(requested, scheduled, strict=True):
        if not record.info["missing"]:
            continue
        missing = record.file(directory, "missing")
        key = fingerprint(VERSION, missing.digest, settings, block.key)
        name = f"{record.partition}-{key[:12]}"
        about = {"settings": settings, "seed": seed, "first": shard.info["first"], "last": shard.info["last"]}
        about["retry"] = record.info["retry"]
        tasks.append(
            Task(
                partition=name,
                work=_work,
                arguments={"missing": missing, "about": about, **config},
                outputs=(f"{name}.facts.parquet", f"{name}.tar"),
                key=key,
            )
        )
    return Step(name="fetch", title="fetch and check images", tasks=tasks, keep=True)


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    facts_path, tar_path = outputs.values()
    missing = read_table(arguments["missing"]).cast(MISSING)
    urls = dict(zip(missing["url_id"].to_pylist(), missing["url"].to_pylist(), strict=True))
    with TarWriter(tar_path) as tar:
        facts = dict(_fetch_all(urls, arguments, tar, temporary_name(facts_path.with_name("bodies"))))
    rows = [{"url_id": url_id, **facts[url_id]} for url_id in urls]
    write_parquet(facts_path, pa.Table.from_pylist(rows, schema=FACTS), FACTS)
    success = sum(1 for row in rows if row["status"] == "success")
    return {"rows": len(rows), "success": success, **arguments["about"]}


def _fetch_all(
    urls: Mapping[bytes, str], arguments: Mapping[str, Any], tar: TarWriter, scratch: Path
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """(url_id, facts) as the answers come; pictures go to `tar`. `scratch` is a directory to make if one is needed."""
    fetch_config = from_mapping(FetchConfig, arguments["fetch"])
    image = from_mapping(ImageConfig, arguments["image"])
    ids = list(urls)
    with IsolatedChecker(image) as checker:
        for answer in _answers(list(urls.values()), fetch_config, scratch):
            url_id = ids[answer.index]
            facts: dict[str, Any] = {"http_status": answer.http_status, "redirects": answer.redirects or None}
            if answer.body is None:
                facts |= {"status": "failed_to_download", "stage": "fetch"}
                facts |= {"reason": answer.reason, "detail": answer.detail}
                yield url_id, facts
                continue
            yield url_id, facts | keep_picture(url_id, answer.body, checker, tar)


def _answers(urls: Sequence[str], config: FetchConfig, scratch: Path) -> Iterator[Fetched]:
    if config.engine == "own":
        yield from fetch(urls, config)
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

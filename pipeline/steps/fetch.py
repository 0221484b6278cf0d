"""fetch: one staging shard of the plan -> its pictures in a staging tar, and a row of facts per pair.

A URL is requested once, however many captions it has. The done-record freezes the answers: a download
cannot be repeated exactly. The order of the staging tar is the order of arrival; nothing reads it but by offset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.load import from_mapping, to_mapping
from pipeline.engine import Done, Task
from pipeline.ledger import Ledger, LedgerConfig
from pipeline.outcome import Outcome, rejections_from_rows
from pipeline.schema import FETCHED, SELECTED
from pipeline.stages.check_image import ImageConfig, IsolatedChecker, Picture, Rejected
from pipeline.stages.fetch import FetchConfig, fetch
from pipeline.steps.step import Step, key_of
from pipeline.storage import write_parquet
from pipeline.tar import TarWriter

__all__ = ["VERSION", "plan"]

VERSION = "fetch-1"
_NO_FACTS = dict.fromkeys(FETCHED.names[len(SELECTED.names) :])


def plan(
    scheduled: Sequence[Done], directory: Path, fetch_config: FetchConfig, image: ImageConfig, ledger: LedgerConfig
) -> Step:
    """One task per staging shard."""
    tasks = []
    for record in scheduled:
        name = record.partition
        config = {"fetch": to_mapping(fetch_config), "image": to_mapping(image), "ledger": to_mapping(ledger)}
        tasks.append(
            Task(
                partition=name,
                work=_work,
                arguments={"selected": str(record.path(directory, "selected")), **config},
                outputs=tuple(f"{name}.{kind}" for kind in ("fetched.parquet", "rejections.parquet", "tar")),
                key=key_of(VERSION, [record], config),
            )
        )
    return Step(name="fetch", title="fetch and check images", tasks=tasks)


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    fetched_path, rejections_path, tar_path = outputs.values()
    selected = pq.read_table(arguments["selected"]).cast(SELECTED)
    urls: dict[bytes, str] = {}
    for url_id, url in zip(selected["url_id"].to_pylist(), selected["url"].to_pylist(), strict=True):
        urls.setdefault(url_id, url)
    with TarWriter(tar_path) as tar:
        facts = dict(_fetch_all(urls, arguments, tar))
    rows = [{**row, **_NO_FACTS, **facts[row["url_id"]]} for row in selected.to_pylist()]
    stages = [row.pop("stage") for row in rows]
    details = [row.pop("detail") for row in rows]
    table = pa.Table.from_pylist(rows, schema=FETCHED)
    write_parquet(fetched_path, table, FETCHED)
    ledger = Ledger(rejections_path, from_mapping(LedgerConfig, arguments["ledger"]))
    _enter(ledger, rows, stages, details)
    done = sum(1 for row in rows if row["status"] == "success")
    return {"rows": len(rows), "urls": len(urls), "success": done, "lines": ledger.close()}


def _fetch_all(
    urls: Mapping[bytes, str], arguments: Mapping[str, Any], tar: TarWriter
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """(url_id, facts) as the answers come; pictures go to `tar`."""
    fetch_config = from_mapping(FetchConfig, arguments["fetch"])
    image = from_mapping(ImageConfig, arguments["image"])
    ids = list(urls)
    with IsolatedChecker(image) as checker:
        for answer in fetch(list(urls.values()), fetch_config):
            url_id = ids[answer.index]
            facts: dict[str, Any] = {"http_status": answer.http_status, "stage": None, "detail": None}
            if answer.body is None:
                facts |= {"status": "failed_to_download", "stage": "fetch"}
                facts |= {"reason": answer.reason, "detail": answer.detail}
                yield url_id, facts
                continue
            (checked,) = checker.check([answer.body])
            if isinstance(checked, Rejected):
                facts |= {"status": "failed_to_resize", "stage": "check_image"}
                facts |= {"reason": checked.reason, "detail": checked.detail}
            else:
                facts |= _facts_of(checked) | {"status": "success", "num_bytes": len(checked.encoded)}
                facts["tar_offset"] = tar.add(f"{url_id.hex()}.{checked.extension}", checked.encoded)
            yield url_id, facts


def _facts_of(picture: Picture) -> dict[str, Any]:
    names = ("width", "height", "original_width", "original_height", "original_format", "original_bytes")
    return {name: getattr(picture, name) for name in (*names, "exif", "sha256", "phash")}


def _enter(
    ledger: Ledger, rows: Sequence[Mapping[str, Any]], stages: Sequence[str | None], details: Sequence[str | None]
) -> None:
    """Both stages' lines: fetch sees every pair, check_image those whose body came."""
    for stage, reached in (
        ("fetch", rows),
        ("check_image", [r for r, s in zip(rows, stages, strict=True) if s != "fetch"]),
    ):
        rejected = [
            {name: row[name] for name in ("source", "record", "link", "uid", "reason")} | {"stage": s, "detail": d}
            for row, s, d in zip(rows, stages, details, strict=True)
            if s == stage
        ]
        lost = {row["uid"] for row in rejected}
        kept = pa.RecordBatch.from_pydict(
            {"uid": pa.array([r["uid"] for r in reached if r["uid"] not in lost], pa.binary(16))}
        )
        ledger.add(stage, "pair", Outcome(kept=kept, rejected=rejections_from_rows(rejected), num_in=len(reached)))

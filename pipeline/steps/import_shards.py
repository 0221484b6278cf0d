"""import: pictures that img2dataset stored beside the rows of a source -> our tar and facts, without a request.

    00000.parquet + 00000.tar of a source, MATCHED of its rows --check_image--> NAME.facts.parquet, NAME.tar

Only pictures whose caption came through the text stages are looked at. They are copied, so that no other step reads
the source. The files lie in work/fetch/imported; `imported.py` puts their facts into the plan's order, for `requests`
to find the URLs known, so that nothing is asked for.

A row's sizes and SHA-256 are those of the picture as it was served, if img2dataset noted them; format, bytes and EXIF
are those of the stored file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from configs.load import fingerprint, from_mapping, to_mapping
from pipeline.checked import Vouched, read_table
from pipeline.engine import Done, Task
from pipeline.errors import InputError, one_line
from pipeline.img2dataset import pictures, tar_beside
from pipeline.schema import FACTS
from pipeline.stages.check_image.config import ImageConfig
from pipeline.stages.check_image.isolate import IsolatedChecker
from pipeline.stages.extract import MissingPictures
from pipeline.stages.extract.files import open_binary
from pipeline.steps.fetch import keep_picture
from pipeline.steps.sources import stamp_of
from pipeline.steps.step import Step
from pipeline.storage import write_parquet
from pipeline.tar import TarWriter

__all__ = ["DIRECTORY", "VERSION", "plan"]

VERSION = "import-2"
DIRECTORY = "imported"
"""Under work/fetch."""
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def plan(
    sources: Sequence[str],
    matched: tuple[Sequence[Done], Path],
    image: ImageConfig,
    *,
    max_bytes: int,
    missing: MissingPictures,
) -> Step:
    """One task per source file of which something matched; `sources` are Parquet files, in the order of their records
    in `matched`.

    Its files are named after what they hold, as those of the fetch step are: offsets into an older copy must never
    meet a newer one. Raises InputError where a tar is not beside its Parquet file.
    """
    tasks = []
    for source, record in zip(sources, matched[0], strict=True):
        if not record.info["rows"]:
            continue  # nothing is wanted of it, or it could not be read at all
        tar = tar_beside(source)
        settings = {"image": to_mapping(image), "max_bytes": max_bytes, "missing": missing}
        rows = record.file(matched[1], "matched")
        key = fingerprint(VERSION, settings, rows.digest, stamp_of(source), _stamp_of_tar(tar))
        name = f"{record.partition}-{key[:12]}"
        tasks.append(
            Task(
                partition=name,
                work=_work,
                arguments={"source": source, "tar": tar, "matched": rows, **settings},
                outputs=(f"{name}.facts.parquet", f"{name}.tar"),
                key=key,
            )
        )
    return Step(name=f"fetch/{DIRECTORY}", title="import stored pictures", tasks=tasks, keep=True)


def _stamp_of_tar(tar: str) -> list[Any]:
    try:
        return stamp_of(tar)
    except FileNotFoundError as error:
        raise InputError(
            f"{tar}: no such file beside its .parquet; source_format img2dataset reads directories that img2dataset "
            "wrote with output_format webdataset (leave source_format out to request the URLs anew)"
        ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A picture to look for."""

    url_id: bytes
    as_served: Mapping[str, Any]
    """FACTS columns that img2dataset noted before it resized the picture."""


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    facts_path, tar_path = outputs.values()
    rows = _rows(arguments["source"], arguments["matched"])
    facts: dict[bytes, dict[str, Any]] = {}
    image = from_mapping(ImageConfig, arguments["image"])
    with (
        open_binary(arguments["tar"]) as stored,
        TarWriter(tar_path) as tar,
        IsolatedChecker(image) as checker,
    ):
        for key, body in pictures(stored, max_bytes=arguments["max_bytes"]):
            row = rows.get(key)
            if row is None or facts.get(row.url_id, {}).get("status") == "success":
                continue
            if body is None:
                detail = f"more than {arguments['max_bytes']} bytes as stored"
                facts[row.url_id] = _failed("too_large", detail)
            else:
                facts[row.url_id] = keep_picture(row.url_id, body, checker, tar)
                if facts[row.url_id]["status"] == "success":
                    facts[row.url_id] |= row.as_served
    if arguments["missing"] == "reject":
        name = arguments["tar"].rpartition("/")[2]
        for key, row in rows.items():
            facts.setdefault(row.url_id, _failed("not_stored", f"no whole {key}.* in {name}"))
    plain = [{"url_id": url_id, **found} for url_id, found in facts.items()]
    write_parquet(facts_path, pa.Table.from_pylist(plain, schema=FACTS), FACTS)
    return {"rows": len(plain), "success": sum(1 for row in plain if row["status"] == "success")}


def _failed(reason: str, detail: str) -> dict[str, Any]:
    return {"status": "failed_to_download", "stage": "fetch", "reason": reason, "detail": detail}


def _rows(source: str, matched: Vouched) -> dict[str, _Row]:
    """Key -> what to look for, of the source's rows that are in `matched`, in the source's order."""
    wanted = read_table(matched, ["url_id", "record"]).sort_by("record")
    with open_binary(source) as file:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        if "key" not in names:
            raise InputError(f"{source}: no column named key; is it of an img2dataset directory?")
        columns = [name for name in ("key", "original_width", "original_height", "sha256") if name in names]
        try:
            rows = table.read(columns=columns).take(wanted["record"]).to_pylist()
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the storage failed, not the data
            reason = one_line(error)
            raise InputError(f"{source}: its keys cannot be read ({reason}); fetch it again") from error
    return {
        row["key"]: _Row(url_id=url_id, as_served=_as_served(row))
        for url_id, row in zip(wanted["url_id"].to_pylist(), rows, strict=True)
    }


def _as_served(row: Mapping[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    width, height = row.get("original_width"), row.get("original_height")
    if width and height:
        known |= {"original_width": int(width), "original_height": int(height)}
    if _SHA256.match(cast(str, row.get("sha256") or "")):
        known["sha256"] = row["sha256"]
    return known

"""Directories as img2dataset writes them, made by hand, and questions to the set that was made of them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.catalog.catalog import open_catalog


def jpeg(seed: int, size: tuple[int, int] = (64, 48)) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def row(number: int, url: str, caption: str, body: bytes | None = None, **more: Any) -> dict[str, Any]:
    """A row as img2dataset writes it; a failure without a body."""
    failed = body is None
    return {
        "url": url,
        "key": f"{number:09d}",
        "caption": caption,
        "status": "failed_to_download" if failed else "success",
        "error_message": "HTTP Error 404: Not Found" if failed else None,
        "width": None if failed else 64,
        "height": None if failed else 48,
        "original_width": None if failed else 640,
        "original_height": None if failed else 480,
        "sha256": None if failed else hashlib.sha256(f"as served {number}".encode()).hexdigest(),
        "body": body,
        **more,
    }


def write_directory(path: Path, shard: int, rows: Sequence[dict[str, Any]], *, leave_out: Sequence[str] = ()) -> Path:
    """00000.parquet and 00000.tar of `rows`; the tar lacks the keys in `leave_out`."""
    path.mkdir(exist_ok=True)
    with tarfile.open(path / f"{shard:05d}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for each in rows:
            if each["body"] is None or each["key"] in leave_out:
                continue
            plain = {name: value for name, value in each.items() if name != "body"}
            for ending, data in (("jpg", each["body"]), ("json", json.dumps(plain).encode()), ("txt", b"a text")):
                member = tarfile.TarInfo(f"{each['key']}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    parquet = path / f"{shard:05d}.parquet"
    pq.write_table(pa.Table.from_pylist([{k: v for k, v in each.items() if k != "body"} for each in rows]), parquet)
    (path / f"{shard:05d}_stats.json").write_text("{}")
    return parquet


def samples_of(output: Path) -> list[dict[str, Any]]:
    with open_catalog(output) as database:
        rows: list[dict[str, Any]] = database.sql("SELECT * FROM samples ORDER BY url").to_arrow_table().to_pylist()
    return rows


def reasons_of(output: Path) -> dict[tuple[str, str], int]:
    with open_catalog(output) as database:
        found = database.sql("SELECT stage, reason, count(*) FROM rejections GROUP BY ALL").fetchall()
    return {(stage, reason): count for stage, reason, count in found}

"""The store of facts of a small set, as the first versions wrote it: no picture has a hash of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.storage.atomic import sha256_of

__all__ = ["drop_hashes"]


def drop_hashes(store: Path) -> None:
    """Take `stored_xxh3` out of all facts in `store`; records vouch for files by SHA-256, and not for themselves."""
    for path in store.glob("done/*.json"):
        record = json.loads(path.read_text())
        del record["check"]
        for name, entry in record["outputs"].items():
            if name.endswith(".parquet"):
                table = pq.read_table(store / name).drop_columns(["stored_xxh3"])
                pq.write_table(table, store / name)
            record["outputs"][name] = {"sha256": sha256_of(store / name), "bytes": (store / name).stat().st_size}
            del entry["xxh3"]
        path.write_text(json.dumps(record))

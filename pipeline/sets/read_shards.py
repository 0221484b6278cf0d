"""The samples of a published set, read back one by one: what its Parquet says of each, and its picture.

manifest.json -> 00000.parquet (one row a sample) -- tar_offset, num_bytes --> the picture's bytes in 00000.tar
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any

import pyarrow as pa

from pipeline.errors import DamagedFileError, InputError, one_line
from pipeline.records.removals import tombstones_of
from pipeline.records.shard import samples_of
from pipeline.storage.atomic import read_json
from pipeline.storage.checked import open_file, read_batches, read_ranges
from pipeline.storage.location import Location
from pipeline.storage.place import Place, place_of

__all__ = ["read_shards"]

_BATCH_ROWS = 4_096
_PICTURES_AT_A_TIME = 64


def read_shards(directory: str | Place) -> Iterator[dict[str, Any]]:
    """Every sample of the data set in `directory`, a path or a bucket's URL, or of the shards that lie there
    themselves, in the set's order.

    A sample is a dict of the columns of SAMPLES (docs/formats.md; null where an earlier version did not write one), of
    CAPTIONED where captions were chosen, and
    `image`: the picture as it is stored, held against its hash. Raises InputError at once where there are no shards,
    DamagedFileError where one is not what was written, StoreError.
    """
    root = place_of(directory)
    if (root / "shards").is_dir():
        root = (root / "shards").resolve()  # the version that it is now, whatever is published meanwhile
    if not root.is_dir():
        raise InputError(f"{directory}: no such directory; name that of a data set, or of its shards")
    manifest = read_json(root / "manifest.json")
    if manifest is None and not (root / "manifest.json").exists():
        raise InputError(f"{directory}: no shards here (no manifest.json); nothing is published yet, or name another")
    try:
        shards = [
            (root / shard["name"], Location(str(root / shard["parquet"]), shard.get("parquet_sha256", "")))
            for shard in manifest["shards"]
        ]
    except (KeyError, TypeError) as error:
        raise DamagedFileError(str(root / "manifest.json"), "is no list of shards") from error
    return _samples(shards, tombstones_of(root))


def _samples(shards: Sequence[tuple[Place, Location]], removed: Set[bytes]) -> Iterator[dict[str, Any]]:
    for path, parquet in shards:
        with open_file(path) as tar:
            for batch in read_batches(parquet, _BATCH_ROWS):
                rows = [row for row in _rows(batch, parquet.path) if row["uid"] not in removed]
                for first in range(0, len(rows), _PICTURES_AT_A_TIME):
                    few = rows[first : first + _PICTURES_AT_A_TIME]
                    places = [(row["tar_offset"], row["num_bytes"], row["stored_xxh3"]) for row in few]
                    for row, image in zip(few, read_ranges(tar, places), strict=True):
                        yield row | {"image": image}


def _rows(batch: pa.RecordBatch, path: str) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = samples_of(pa.Table.from_batches([batch])).to_pylist()
    except (ValueError, KeyError) as error:  # pyarrow's errors are these
        raise DamagedFileError(path, f"its rows are no samples ({one_line(error)})") from error
    return rows

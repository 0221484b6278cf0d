"""One tar of a bucket as a file of this machine: the version that the run knows, or an error.

Read part by part, each a request of its own, so that a cut costs a part and a slow store no time-out.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.storage.bucket import BucketPath, ConflictError, StoreError
from training.data.shards import reading
from training.errors import DataError

__all__ = ["changed", "download"]

_PART_BYTES = 16 << 20
_PATIENCE_S = 20.0
"""How long a part is asked for again, beyond the client's own attempts: a store that is gone is told of in a minute."""


def changed(place: object) -> DataError:
    """What to say of an object that is not the one that the run knows."""
    return DataError(
        f"{place}: changed since the run looked at it, as when the set is published anew; restore it, or set --output "
        "to start a new run"
    )


def download(
    path: BucketPath,
    to: Path,
    *,
    num_bytes: int,
    sha256: str | None,
    tag: str,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Write the object to the file `to`; `sha256` and `tag` are of the version wanted, as far as they are known.

    Gives up when nobody needs it any more, which `is_over` tells. Raises DataError where it is another version or gone,
    where the store does not answer, or the disk is full.
    """
    hasher = hashlib.sha256()
    with reading(path), to.open("wb") as file:
        try:
            if not tag or sha256 is None:
                about = path.stat()
                if about.st_size != num_bytes or (tag and about.tag != tag):
                    raise changed(path)
                tag = about.tag
            for offset in range(0, num_bytes, _PART_BYTES):
                if is_over():
                    raise DataError(f"{path}: not wanted any more")
                part = _part(path, offset, min(_PART_BYTES, num_bytes - offset), tag)
                hasher.update(part)
                file.write(part)
        except ConflictError:
            raise changed(path) from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DataError(
                f"{to.parent}: no space left for copies of shards; set TMPDIR to a larger disk, or lower --data.window"
            ) from error
        if file.tell() != num_bytes or sha256 not in (None, hasher.hexdigest()):
            raise changed(path)


def _part(path: BucketPath, offset: int, size: int, tag: str) -> bytes:
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return path.read_part(offset, size, tag)
        except StoreError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)

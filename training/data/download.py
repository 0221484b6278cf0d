"""Objects of a bucket as files of this machine; of tars the version that the run knows, or an error.

Read part by part, each a request of its own, so that a cut costs a part and a slow store no time-out.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.storage.bucket import BucketPath, ConflictError, StoreError
from training.data.shards import reading
from training.errors import DataError

__all__ = ["changed", "copy_file", "download", "parts"]

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
    with reading(path):
        try:
            if not tag or sha256 is None:
                about = path.stat()
                if about.st_size != num_bytes or (tag and about.tag != tag):
                    raise changed(path)
                tag = about.tag
            with to.open("wb") as file:
                for part in parts(path, num_bytes=num_bytes, tag=tag):
                    if is_over():
                        raise DataError(f"{path}: not wanted any more")
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
    if to.stat().st_size != num_bytes or sha256 not in (None, hasher.hexdigest()):
        raise changed(path)


def parts(path: BucketPath, *, num_bytes: int, tag: str) -> Iterator[bytes]:
    """The `num_bytes` of the version `tag`, part by part. Raises StoreError, ConflictError, FileNotFoundError."""
    for offset in range(0, num_bytes, _PART_BYTES):
        yield _part(path, offset, min(_PART_BYTES, num_bytes - offset), tag)


def copy_file(path: BucketPath, to: Path) -> None:
    """Write the object as it is now to the file `to`. Raises FileNotFoundError, StoreError, or OSError of the disk."""
    about = path.stat()
    try:
        with to.open("wb") as file:
            for part in parts(path, num_bytes=about.st_size, tag=about.tag):
                file.write(part)
    except ConflictError:
        raise StoreError("changed while it was read; run again", str(path)) from None


def _part(path: BucketPath, offset: int, size: int, tag: str) -> bytes:
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return path.read_part(offset, size, tag)
        except StoreError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)

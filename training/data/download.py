"""Objects of a bucket as files of this machine; of tars the version that the run knows, or an error.

Read part by part, each a request of its own, so that a cut costs a part and a slow store no time-out.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.storage.bucket import BucketPath, ConflictError, StoreError, Tag
from training.data.shards import reading
from training.errors import DataError

__all__ = ["changed", "copy_file", "download", "parts"]

_PART_BYTES = 16 << 20


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
    e_tag: str,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Write the object to the file `to`; `sha256` and `e_tag` are of the version wanted, as far as they are known.

    Gives up when nobody needs it any more, which `is_over` tells. Raises DataError where it is another version or gone,
    where the store does not answer, or the disk is full.
    """
    hasher = hashlib.sha256()
    with reading(path):
        try:
            if not e_tag or sha256 is None:
                about = path.version()
                if about.num_bytes != num_bytes or (e_tag and about.tag.e_tag != e_tag):
                    raise changed(path)
                e_tag = about.tag.e_tag
            with to.open("wb") as file:
                for part in parts(path, num_bytes=num_bytes, tag=Tag(e_tag)):
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


def parts(path: BucketPath, *, num_bytes: int, tag: Tag) -> Iterator[bytes]:
    """The `num_bytes` of the version `tag`, part by part. Raises StoreError, ConflictError, FileNotFoundError."""
    for offset in range(0, num_bytes, _PART_BYTES):
        yield path.read_part(offset, min(_PART_BYTES, num_bytes - offset), tag)


def copy_file(path: BucketPath, to: Path) -> None:
    """Write the object as it is now to the file `to`. Raises FileNotFoundError, StoreError, or OSError of the disk."""
    about = path.version()
    try:
        with to.open("wb") as file:
            for part in parts(path, num_bytes=about.num_bytes, tag=about.tag):
                file.write(part)
    except ConflictError:
        raise StoreError("changed while it was read; run again", str(path)) from None

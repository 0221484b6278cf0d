"""Tars of a bucket as files of this machine: the version that the run knows, or an error."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path

from pipeline.storage.bucket import BucketPath, ConflictError, Tag
from training.data.shards import reading
from training.errors import DataError

__all__ = ["changed", "download"]


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
                for piece in path.pieces(num_bytes, Tag(e_tag)):
                    if is_over():
                        raise DataError(f"{path}: not wanted any more")
                    hasher.update(piece)
                    file.write(piece)
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

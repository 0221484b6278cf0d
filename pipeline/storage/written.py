"""One file that is written by name, whole or not at all, wherever it is to be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.storage.atomic import commit, temporary_name, unwritable
from pipeline.storage.bucket import BucketPath
from pipeline.storage.copies import scratch_files
from pipeline.storage.place import Place
from pipeline.storage.store_client import StoreError

__all__ = ["written"]


@contextmanager
def written(to: Place) -> Iterator[Path]:
    """Where on this machine to write what is to be the file `to`, and is when the block has ended well; where the block
    has written nothing, nothing is done.

    Raises OutputError where the disk is full, or `to` cannot be written, and StoreError as the block does.
    """
    try:
        if isinstance(to, BucketPath):
            with scratch_files() as scratch:
                yield scratch / to.name
                if (scratch / to.name).exists():
                    to.put(scratch / to.name)
            return
        temporary = temporary_name(to)
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if temporary.exists():
                commit(temporary, to)
        finally:
            if os.path.lexists(temporary):
                temporary.unlink()
    except StoreError as error:
        if error.filename == str(to):
            raise unwritable(to, error) from error
        raise
    except OSError as error:
        raise unwritable(to, error) from error

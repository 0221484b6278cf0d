"""Puts what a run writes down line by line into its bucket: now and then, before each checkpoint, and at the end.

log.jsonl, tensorboard/*, wandb/*: an object cannot be appended to, so each that has grown is put again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from pipeline.storage.bucket import BucketPath
from pipeline.storage.store_client import StoreError
from training.errors import OutputError

__all__ = ["Mirror"]

_EVERY_S = 60.0
_NAMES = ("log.jsonl", "tensorboard", "wandb")


class Mirror:
    """Keeps `place` as `local` is, while it is entered."""

    def __init__(self, local: Path, place: BucketPath) -> None:
        """Brings the log of what was trained before, if any. Raises OutputError."""
        self._local = local
        self._place = place
        self._put: dict[Path, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="mirror")
        try:
            (local / "log.jsonl").write_bytes((place / "log.jsonl").read_bytes())
        except FileNotFoundError:
            pass
        except StoreError as error:
            raise OutputError(f"{error}; run again") from error

    def __enter__(self) -> Mirror:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if isinstance(error, OutputError):
            return  # the store does not answer
        try:
            self.put_changes()
        except StoreError as failed:
            if error is None:
                raise OutputError(f"cannot write the log ({failed}); all checkpoints are there") from failed

    def put_changes(self) -> None:
        """Put what has changed since the last time. Raises StoreError."""
        with self._lock:
            for path in self._files():
                about = path.stat()
                version = (about.st_size, about.st_mtime_ns)
                if self._put.get(path) != version:
                    (self._place / str(path.relative_to(self._local))).put(path.read_bytes())
                    self._put[path] = version

    def _files(self) -> Iterator[Path]:
        for name in _NAMES:
            path = self._local / name
            if path.is_dir():
                yield from (file for file in sorted(path.rglob("*")) if file.is_file())
            elif path.is_file():
                yield path

    def _run(self) -> None:
        while not self._over.wait(_EVERY_S):
            try:
                self.put_changes()
            except StoreError:
                continue  # a checkpoint, or the end, will tell

"""The output directory of a run: whose it is, that nobody else writes to it, and what it was made with.

RUN/run.json      format, fingerprints and order: marks the directory as ours
RUN/config.yaml   the resolved config
RUN/index/        where the samples lie, for the data workers
RUN/checkpoints/, RUN/log.jsonl, RUN/tensorboard/, RUN/metrics.json

RUN may be a place in a bucket, whose lock is a lease; `machine.py` says what lies on a machine then.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import LockedError, PipelineError, one_line
from pipeline.storage.bucket import BucketPath
from pipeline.storage.lease import take_lease
from pipeline.storage.place import Place, place_of
from pipeline.storage.store_client import StoreError
from pipeline.terminal.printable import say
from training.errors import CheckpointError, OutputError

__all__ = ["check_same_run", "locked_run", "write_run", "write_whole"]

_FORMAT = 1


@contextmanager
def locked_run(place: str | Place, *, single_driver: bool = False) -> Iterator[Callable[[], None]]:
    """Make or take over `place` and hold its lock; calling what this gives says whether it is still held.

    `single_driver`: see TrainConfig. Raises OutputError, the call LockedError or StoreError.
    """
    root = place_of(place)
    if isinstance(root, BucketPath):
        with _leased(root, single_driver) as check:
            yield check
        return
    try:
        if (
            root.is_dir()
            and any(root.iterdir())
            and not (root / "run.json").is_file()
            and not (root / ".lock").is_file()
        ):
            raise OutputError(f"{root}: not empty, and not the output of a training run; set --output to another")
        root.mkdir(parents=True, exist_ok=True)
        lock = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(
            f"{root}: cannot write there ({error.strerror}); set --output to another directory"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"{root}: another live run writes there; wait for it, or set --output") from error
        yield lambda: None
    finally:
        os.close(lock)


@contextmanager
def _leased(root: BucketPath, single_driver: bool) -> Iterator[Callable[[], None]]:
    try:
        if not (root / "run.json").is_file() and not (root / "lock").is_file() and root.is_dir():
            raise OutputError(f"{root}: not empty, and not the output of a training run; set --output to another")
        lease = take_lease(root, single_driver=single_driver, say=lambda line: say(line, to=sys.stderr))
    except LockedError as error:
        raise OutputError(f"{root}: another live run writes there; wait for it, or set --output") from error
    except PipelineError as error:  # of the store, or one that cannot tell two runs apart
        told = one_line(error, 300).replace("--engine.single_driver", "--single_driver")
        raise OutputError(told) from error

    def check() -> None:
        lease.check()
        lease.hold.check()

    try:
        yield check
    finally:
        lease.release()


def check_same_run(
    root: Place, *, config_fingerprint: str, data_fingerprint: str | None = None, window: int | None = None
) -> None:
    """Raise CheckpointError if `root` holds a run that learns something else, OutputError if of a newer format.

    `data_fingerprint`: None while it is not known. `window`: shards open at a time where whole shards are read.
    """
    path = root / "run.json"
    if not path.is_file():
        return
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["format"] > _FORMAT:
            raise OutputError(f"{root}: written by a newer version (format {known['format']}); set --output to another")
        old_config, old_data = known["config_fingerprint"], known["data_fingerprint"]
        old_window = known.get("window")
    except StoreError as error:
        raise OutputError(f"{error}; run again") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(f"{path}: damaged ({one_line(error)}); delete {root} or set --output") from error
    if old_window != window:
        order = "--data.order samples" if old_window is None else f"--data.order window --data.window {old_window}"
        raise CheckpointError(
            f"{root}: the run began in another order of the samples; to go on in it, set {order} "
            f"{'and read from a disk ' if old_window is None else ''}(or set --output to start a new run)"
        )
    if old_config != config_fingerprint:
        raise CheckpointError(
            f"{root}: holds a run with other settings (see its config.yaml); "
            "use those to go on, or set --output to start a new run"
        )
    # Last: with another sampling the index holds other things of the same shards.
    if data_fingerprint is not None and old_data != data_fingerprint:
        raise CheckpointError(
            f"{root}: was trained on other shards than those at data.path now; "
            "restore them, or set --output to start a new run"
        )


def write_run(
    root: Place, *, config_yaml: str, config_fingerprint: str, data_fingerprint: str, window: int | None = None
) -> None:
    """Mark `root` as ours and keep the resolved config."""
    content: dict[str, str | int] = {
        "format": _FORMAT,
        "config_fingerprint": config_fingerprint,
        "data_fingerprint": data_fingerprint,
    }
    if window is not None:
        content |= {"order": "window", "window": window}
    write_whole(root / "config.yaml", config_yaml.encode())
    write_whole(root / "run.json", f"{json.dumps(content, indent=1)}\n".encode())


def write_whole(path: Place, content: bytes) -> None:
    """Write `path`, whole from its first appearance."""
    if isinstance(path, BucketPath):
        path.put(content)
        return
    temporary = path.with_name(f"{path.name}.tmp-{secrets.token_hex(4)}")
    temporary.write_bytes(content)
    temporary.rename(path)

"""The output directory of a run: whose it is, that nobody else writes to it, and what it was made with.

RUN/run.json      format and fingerprints: marks the directory as ours
RUN/config.yaml   the resolved config
RUN/index/        where the samples lie, for the data workers
RUN/checkpoints/, RUN/log.jsonl, RUN/tensorboard/, RUN/metrics.json
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import one_line
from training.errors import CheckpointError, OutputError

__all__ = ["check_same_run", "locked_run", "write_run", "write_whole"]

_FORMAT = 1


@contextmanager
def locked_run(directory: str | Path) -> Iterator[Path]:
    """Make or take over `directory` and hold its lock. Raises OutputError."""
    root = Path(directory)
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
        yield root
    finally:
        os.close(lock)


def check_same_run(root: Path, *, config_fingerprint: str, data_fingerprint: str) -> None:
    """Raise CheckpointError if `root` holds a run that learns something else, OutputError if of a newer format."""
    path = root / "run.json"
    if not path.is_file():
        return
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["format"] > _FORMAT:
            raise OutputError(f"{root}: written by a newer version (format {known['format']}); set --output to another")
        old_config, old_data = known["config_fingerprint"], known["data_fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path}: damaged ({one_line(error)}); delete {root} or set --output") from error
    if old_data != data_fingerprint:
        raise CheckpointError(
            f"{root}: was trained on other shards than those at data.path now; "
            "restore them, or set --output to start a new run"
        )
    if old_config != config_fingerprint:
        raise CheckpointError(
            f"{root}: holds a run with other settings (see its config.yaml); "
            "use those to go on, or set --output to start a new run"
        )


def write_run(root: Path, *, config_yaml: str, config_fingerprint: str, data_fingerprint: str) -> None:
    """Mark `root` as ours and keep the resolved config."""
    content = {"format": _FORMAT, "config_fingerprint": config_fingerprint, "data_fingerprint": data_fingerprint}
    write_whole(root / "config.yaml", config_yaml.encode())
    write_whole(root / "run.json", f"{json.dumps(content, indent=1)}\n".encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write `path`, whole from its first appearance."""
    temporary = path.with_name(f"{path.name}.tmp-{secrets.token_hex(4)}")
    temporary.write_bytes(content)
    temporary.rename(path)

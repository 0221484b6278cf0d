"""Checkpoints on disk: whole or not there at all, checked when read, the last good one found by itself.

    RUN/checkpoints/000000128000/   (samples seen)
        model.safetensors    open_clip's state dict: create_model_and_transforms(name, pretrained=THIS)
        optimiser.pt         AdamW's moments
        state.json           counters, fingerprints, sizes and hashes of the others; written last

With sharded weights every rank writes its part (torch.distributed.checkpoint), and instead of the first two there are

        .metadata, __0_0.distcp, __1_0.distcp, ...

The directory is written under a temporary name, flushed to disk, then renamed: a run killed at any moment leaves
whole checkpoints only. `saving.py` writes them, `loading.py` reads either kind into either kind of model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from pipeline.errors import one_line
from training.data.stream import Segment
from training.errors import CheckpointError

__all__ = [
    "Progress",
    "commit",
    "find_last",
    "holds_shards",
    "listed_checkpoints",
    "read_progress",
]

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is; with the model and optimiser this is its whole state."""

    samples_seen: int = 0
    steps_skipped: int = 0
    """Steps left out because loss or gradient was not finite."""
    samples_replaced: int = 0
    """Samples whose picture was broken, so that another stood in."""
    data_fingerprint: str = ""
    """The data set's, see `SampleIndex.fingerprint`."""
    config_fingerprint: str = ""
    """Over the options that change what is learnt."""
    model_name: str = ""
    """open_clip's name of the model."""
    image_size: int | None = None
    """Side of the pictures that the weights are for; None for the model's own."""
    segments: tuple[Segment, ...] = ()
    """The snapshots of the data that the stream still needs."""


def commit(temporary: Path, final: Path, progress: Progress, *, keep: int) -> None:
    """Make the files in `temporary` the checkpoint `final`, and keep no more than `keep` up to it.

    Later ones stay: they were damaged when the run was started, or it would go on from there.
    """
    files = {}
    for path in sorted(temporary.iterdir()):
        _flush(path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    state = {"format": _FORMAT, **asdict(progress), "files": files}
    (temporary / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    _flush(temporary / "state.json")
    _flush(temporary)
    if final.exists():  # the same state, from a run that was stopped right after
        shutil.rmtree(final)
    temporary.rename(final)
    _flush(final.parent)
    for old in [path for path in listed_checkpoints(final.parent) if path <= final][:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def find_last(directory: str | Path) -> tuple[Path | None, list[str]]:
    """(the newest checkpoint that is whole, or None; one line for each newer one that is not)."""
    problems: list[str] = []
    for path in reversed(listed_checkpoints(Path(directory))):
        problem = _problem(path)
        if problem is None:
            return path, problems
        problems.append(f"{path}: damaged checkpoint skipped ({problem})")
    return None, problems


def read_progress(path: str | Path) -> Progress:
    """The counters of a checkpoint. Raises CheckpointError."""
    try:
        state = _state(Path(path))
        facts = {name: state[name] for name in Progress.__dataclass_fields__ if name in state}
        segments = [Segment(**{**entry, "sizes": tuple(entry["sizes"])}) for entry in facts.pop("segments", ())]
        return Progress(**facts, segments=tuple(segments))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint ({one_line(error)})") from error


def holds_shards(path: Path) -> bool:
    """Whether the checkpoint at `path` was written by the ranks of a sharded model."""
    return (path / ".metadata").is_file()


def listed_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints in RUN/checkpoints, whole or damaged, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if path.name.isdigit())


def _problem(path: Path) -> str | None:
    try:
        for name, facts in cast("Mapping[str, Any]", _state(path)["files"]).items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != facts["bytes"] or _sha256(file) != facts["sha256"]:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return one_line(error) or type(error).__name__
    return None


def _state(path: Path) -> dict[str, Any]:
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if state["format"] != _FORMAT:
        raise ValueError(f"format {state['format']}, this version reads {_FORMAT}")
    return cast("dict[str, Any]", state)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Checkpoints on disk: whole or not there at all, checked when read, the last good one found by itself.

    RUN/checkpoints/000000128000/   (samples seen)
        model.safetensors    open_clip's state dict: create_model_and_transforms(name, pretrained=THIS)
        averaged.safetensors the same of the averaged weights, where the run keeps some (`optimiser.ema_decay`)
        optimiser.pt         the optimiser's moments
        state.json           counters, fingerprints, sizes and hashes of the others; written last

With sharded weights every rank writes its part (torch.distributed.checkpoint), and instead of the first two there are

        .metadata, __0_0.distcp, __1_0.distcp, ...

The directory is written under a temporary name, flushed to disk, then renamed: a run killed at any moment leaves
whole checkpoints only. (`in_bucket.py` has those in a bucket.) `saving.py` writes them, `loading.py` reads either kind
into either kind of model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from pipeline.errors import one_line
from pipeline.storage.place import Place, place_of
from training.data.stream import Segment
from training.errors import CheckpointError

__all__ = [
    "AVERAGED",
    "Progress",
    "commit",
    "facts_of",
    "files_of",
    "find_last",
    "holds_shards",
    "listed_checkpoints",
    "problem_of",
    "read_progress",
    "state_of",
    "too_old",
]

PlaceT = TypeVar("PlaceT", bound=Place)

_FORMAT = 1
AVERAGED = "averaged.safetensors"
"""The averaged weights of a checkpoint that is not sharded."""


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
        files[path.name] = facts_of(path)
    (temporary / "state.json").write_bytes(state_of(progress, files))
    _flush(temporary / "state.json")
    _flush(temporary)
    if final.exists():  # the same state, from a run that was stopped right after
        shutil.rmtree(final)
    temporary.rename(final)
    _flush(final.parent)
    for old in too_old(final, keep=keep):
        shutil.rmtree(old, ignore_errors=True)


def facts_of(path: Path) -> dict[str, Any]:
    """What state.json says of a file."""
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def state_of(progress: Progress, files: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The content of state.json; `files`: the facts of each."""
    state = {"format": _FORMAT, **asdict(progress), "files": files}
    return f"{json.dumps(state, indent=1)}\n".encode()


def too_old(final: PlaceT, *, keep: int) -> list[PlaceT]:
    """The checkpoints up to `final` that are more than `keep`, oldest first."""
    return [path for path in listed_checkpoints(cast("PlaceT", final.parent)) if path.name <= final.name][:-keep]


def find_last(directory: Path) -> tuple[Path | None, list[str]]:
    """(the newest checkpoint that is whole, or None; one line for each newer one that is not).

    Raises CheckpointError where a newer version wrote it.
    """
    problems: list[str] = []
    for path in reversed(listed_checkpoints(directory)):
        problem = problem_of(path)
        if problem is None:
            return path, problems
        problems.append(f"{path}: damaged checkpoint skipped ({problem})")
    return None, problems


def read_progress(path: str | Place) -> Progress:
    """The counters of a checkpoint. Raises CheckpointError."""
    try:
        state = _state(place_of(path))
        facts = {name: state[name] for name in Progress.__dataclass_fields__ if name in state}
        segments = [Segment(**{**entry, "sizes": tuple(entry["sizes"])}) for entry in facts.pop("segments", ())]
        return Progress(**facts, segments=tuple(segments))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint ({one_line(error)})") from error


def holds_shards(path: Path) -> bool:
    """Whether the checkpoint at `path` was written by the ranks of a sharded model."""
    return (path / ".metadata").is_file()


def listed_checkpoints(directory: PlaceT) -> list[PlaceT]:
    """The checkpoints in RUN/checkpoints, whole or damaged, oldest first."""
    if isinstance(directory, Path) and not directory.is_dir():
        return []
    found = [cast("PlaceT", path) for path in directory.iterdir() if path.name.isdigit()]
    return sorted(found, key=lambda path: path.name)


def problem_of(path: Path) -> str | None:
    """Why a checkpoint cannot be read, in one line; None for one that is whole. Raises CheckpointError where a newer
    version wrote it."""
    try:
        for name, facts in files_of(path).items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != facts["bytes"] or _sha256(file) != facts["sha256"]:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return one_line(error) or type(error).__name__
    return None


def files_of(path: Place) -> Mapping[str, Any]:
    """The facts of each file, as state.json has them. Raises OSError, ValueError, KeyError, TypeError, and
    CheckpointError where a newer version wrote it."""
    return cast("Mapping[str, Any]", _state(path)["files"])


def _state(path: Place) -> dict[str, Any]:
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if state["format"] > _FORMAT:  # not damaged: to pass it over would be to train what is trained already
        raise CheckpointError(
            f"{path}: written by a newer version (format {state['format']}, this one reads {_FORMAT}); install that"
        )
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

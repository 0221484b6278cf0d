"""Checkpoints: written whole or not at all, checked when read, the last good one found by itself.

    RUN/checkpoints/000000128000/   (samples seen)
        model.safetensors   open_clip's state dict: create_model_and_transforms(name, pretrained=THIS)
        optimiser.pt        AdamW's moments and the random number generator's state
        state.json          counters, fingerprints, sizes and hashes of the two; written last

The directory is written under a temporary name, flushed to disk, then renamed: a run killed at any
moment leaves whole checkpoints only. Writing happens on a thread, from a copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from configs.load import ConfigError
from training.errors import CheckpointError, OutputError
from training.stream import Segment

__all__ = [
    "CheckpointConfig",
    "CheckpointWriter",
    "Progress",
    "find_last",
    "listed_checkpoints",
    "load_checkpoint",
    "read_progress",
]

_FORMAT = 1
_FILES = ("model.safetensors", "optimiser.pt")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save, and what to keep."""

    every_samples: int | None = None
    """Save after about this many samples; null saves at the end, and on SIGTERM or Ctrl-C."""
    keep: int = 2
    """How many of the newest checkpoints stay on disk."""

    def __post_init__(self) -> None:
        if self.every_samples is not None and self.every_samples < 1:
            raise ConfigError(f"every_samples must be positive or null, got {self.every_samples}")
        if self.keep < 1:
            raise ConfigError(f"keep must be at least 1, got {self.keep}")


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


class CheckpointWriter:
    """Saves checkpoints on a thread, one at a time, and removes old ones."""

    def __init__(self, directory: str | Path, *, keep: int) -> None:
        """`directory`: RUN/checkpoints, made when missing; left-overs of killed writers are swept."""
        self.directory = Path(directory)
        self.keep = keep
        self.directory.mkdir(parents=True, exist_ok=True)
        for leftover in self.directory.glob("*.tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, model: nn.Module, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
        """Copy the state now, write it in the background. Raises OutputError if the last write failed."""
        self.wait()
        weights = {name: _copy(tensor) for name, tensor in model.state_dict().items()}
        extra = {"optimiser": _copy_tree(optimiser.state_dict()), "cpu_rng": torch.get_rng_state()}
        if next(model.parameters()).device.type == "cuda":
            extra["cuda_rng"] = torch.cuda.get_rng_state()
        self._pending = self._pool.submit(self._write, weights, extra, progress)

    def wait(self) -> None:
        """Until the last save is on disk. Raises OutputError if it failed."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except OSError as error:
            raise OutputError(
                f"{self.directory}: cannot write the checkpoint ({error.strerror or error}); "
                "free some space and run again: it goes on from the last whole one"
            ) from error

    def close(self) -> None:
        """Wait, and stop the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def _write(self, weights: dict[str, Tensor], extra: dict[str, Any], progress: Progress) -> None:
        final = self.directory / f"{progress.samples_seen:012d}"
        temporary = final.with_name(f"{final.name}.tmp-{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
        torch.save(extra, temporary / "optimiser.pt")
        files = {}
        for name in _FILES:
            _flush(temporary / name)
            files[name] = {"bytes": (temporary / name).stat().st_size, "sha256": _sha256(temporary / name)}
        state = {"format": _FORMAT, **asdict(progress), "files": files}
        (temporary / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        _flush(temporary / "state.json")
        _flush(temporary)
        if final.exists():  # the same state, from a run that was stopped right after
            shutil.rmtree(final)
        temporary.rename(final)
        _flush(self.directory)
        for old in listed_checkpoints(self.directory)[: -self.keep]:
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
        raise CheckpointError(f"{path}: not a checkpoint ({' '.join(str(error).split())})") from error


def load_checkpoint(path: str | Path, model: nn.Module, optimiser: torch.optim.Optimizer | None = None) -> Progress:
    """Put a checkpoint's state into `model` (and `optimiser` and the generators); return its counters.

    Raises CheckpointError where it is damaged or of another model.
    """
    root = Path(path)
    progress = read_progress(root)
    try:
        weights = load_file(root / "model.safetensors")
        model.load_state_dict(weights)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{root}: cannot read the weights ({' '.join(str(error).split())[:200]})") from error
    except RuntimeError as error:
        raise CheckpointError(
            f"{root}: holds a {progress.model_name}, which does not fit this model "
            f"({' '.join(str(error).split())[:160]}); set model.name to the checkpoint's, or another output"
        ) from error
    if optimiser is not None:
        extra = cast("dict[str, Any]", torch.load(root / "optimiser.pt", map_location="cpu", weights_only=True))
        optimiser.load_state_dict(extra["optimiser"])
        torch.set_rng_state(extra["cpu_rng"])
        if "cuda_rng" in extra and torch.cuda.is_available():
            torch.cuda.set_rng_state(extra["cuda_rng"])
    return progress


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
        return " ".join(str(error).split()) or type(error).__name__
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


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _copy_tree(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy_tree(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copy_tree(item) for item in value)
    return value

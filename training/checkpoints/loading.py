"""Reads checkpoints of either kind, whole files or shards, into models of either kind, on any number of ranks."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.tensor import DTensor, distribute_tensor

from pipeline.errors import one_line
from training.checkpoints.layout import AVERAGED, Progress, holds_shards, read_progress
from training.checkpoints.moments import empty_moments, moments_by_name, named_moments
from training.checkpoints.safe_reader import SafeReader
from training.errors import CheckpointError

__all__ = ["load_checkpoint", "read_weights"]


_NO_AVERAGES = "averaged weights are missing"


def load_checkpoint(
    path: str | Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer | None = None,
    *,
    averages: Mapping[str, Tensor] | None = None,
) -> Progress:
    """Put a checkpoint's state into `model` (and `optimiser`, and `averages` by name); return its counters.

    Without `optimiser`, for a model that is not trained on, `model` gets the averaged weights where there are some.
    Every rank reads what it needs, and waits for no other. Raises CheckpointError where the checkpoint is damaged or
    of another model.
    """
    root = Path(path)
    progress = read_progress(root)
    try:
        if holds_shards(root):
            _load_shards(root, model, optimiser, averages)
        else:
            _load_whole(root, model, optimiser, averages)
    except (OSError, SafetensorError, CheckpointException, pickle.UnpicklingError, EOFError) as error:
        raise CheckpointError(f"{root}: cannot read the checkpoint ({one_line(error)})") from error
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{root}: holds a {progress.model_name}, which does not fit this model "
            f"({one_line(error)}); set model.name to the checkpoint's, or another output"
        ) from error
    return progress


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """open_clip's state dict of a checkpoint of either kind, in memory: the averaged weights, where there are some.

    Raises CheckpointError.
    """
    root = Path(path)
    try:
        if not holds_shards(root):
            return load_file(_weights_file(root))
        stored = SafeReader(root).read_metadata().state_dict_metadata
        weights = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name in _names(stored, "model")
            if isinstance(entry := stored[f"model.{name}"], TensorStorageMetadata)
        }
        _read({"model": weights}, root)
        if averaged := {name: weights[name] for name in _names(stored, "averaged")}:
            _read({"averaged": averaged}, root)
        return weights
    except (
        OSError,
        SafetensorError,
        CheckpointException,
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        RuntimeError,
        TypeError,
    ) as error:
        raise CheckpointError(f"{root}: cannot read the weights ({one_line(error)})") from error


def _names(stored: Mapping[str, object], part: str) -> list[str]:
    """Those of the tensors in a `part` of a sharded checkpoint: model, moments, averaged."""
    return [name.removeprefix(f"{part}.") for name in stored if name.startswith(f"{part}.")]


def _load_shards(
    root: Path, model: nn.Module, optimiser: torch.optim.Optimizer | None, averages: Mapping[str, Tensor] | None
) -> None:
    stored = SafeReader(root).read_metadata().state_dict_metadata
    weights = model.state_dict()
    for name in sorted(weights.keys() | set(_names(stored, "model"))):
        entry = stored.get(f"model.{name}")
        if name not in weights or not isinstance(entry, TensorStorageMetadata) or entry.size != weights[name].shape:
            raise ValueError(f"{name} differs")
    state: dict[str, dict[str, Tensor]] = {"model": weights}
    # None before the first step that was not skipped.
    if optimiser is not None and _names(stored, "moments"):
        empty_moments(optimiser)
        state["moments"] = named_moments(model, optimiser)
    if averages is not None:
        if averages.keys() != set(_names(stored, "averaged")):
            raise ValueError(_NO_AVERAGES)
        state["averaged"] = dict(averages)
    _read(state, root)  # into the tensors themselves
    if optimiser is None and (averaged := {name: weights[name] for name in _names(stored, "averaged")}):
        _read({"averaged": averaged}, root)


def _read(state: dict[str, dict[str, Tensor]], root: Path) -> None:
    with warnings.catch_warnings():
        # Without collectives on purpose: each rank knows what it needs.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        load(cast("dict[str, Any]", state), storage_reader=SafeReader(root), no_dist=True)


def _weights_file(root: Path) -> Path:
    """The weights of a checkpoint that is not trained on."""
    return root / AVERAGED if (root / AVERAGED).is_file() else root / "model.safetensors"


def _load_whole(
    root: Path, model: nn.Module, optimiser: torch.optim.Optimizer | None, averages: Mapping[str, Tensor] | None
) -> None:
    weights = load_file(_weights_file(root) if optimiser is None else root / "model.safetensors")
    own = model.state_dict()
    model.load_state_dict({name: _like(value, own.get(name)) for name, value in weights.items()})
    if optimiser is None:
        return
    extra = cast("dict[str, Any]", torch.load(root / "optimiser.pt", map_location="cpu", weights_only=True))
    moments = moments_by_name(model, extra["optimiser"], extra.get("names"))
    if moments:
        empty_moments(optimiser)
        with torch.no_grad():
            for name, value in named_moments(model, optimiser).items():
                value.copy_(_like(moments[name], value))
    if averages is not None:
        if not (root / AVERAGED).is_file():
            raise ValueError(_NO_AVERAGES)
        averaged = load_file(root / AVERAGED)
        with torch.no_grad():
            for name, value in averages.items():
                value.copy_(_like(averaged[name], value))


def _like(value: Tensor, own: Tensor | None) -> Tensor:
    """`value`, which is whole, cut as `own` is."""
    if not isinstance(own, DTensor):
        return value
    # Every rank has read it: no source, so nothing is sent.
    local = value.to(own.device_mesh.device_type)
    return cast(Tensor, distribute_tensor(local, own.device_mesh, own.placements, src_data_rank=None))

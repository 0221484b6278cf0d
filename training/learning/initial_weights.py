"""Where a model's weights come from when they are not random: `model.init_from`.

a file of weights | a run's last checkpoint | an export --both towers or one--> open_clip's module
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import open_clip
from safetensors import SafetensorError
from torch import nn

from pipeline.errors import PipelineError, one_line
from pipeline.storage.copies import download, scratch_files
from pipeline.storage.place import place_of
from training.checkpoints.in_bucket import last_here
from training.checkpoints.layout import find_last, holds_shards
from training.checkpoints.loading import read_weights
from training.errors import CheckpointError, ModelError

__all__ = ["load_weights"]


def load_weights(clip: nn.Module, source: str | Path, *, towers: Literal["both", "image", "text"], name: str) -> None:
    """Put the weights at `source` (see ModelConfig.init_from) into `clip`, which is named `name`.

    Position embeddings of another size are interpolated, as open_clip does. Raises ModelError.
    """
    with ExitStack() as stack:
        _load(clip, _here(source, stack), source, towers=towers, name=name)


def _load(
    clip: nn.Module, here: Path, source: str | Path, *, towers: Literal["both", "image", "text"], name: str
) -> None:
    """Put the weights at `here`, which are those of `source`, into `clip`."""
    try:
        path = _weights_file(here)
        if path.suffix == ".npz" and not zipfile.is_zipfile(path):
            raise ValueError("not an .npz file")  # NumPy would leave it open
        with warnings.catch_warnings():
            # torch says of foreign pickles that it may refuse them; when it does, that is an error of its own.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            if towers == "both" and path.is_file():
                open_clip.load_checkpoint(clip, str(path))  # knows weights of other trainers as well; runs no pickle
                return
            state = open_clip.factory.load_state_dict(str(path), device="cpu") if path.is_file() else read_weights(path)
        state = {key: value for key, value in state.items() if towers in ("both", _tower(key))}
        if not state:
            raise ModelError(f"model.init_from: {path} holds no {towers} tower of an open_clip model")
        open_clip.factory.resize_pos_embed(state, clip)
        open_clip.factory.resize_text_pos_embed(state, clip)
        own = {key for key in clip.state_dict() if towers in ("both", _tower(key))}
        if own != set(state):
            raise KeyError(f"weights that differ: {', '.join(sorted(own ^ set(state))[:4])}")
        clip.load_state_dict(state, strict=False)
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        AssertionError,
        AttributeError,  # a list where a dict of weights should be
        EOFError,
        StopIteration,  # an empty dict
        TypeError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        SafetensorError,
        CheckpointError,
    ) as error:
        raise ModelError(
            f"model.init_from: {source} does not fit {name} ({one_line(error, 300)}); "
            "set model.name to the model that it holds"
        ) from error


def _here(source: str | Path, stack: ExitStack) -> Path:
    """`source`, of a bucket as a copy that `stack` removes. Raises ModelError."""
    place = place_of(source)
    if isinstance(place, Path):
        return place
    here = stack.enter_context(scratch_files())
    try:
        if place.is_file():
            download(place, here / place.name)
            return here / place.name
        last, _ = last_here(place / "checkpoints", here / "checkpoints")
        for name in ("export/open_clip_model.safetensors", "model.safetensors", "open_clip_model.safetensors"):
            if last is None and (place / name).is_file():
                download(place / name, here / (place / name).name)
                return here / (place / name).name
    except (OSError, PipelineError) as error:
        raise ModelError(f"model.init_from: {one_line(error)}") from error
    if last is None:
        raise ModelError(f"model.init_from: {place} holds no weights; give a weights file or the directory of a run")
    return here


def _weights_file(path: Path) -> Path:
    """The file of weights at `path`, or the directory of a sharded checkpoint. Raises ModelError."""
    if not path.is_dir():
        if not path.exists():
            raise ModelError(f"model.init_from: {path} does not exist; give a weights file or the directory of a run")
        return path
    last, _ = find_last(path / "checkpoints")
    for directory in (last, path):
        if directory is not None and holds_shards(directory):
            return directory
    for candidate in (last or path, path / "export", path):
        for file in ("model.safetensors", "open_clip_model.safetensors"):
            if (candidate / file).is_file():
                return candidate / file
    raise ModelError(f"model.init_from: {path} holds no checkpoint and no export")


def _tower(key: str) -> str:
    """Which tower a weight belongs to, by open_clip's names."""
    if key in ("logit_scale", "logit_bias"):
        return "neither"
    return "image" if key.startswith("visual.") else "text"

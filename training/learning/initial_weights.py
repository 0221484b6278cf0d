"""Where a model's weights come from when they are not random: `model.init_from`.

a file of weights | a run's last checkpoint | an export --both towers or one--> open_clip's module
a tag of open_clip | hf-hub:ORGANISATION/NAME --its file, where the machine has it--^
a file of one image tower (`model.init_image_from`) --timm--> the image tower

Published weights are taken from Hugging Face's cache. Nothing is downloaded unless HF_HUB_OFFLINE=0 asks for it.
"""

from __future__ import annotations

import difflib
import pickle
import sys
import warnings
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, cast

import open_clip
import timm
from huggingface_hub import try_to_load_from_cache
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import download_pretrained_from_hf
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from pipeline.errors import PipelineError, one_line
from pipeline.storage.copies import download, scratch_files
from pipeline.storage.place import place_of
from training.checkpoints.in_bucket import last_here
from training.checkpoints.layout import AVERAGED, find_last, holds_shards
from training.checkpoints.loading import read_weights
from training.config import ModelConfig
from training.errors import CheckpointError, ModelError
from training.learning.heads import HEADS, is_of_head, without_heads
from training.learning.network import may_use_network
from training.learning.text_positions import stretch_positions

__all__ = ["check_sources", "file_of_hub", "load_heads", "load_image_tower", "load_weights"]

Towers = Literal["both", "image", "text"]


def load_weights(
    clip: nn.Module,
    source: str | Path,
    *,
    towers: Towers,
    name: str,
    positions: Literal["interpolate", "stretch"] = "interpolate",
) -> None:
    """Put the weights at `source` (see ModelConfig.init_from) into `clip`, which is named `name`.

    Position embeddings of another size are interpolated, as open_clip does; a text tower's as `positions` says. Raises
    ModelError.
    """
    with ExitStack() as stack:
        published = _published(clip, str(source), name)
        here = _here(source, stack, name) if published is None else published
        _load(clip, here, source, towers=towers, name=name, stretched=positions == "stretch")


def _load(clip: nn.Module, here: Path, source: str | Path, *, towers: Towers, name: str, stretched: bool) -> None:
    """Put the weights at `here`, which are those of `source`, into `clip`."""
    try:
        path = _weights_file(here)
        if path.suffix == ".npz" and not zipfile.is_zipfile(path):
            raise ValueError("not an .npz file")  # NumPy would leave it open
        with warnings.catch_warnings():
            # torch says of foreign pickles that it may refuse them; when it does, that is an error of its own.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            if towers == "both" and path.is_file() and not _holds_heads(path) and not stretched:
                open_clip.load_checkpoint(clip, str(path))  # knows weights of other trainers as well; runs no pickle
                return
            state = open_clip.factory.load_state_dict(str(path), device="cpu") if path.is_file() else read_weights(path)
        state = {key: value for key, value in without_heads(state).items() if towers in ("both", _tower(key))}
        if hasattr(clip, "text"):
            state = convert_to_custom_text_state_dict(state)
        if not state:
            raise ModelError(f"model.init_from: {path} holds no {towers} tower of an open_clip model")
        open_clip.factory.resize_pos_embed(state, clip)
        if stretched:
            stretch_positions(state, clip)
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
            + (", or model.init_towers to image, if only the text tower is another" if towers == "both" else "")
        ) from error


def load_heads(clip: nn.Module, source: str | Path, heads: Sequence[str], *, name: str) -> None:
    """Have the `heads` of `clip` begin as they are in the run at `source`, a weight of which they need not have.

    Raises ModelError where that has none of them, or others.
    """
    own = {
        key: value for key, value in clip.state_dict().items() if key.startswith(tuple(f"{HEADS}.{h}." for h in heads))
    }
    with ExitStack() as stack:
        path = _weights_file(_here(source, stack, name))
        try:
            state = load_file(path) if path.suffix == ".safetensors" else read_weights(path) if path.is_dir() else {}
            if missing := sorted(own.keys() - state.keys()):
                raise KeyError(f"it lacks {missing[0]}")
            clip.load_state_dict({key: state[key] for key in own}, strict=False)
        except (OSError, RuntimeError, KeyError, SafetensorError, CheckpointError) as error:
            raise ModelError(
                f"model.init_from: {source} does not hold {' and '.join(heads)} as this method goes on from "
                f"({one_line(error, 200)}); give the directory of the run that trained it, with the same method.options"
            ) from error


_ABOVE = ("head", "norm.", "fc_norm.", "attn_pool.", "proj", "ln_post.")
"""What stands above the layers of an image tower: another task's may lack, or be another."""


def load_image_tower(clip: nn.Module, source: str | Path, *, name: str) -> None:
    """Put the weights at `source`, of an image tower alone, into that of `clip`, which is named `name`.

    timm reads them for its own towers, in the forms that it knows, and interpolates positions. What the tower has no
    place for, such as a decoder, is left out; of what stands above its layers what is not there begins anew. Raises
    ModelError.
    """
    visual = cast(Any, clip.visual)
    tower = getattr(visual, "trunk", visual)
    with ExitStack() as stack:
        path = _here(source, stack, name, option="model.init_image_from")
        try:
            if path.suffix == ".npz":  # of ViTs, by JAX
                if not zipfile.is_zipfile(path):
                    raise ValueError("not an .npz file")
                tower.load_pretrained(str(path))
                return
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Detected pickle protocol")
                state = timm.models.load_state_dict(str(path), device="cpu", weights_only=True)
            change = getattr(sys.modules[type(tower).__module__], "checkpoint_filter_fn", None)
            state = state if change is None or tower is visual else change(state, tower)
            own = tower.state_dict()
            state = {
                key: value
                for key, value in state.items()
                if key in own and (value.shape == own[key].shape or not key.startswith(_ABOVE))
            }
            if missing := sorted(key for key in own if key not in state and not key.startswith(_ABOVE)):
                raise KeyError(f"weights that are missing: {', '.join(missing[:4])}")
            tower.load_state_dict(state, strict=False)
        except (
            OSError, RuntimeError, KeyError, ValueError, AttributeError, EOFError, TypeError, AssertionError,
            pickle.UnpicklingError, zipfile.BadZipFile, SafetensorError,
        ) as error:  # fmt: skip
            raise ModelError(
                f"model.init_image_from: {source} does not fit the image tower of {name} ({one_line(error, 300)}); "
                "give weights of one such tower alone, or those of a whole model as model.init_from"
            ) from error


def check_sources(clip: nn.Module, config: ModelConfig, *, name: str) -> None:
    """Raise ModelError where what `config` starts from is not on this machine, or of another kind than `clip`, which is
    named `name`: without reading it. Buckets are not asked."""
    with ExitStack() as stack:
        source = config.init_from
        if source is not None and _published(clip, source, name) is None and isinstance(place_of(source), Path):
            _weights_file(_here(source, stack, name))
        source = config.init_image_from
        if source is not None and isinstance(place_of(source), Path):
            _here(source, stack, name, option="model.init_image_from")
        source = config.init_text_from
        if source is not None and not Path(source).is_dir():
            raise ModelError(f"model.init_text_from: {source}: no such directory; give one with Hugging Face's files")


_HUB = "hf-hub:"


def _published(clip: nn.Module, source: str, name: str) -> Path | None:
    """The file that the tag or hub name `source` stands for; None where it is neither. Raises ModelError."""
    if source.startswith(_HUB):
        return _of_hub(f"{source.removeprefix(_HUB)}/", source)
    about = cast("dict[str, Any]", open_clip.get_pretrained_cfg(name, source)) if "/" not in source else {}
    if not about or Path(source).exists():
        return None
    if (wanted := bool(about.get("quick_gelu"))) != bool(open_clip.get_model_config(name).get("quick_gelu")):
        other = f"{name}-quickgelu" if wanted else name.removesuffix("-quickgelu")
        raise ModelError(f"model.init_from: {source} was trained with another GELU; set --model.name {other}")
    if (mean := tuple(about["mean"])) != tuple(cast(Any, clip.visual).image_mean):
        ours = {tuple(open_clip.OPENAI_DATASET_MEAN): "clip", (0.5, 0.5, 0.5): "inception"}
        remedy = f"set --model.normalisation {ours[mean]}" if mean in ours else "of its kind there is none here"
        raise ModelError(f"model.init_from: {source} saw pixels brought otherwise to a mean of 0; {remedy}")
    return _of_hub(about["hf_hub"], source)


def file_of_hub(source: str, file: str) -> Path:
    """A file of hf-hub:ORGANISATION/NAME. Raises ModelError where the machine has none, and may not bring it."""
    return _of_hub(f"{source.removeprefix(_HUB)}/{file}", source)


def _of_hub(place: str, source: str) -> Path:
    """The file at `place`, ORGANISATION/NAME/ or ORGANISATION/NAME/FILE. Raises ModelError."""
    repository, _, file = place.rpartition("/")
    for name in (file,) if file else (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME):
        if isinstance(found := try_to_load_from_cache(repository, name), str):
            return Path(found)
    what = f"{file or HF_SAFE_WEIGHTS_NAME} of {repository}"
    if not may_use_network():
        raise _not_here(source, what)
    try:
        return Path(download_pretrained_from_hf(repository, filename=file or None))
    except (OSError, RuntimeError, ValueError) as error:
        raise _not_here(source, what) from error


def _not_here(source: str, what: str) -> ModelError:
    return ModelError(
        f"model.init_from: {source} is not on this machine; bring {what} and give its path, or set HF_HUB_OFFLINE=0 "
        "where there is a network"
    )


def _here(source: str | Path, stack: ExitStack, name: str, *, option: str = "model.init_from") -> Path:
    """`source`, of a bucket as a copy that `stack` removes. Raises ModelError."""
    place = place_of(source)
    if isinstance(place, Path):
        if not place.exists():
            tags = open_clip.list_pretrained_tags_by_model(name)
            near = difflib.get_close_matches(str(source), tags, 3, 0.3) or tags[:3]
            hint = f", or a tag of {name} ({', '.join(near)})" if near else ""
            raise ModelError(f"{option}: {place} does not exist; give a weights file, the directory of a run{hint}")
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
        raise ModelError(f"{option}: {one_line(error)}") from error
    if last is None:
        raise ModelError(f"{option}: {place} holds no weights; give a weights file or the directory of a run")
    return here


def _weights_file(path: Path) -> Path:
    """The file of weights at `path`, or the directory of a sharded checkpoint. Raises ModelError."""
    if not path.is_dir():
        return path
    last, _ = find_last(path / "checkpoints")
    for directory in (last, path):
        if directory is not None and holds_shards(directory):
            return directory
    for candidate in (last or path, path / "export", path):
        for file in (AVERAGED, "model.safetensors", "open_clip_model.safetensors"):
            if (candidate / file).is_file():
                return candidate / file
    raise ModelError(f"model.init_from: {path} holds no checkpoint and no export")


def _holds_heads(path: Path) -> bool:
    """Whether a run saved the heads of its method there, too: they are left out, as by an export."""
    if path.suffix != ".safetensors":
        return False
    with safe_open(path, "pt") as file:
        return any(map(is_of_head, file.keys()))


def _tower(key: str) -> str:
    """Which tower a weight belongs to, by open_clip's names."""
    if key in ("logit_scale", "logit_bias"):
        return "neither"
    return "image" if key.startswith("visual.") else "text"

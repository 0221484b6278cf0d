"""A checkpoint, whole or in shards, or any model, as a directory that open_clip loads: `local-dir:DIRECTORY`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from torch import Tensor

from pipeline.storage.place import Place
from training.checkpoints.layout import read_progress
from training.checkpoints.loading import read_weights
from training.exports.directory import preprocessing_of, write_directory, write_json
from training.learning.conv_stem import refuse_conv_stem
from training.learning.heads import without_heads
from training.learning.model import Model, model_json, preprocess_json

__all__ = ["export", "export_model"]

_CONFIG = "open_clip_config.json"


def export(
    checkpoint: str | Path,
    *,
    model: str,
    directory: str | Place,
    normalisation: Literal["clip", "inception"] = "clip",
) -> Place:
    """Write `open_clip_config.json` and `open_clip_model.safetensors` to `directory`, or a place in a bucket.

    `model` is the config's model name or JSON path, `normalisation` its own. Raises CheckpointError, OutputError,
    ModelError.
    """
    progress = read_progress(checkpoint)
    weights = without_heads(read_weights(checkpoint))
    config = model_json(model)
    size = progress.image_size or config["vision_cfg"].get("image_size", 224)
    return _export(config, weights, preprocess_json(size, normalisation), directory)


def export_model(model: Model, directory: str | Place) -> Place:
    """The same of a model in memory. Raises OutputError, ModelError."""
    weights = {name: value.cpu().contiguous() for name, value in without_heads(model.clip.state_dict()).items()}
    return _export(model_json(model.name), weights, preprocessing_of(model), directory)


def _export(
    config: dict[str, Any], weights: Mapping[str, Tensor], preprocess: Mapping[str, Any], directory: str | Place
) -> Place:
    refuse_conv_stem(weights, reader="open_clip")
    if "logit_bias" in weights:
        # open_clip makes room for a bias only where the config names one.
        config.setdefault("init_logit_bias", 0.0)
    config["vision_cfg"]["image_size"] = preprocess["size"]

    def fill(here: Path) -> None:
        save_file(dict(weights), here / "open_clip_model.safetensors", metadata={"format": "pt"})
        write_json(here / _CONFIG, {"model_cfg": config, "preprocess_cfg": preprocess})

    return write_directory(directory, fill, mark=_CONFIG)

"""A checkpoint, of whole files or of shards, as a directory that open_clip loads: `local-dir:DIRECTORY`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from torch import Tensor

from pipeline.storage.bucket import BucketPath
from pipeline.storage.copies import scratch_files
from pipeline.storage.place import Place, place_of
from training.checkpoints.layout import read_progress
from training.checkpoints.loading import read_weights
from training.errors import OutputError
from training.learning.heads import without_heads
from training.learning.model import model_json, preprocess_json

__all__ = ["export"]


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
    if "logit_bias" in weights:
        # open_clip makes room for a bias only where the config names one.
        config.setdefault("init_logit_bias", 0.0)
    config["vision_cfg"]["image_size"] = size = progress.image_size or config["vision_cfg"].get("image_size", 224)
    content = {"model_cfg": config, "preprocess_cfg": preprocess_json(size, normalisation)}
    target = place_of(directory)
    try:
        if target.exists() and not (target / "open_clip_config.json").is_file():
            raise OutputError(f"{target}: exists and is no exported model; give another directory")
        if isinstance(target, BucketPath):
            with scratch_files() as here:
                _write(here, weights, content)
                for path in sorted(here.iterdir(), reverse=True):  # the config, which marks it as an export, last
                    (target / path.name).put(path)
            return target
        temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
        temporary.mkdir(parents=True)
        _write(temporary, weights, content)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot write the export ({error.strerror or error})") from error
    return target


def _write(directory: Path, weights: dict[str, Tensor], content: dict[str, Any]) -> None:
    save_file(weights, directory / "open_clip_model.safetensors", metadata={"format": "pt"})
    (directory / "open_clip_config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

"""A directory that is there whole or not at all, and never takes the place of something else.

`openwit_export.json` in it marks it as an export, and says of which weights:

    form               transformers, onnx
    model              open_clip's name of it
    model_fingerprint  of its weights, as `pretrained.fingerprint_of` has it
    preprocessing      side, mean, deviation of pixels in [0, 1], interpolation, how pictures become square
    ...                what a form adds
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.storage.bucket import BucketPath
from pipeline.storage.copies import scratch_files
from pipeline.storage.place import Place, place_of
from training.errors import OutputError
from training.learning.model import Model
from training.learning.pretrained import fingerprint_of

__all__ = ["MARK", "facts_of", "preprocessing_of", "write_directory", "write_json"]

MARK = "openwit_export.json"


def write_directory(directory: str | Place, fill: Callable[[Path], None], *, mark: str = MARK) -> Place:
    """Have `fill` write files into a new directory, then put that in the place of `directory`, or into a bucket.

    What is there already gives way only where it has a file named `mark`, which `fill` writes too. Raises OutputError.
    """
    target = place_of(directory)
    try:
        if target.exists() and not (target / mark).is_file():
            raise OutputError(f"{target}: exists and is no exported model; give another directory")
        if isinstance(target, BucketPath):
            with scratch_files() as here:
                fill(here)
                for path in sorted(here.iterdir(), key=lambda path: (path.name == mark, path.name)):  # the mark last
                    (target / path.name).put(path)
            return target
        temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
        temporary.mkdir(parents=True)
        try:
            fill(temporary)
            before = target.with_name(f"{target.name}.old-{os.getpid()}")
            if target.exists():
                target.rename(before)  # rather than removed first: killed here, both are whole
            temporary.rename(target)
            shutil.rmtree(before, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{target}: cannot write the export ({error.strerror or error})") from error
    return target


def facts_of(model: Model, form: str, **more: Any) -> dict[str, Any]:
    """The content of the mark."""
    return {
        "form": form,
        "model": model.name,
        "model_fingerprint": fingerprint_of(model),
        "preprocessing": preprocessing_of(model),
        **more,
    }


def preprocessing_of(model: Model) -> dict[str, Any]:
    """What is done to pictures before `model` sees them, by open_clip's names."""
    visual: Any = model.clip.visual  # open_clip.create_model gives it what it was told of pictures
    return {
        "size": model.image_size,
        "mean": list(visual.image_mean),
        "std": list(visual.image_std),
        "interpolation": model.interpolation,
        "resize_mode": model.resize_mode,
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`content`, for people too."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

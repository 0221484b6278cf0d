"""Any trained CLIP, by one word: what is embedded with, evaluated, searched by and exported.

RUN                      its last checkpoint, as its config.yaml says
EXPORT, local-dir:EXPORT an export of ours, or a model as open_clip publishes them
NAME:FILE                an open_clip model (or a model JSON) with weights of its kind, .pt or .safetensors
NAME:TAG, hf-hub:O/N     published weights, from Hugging Face's cache
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import open_clip
import xxhash

from configs.load import ConfigError, from_mapping, load
from pipeline.errors import PipelineError, one_line
from pipeline.storage.copies import scratch_files
from pipeline.storage.place import Place, place_of
from training.checkpoints.in_bucket import last_here
from training.checkpoints.layout import read_progress
from training.config import ModelConfig, Precision, TrainConfig
from training.distributed import place_of as device_of
from training.errors import ModelError, TrainingError
from training.learning.fingerprint import fingerprint_of_weights
from training.learning.initial_weights import file_of_hub
from training.learning.method import make_method
from training.learning.model import Model, create_model, register_model, resolve_precision
from training.learning.tokenizer import make_tokenizer

__all__ = ["fingerprint_of", "load_model"]

_LOCAL, _HUB = "local-dir:", "hf-hub:"
_EXPORT = "open_clip_config.json"
_FORMS = "give a run, an export, NAME:FILE of weights, NAME:TAG, or hf-hub:ORGANISATION/NAME"


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What is needed to make a model."""

    model: ModelConfig
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    """What open_clip does to pictures for it; empty for what `model` says."""
    image_size: int | None = None
    init_logit_bias: float | None = None


def load_model(
    source: str | Path,
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Precision = "auto",
    tokenizer: str | None = None,
) -> Model:
    """The model at `source`, in evaluation mode, on one device. `tokenizer`: see ModelConfig.

    Nothing is downloaded unless HF_HUB_OFFLINE=0 asks for it. Raises ModelError, DistributedError.
    """
    where = device_of(device)
    try:
        with _found(str(source)) as found:
            made = make_tokenizer(register_model(found.model.name), tokenizer or found.model.tokenizer)
            model = create_model(
                found.model,
                tokenizer=made,
                device=where,
                precision=resolve_precision(precision, where),
                init_logit_scale=math.log(1 / 0.07),  # the weights bring theirs
                init_logit_bias=found.init_logit_bias,
                seed=0,
                image_size=found.image_size,
                preprocess=found.preprocess,
            )
    except ModelError as error:
        told = str(error).removeprefix("model.init_from: ").removeprefix("model.name: ")
        raise ModelError(told if str(source) in told else f"{source}: {told}") from error
    model.clip.eval()
    return model


def fingerprint_of(model: Model) -> str:
    """32 hex digits over all weights by name (xxh3): two models that share it give the same features."""
    return fingerprint_of_weights(model.clip)


@contextmanager
def _found(source: str) -> Iterator[_Found]:
    """What `source` names; files that had to be made for it are there for as long. Raises ModelError."""
    with scratch_files() as scratch:
        try:
            yield _resolved(source, scratch)
        except (PipelineError, OSError) as error:
            raise ModelError(f"{source}: cannot be read ({one_line(error)})") from error


def _resolved(source: str, scratch: Path) -> _Found:
    if source.startswith(_HUB):
        return _of_export(source, Path(file_of_hub(source, _EXPORT)).read_text(encoding="utf-8"), source, scratch)
    place = place_of(source.removeprefix(_LOCAL))
    if isinstance(place, Path) and not place.exists():
        name, colon, weights = source.partition(":")
        if not colon or not weights or source.startswith(_LOCAL):
            raise ModelError(f"{source}: does not exist, and is no NAME:TAG; {_FORMS}")
        return _named(name, weights)
    for export in (place, place / "export"):
        if not (place / "config.yaml").is_file() and (export / _EXPORT).is_file():
            text = (export / _EXPORT).read_text(encoding="utf-8")
            return _of_export(source, text, str(export), scratch)
    if (place / "config.yaml").is_file():
        return _of_run(place, scratch)
    if place.is_file():
        raise ModelError(f"{source}: weights do not say of which model they are; give NAME:{source}, as ViT-B-32:...")
    raise ModelError(f"{source}: holds no run (config.yaml) and no export ({_EXPORT}); {_FORMS}")


def _of_run(run: Place, scratch: Path) -> _Found:
    """The last checkpoint of a run."""
    try:
        config = load(TrainConfig, run / "config.yaml")
        method = make_method(config.method, config.loss)
    except ConfigError as error:
        raise ModelError(f"{run / 'config.yaml'}: not the config of a run ({one_line(error)})") from error
    if method.not_in_towers is not None:
        raise ModelError(f"{run}: {method.not_in_towers}; python -m training evaluate {run}/config.yaml measures them")
    try:
        last, _ = last_here(run / "checkpoints", scratch)
        size = None if last is None else read_progress(last).image_size
    except TrainingError as error:
        raise ModelError(str(error)) from error
    if last is None:
        raise ModelError(f"{run}: no whole checkpoint there; train first, or give an export")
    return _Found(model=config.model.as_read(str(last)), image_size=size, init_logit_bias=method.init_logit_bias)


def _of_export(source: str, text: str, weights: str, scratch: Path) -> _Found:
    """What open_clip's local-dir: and hf-hub: read."""
    try:
        content = json.loads(text)
        model, preprocess = dict(content["model_cfg"]), dict(content.get("preprocess_cfg", {}))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{source}: its {_EXPORT} is damaged ({one_line(error)}); export or copy it again") from error
    # open_clip knows models by the names of their files; this one's says what is in it.
    path = scratch / f"model-{xxhash.xxh3_64_hexdigest(json.dumps(model, sort_keys=True).encode())}.json"
    path.write_text(json.dumps(model), encoding="utf-8")
    register_model(str(path))
    size = preprocess.pop("size", None)
    return _Found(
        model=ModelConfig(name=path.stem, init_from=weights),
        preprocess=preprocess,
        image_size=size[0] if isinstance(size, list) else size,
    )


def _named(name: str, weights: str) -> _Found:
    """An open_clip model with weights from a file, or by their tag."""
    about = open_clip.get_pretrained_cfg(register_model(name), weights) if "/" not in weights else {}
    chosen = {key: about[key] for key in ("mean", "std", "interpolation", "resize_mode") if about and key in about}
    return _Found(model=from_mapping(ModelConfig, {"name": name, "init_from": weights}), preprocess=chosen)

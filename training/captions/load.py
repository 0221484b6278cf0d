"""A model with what a method added to it, its decoder and its matching head, which exports leave out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

from torch import nn

from configs.load import ConfigError, load
from pipeline.errors import PipelineError, one_line
from pipeline.storage.copies import scratch_files
from pipeline.storage.place import Place, place_of
from training.checkpoints.in_bucket import last_here
from training.checkpoints.layout import read_progress
from training.checkpoints.loading import load_checkpoint
from training.config import Precision, TrainConfig
from training.distributed import place_of as device_of
from training.errors import ModelError, TrainingError
from training.learning.method import make_method
from training.learning.model import Model, create_model, resolve_precision
from training.learning.pretrained import load_model

__all__ = ["load_with_heads"]


def load_with_heads(
    source: str, *, device: Literal["auto", "cpu", "cuda"], precision: Precision, tokenizer: str | None
) -> Model:
    """As `load_model`, in evaluation mode; a run's model with its method's heads. Raises ModelError."""
    try:
        place = place_of(source)
        is_run = (place / "config.yaml").is_file()
    except (PipelineError, OSError) as error:
        raise ModelError(f"{source}: cannot be read ({one_line(error)})") from error
    if not is_run:
        return load_model(source, device=device, precision=precision, tokenizer=tokenizer)
    try:
        return _of_run(place, device_name=device, precision=precision, tokenizer=tokenizer)
    except (ConfigError, TrainingError, PipelineError) as error:
        told = one_line(error, 600)
        raise ModelError(told if source in told else f"{source}: {told}") from error


def _of_run(
    run: Place, *, device_name: Literal["auto", "cpu", "cuda"], precision: Precision, tokenizer: str | None
) -> Model:
    config = load(TrainConfig, run / "config.yaml")
    method = make_method(config.method, config.loss)
    about, device = config.model, device_of(device_name)
    with scratch_files() as scratch:
        last, _ = last_here(run / "checkpoints", Path(scratch))
        if last is None:
            raise ModelError(f"{run}: no whole checkpoint there; train first")
        model = create_model(
            replace(about.as_read(), tokenizer=tokenizer or about.tokenizer),
            device=device,
            precision=resolve_precision(precision, device),
            init_logit_scale=method.init_logit_scale,
            init_logit_bias=method.init_logit_bias,
            seed=0,
            image_size=read_progress(last).image_size,
            heads=method.heads,
        )
        if about.lock_image:
            # BLIP-2's second stage, which reads its language model as it is told of the model.
            cast(nn.Module, model.clip.visual).requires_grad_(False)
            model.image_is_locked = True
            method.check(model)
        load_checkpoint(last, model.clip)
    model.clip.eval()
    return model

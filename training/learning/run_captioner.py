"""The captioner of a run whose model writes captions by itself: BLIP-2's second stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

from torch import nn

from configs.load import ConfigError, load
from training.checkpoints.layout import find_last, read_progress
from training.checkpoints.loading import load_checkpoint
from training.config import Precision, TrainConfig
from training.distributed import place_of as device_of
from training.errors import ModelError
from training.learning.method import make_method
from training.learning.model import Captioner, Model, create_model, resolve_precision

__all__ = ["load_captioner"]


def load_captioner(
    run: str | Path, *, device: Literal["auto", "cpu", "cuda"] = "auto", precision: Precision = "auto"
) -> tuple[Model, Captioner]:
    """The model of the run's last checkpoint, in evaluation mode, and how it writes.

    Raises ModelError, CheckpointError, DistributedError.
    """
    root, where = Path(run), device_of(device)
    try:
        config = load(TrainConfig, root / "config.yaml")
        method = make_method(config.method, config.loss)
    except (ConfigError, OSError) as error:
        raise ModelError(f"{root}: holds no run ({error})") from error
    last, _ = find_last(root / "checkpoints")
    if last is None:
        raise ModelError(f"{root}: no whole checkpoint there; train first")
    model = create_model(
        # The checkpoint has the locked tower, too.
        replace(config.model, init_from=None, init_image_from=None, lock_image=False, unlocked_image_groups=0),
        device=where,
        precision=resolve_precision(precision, where),
        init_logit_scale=method.init_logit_scale,
        init_logit_bias=method.init_logit_bias,
        seed=0,
        image_size=read_progress(last).image_size,
        heads=method.heads,
    )
    cast(nn.Module, model.clip.visual).requires_grad_(False)
    model.image_is_locked = True
    method.check(model)
    if model.captioner is None:
        raise ModelError(f"{root}: method {config.method.name} writes no captions by itself; give one of qformer_lm")
    load_checkpoint(last, model.clip)
    model.clip.eval()
    return model, model.captioner

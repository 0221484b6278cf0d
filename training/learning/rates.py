"""The learning rate: when it rises and falls, and at which share of it each tower and layer learns.

Counting samples rather than steps keeps the schedule the same when the batch or world size changes.
"""

from __future__ import annotations

import math

from torch import nn

from training.config import OptimiserConfig
from training.errors import ModelError
from training.learning.heads import is_of_head
from training.learning.sharding import layers_of

__all__ = ["learning_rate", "rate_shares"]

_BELOW = {
    "class_embedding", "positional_embedding", "token_embedding", "cls_emb", "conv1", "conv2", "conv3", "bn1", "bn2",
    "bn3", "ln_pre",  # open_clip's towers
    "patch_embed", "pos_embed", "cls_token", "reg_token", "norm_pre", "stem", "conv_stem",  # timm's
    "embeddings",  # transformers'
}  # fmt: skip
"""What stands below a tower's first layer, by its name; what does not stands above the last one."""


def learning_rate(config: OptimiserConfig, *, samples: int, total_samples: int) -> float:
    """The rate for the step that ends at `samples` samples of `total_samples`.

    Linear from 0 to the peak over the warm-up, then as `schedule` says. A step has the rate that the curve has at the
    step's end, so the last one has the final rate. open_clip (`scheduler.py`) takes its curves at the step's beginning,
    except for the warm-up: there the peak comes twice, all later rates come one step later than here, and the last one
    is the last but one here. Of N steps after the warm-up no rate differs by more than pi / 2N of the peak. Ours
    stays as it was, so that runs go on and the schedule does not know the batch; the price is that with a
    `final_learning_rate` of 0 the last step moves nothing.
    """
    if samples < config.warmup_samples:
        return config.learning_rate * samples / config.warmup_samples
    span = config.learning_rate - config.final_learning_rate
    if config.schedule == "constant":
        left, over = total_samples - samples, config.cooldown_samples
        return config.final_learning_rate + span * min(1.0, left / over) if left < over else config.learning_rate
    done = min(1.0, (samples - config.warmup_samples) / max(1, total_samples - config.warmup_samples))
    left_of_curve = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.final_learning_rate + span * left_of_curve


def rate_shares(clip: nn.Module, config: OptimiserConfig) -> dict[nn.Parameter, float]:
    """Of each parameter of open_clip's module: at which share of `learning_rate` it learns.

    In a tower of L layers what stands below them learns at decay^(L + 1) of the tower's rate, layer i (from 0) at
    decay^(L - i), and what stands above them at the tower's rate, as EVA-CLIP has it (`rei/training/optim.py` in
    baaivision/EVA). The temperature, the bias and a method's heads learn at `learning_rate`. Raises ModelError where a
    tower with a decay has no layers.
    """
    shares = dict.fromkeys(clip.parameters(), 1.0)
    image = {name: p for name, p in clip.named_parameters() if name.startswith("visual.")}
    text = {
        name: p
        for name, p in clip.named_parameters()
        if name not in image and name not in ("logit_scale", "logit_bias") and not is_of_head(name)
    }
    for tower, parameters, rate, decay in (
        ("image", image, config.image_learning_rate, config.image_layer_decay),
        ("text", text, config.text_learning_rate, config.text_layer_decay),
    ):
        share = 1.0 if rate is None else rate / config.learning_rate
        shares.update(dict.fromkeys(parameters.values(), share))
        if decay < 1:
            for parameter, depth in _depths(clip, parameters, tower).items():
                shares[parameter] = share * decay**depth
    return shares


def _depths(clip: nn.Module, parameters: dict[str, nn.Parameter], tower: str) -> dict[nn.Parameter, int]:
    """How many layers stand above each of a tower's parameters, counting the heads above them as one."""
    own = set(parameters.values())
    # What has no parts is no layer: timm's heads are stacks of one matrix.
    layers = [
        found
        for layer in layers_of(clip)
        if list(layer.children()) and (found := [p for p in layer.parameters() if p in own])
    ]
    if not layers:
        raise ModelError(
            f"optimiser.{tower}_layer_decay: the {tower} tower has no layers that are alike, between which the rate "
            "could decay; set it to 1"
        )
    depths = {
        parameter: len(layers) + 1 if _BELOW & set(name.split(".")) else 0 for name, parameter in parameters.items()
    }
    for number, found in enumerate(layers):
        depths.update(dict.fromkeys(found, len(layers) - number))
    return depths

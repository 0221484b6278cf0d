"""All that an image tower says of a picture: its feature, and the tokens behind it, for those who look at them."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from training.errors import ModelError
from training.learning.model import Model, unit
from training.learning.patch_dropout import KeyedPatchDropout

__all__ = ["feature_and_tokens", "token_width", "unit_features"]


def token_width(visual: nn.Module, *, what: str) -> int:
    """Width of the tokens of open_clip's image tower. Raises ModelError, for `what`, where it has none."""
    tower = cast(Any, visual)
    trunk = getattr(tower, "trunk", None)
    if hasattr(tower, "transformer") and hasattr(tower, "class_embedding") and tower.attn_pool is None:
        return int(tower.transformer.width)
    if trunk is not None and hasattr(trunk, "patch_embed") and hasattr(trunk, "forward_intermediates"):
        return int(trunk.num_features)
    raise ModelError(f"{what}: the image tower gives no tokens to look at; take a model with a ViT (ViT-B-16)")


def feature_and_tokens(model: Model, images_BHWC: Tensor, keys_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(unit features [B, D], tokens [B, P, I]) of uint8[B, H, W, C]: class token first, after the tower's last norm.

    `keys_B` seed the patch dropout, as in `Model.encode_image`. A locked tower gets no gradient.
    """
    visual = cast(Any, model.clip).visual
    for module in visual.modules():
        if isinstance(module, KeyedPatchDropout):
            module.keys_B = keys_B
    with model.autocast(), torch.set_grad_enabled(torch.is_grad_enabled() and not model.image_is_locked):
        found = visual.forward_intermediates(
            model.pixels(images_BHWC),
            indices=1,
            normalize_intermediates=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        before = found.get("image_intermediates_prefix", [])
        tokens_BPI = torch.cat([*before[-1:], found["image_intermediates"][-1]], dim=1)
        return unit(found["image_features"]), tokens_BPI


def unit_features(model: Model, image: nn.Module, text: nn.Module, images_BHWC: Tensor, tokens_BL: Tensor) -> Any:
    """(pictures', texts') unit features [B, D] by other towers than the model's own, such as their moving averages."""
    with model.autocast():
        return unit(image(model.pixels(images_BHWC))), unit(text(tokens_BL))

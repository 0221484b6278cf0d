"""What a locked image tower says of a picture before its last layer: the tokens that BLIP-2's queries look at.

Li et al. 2023, arXiv 2301.12597, section 3.4: the last layer is left out, whose output does a little worse. A ViT gives
its class token and its patches, a tower of convolutions the places of its last map but one.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

from training.errors import ModelError
from training.learning.model import Model

__all__ = ["check_locked", "locked_tokens", "token_width"]

_FORWARD = "forward_intermediates"
"""open_clip's way to what stands between the layers, of its own towers and of timm's."""


def token_width(visual: nn.Module, *, what: str) -> int:
    """Width of the tokens of open_clip's image tower, which is asked for those of no picture at all.

    Raises ModelError, for `what`, where it has none.
    """
    tower = cast(Any, visual)
    trunk = getattr(tower, "trunk", None)
    try:
        if trunk is not None and hasattr(trunk, _FORWARD):
            return int(trunk.feature_info[-2]["num_chs"])
        if hasattr(tower, "layer3"):  # CLIP's ResNets
            return int(tower.layer3[-1].bn3.num_features)
        return int(tower.transformer.width)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ModelError(
            f"{what}: the image tower says nothing between its layers, at which queries could look; take a ViT "
            "(EVA01-g-14, ViT-L-14)"
        ) from error


def check_locked(model: Model, *, what: str) -> None:
    """Raise ModelError where the image tower of `model` learns; of a sharded one, have its layers gathered."""
    if not model.image_is_locked:
        raise ModelError(
            f"{what} learns to look at a tower that stays as it is; set --model.lock_image true, and "
            "--model.init_from or --model.init_image_from to a trained one"
        )
    visual = model.clip.visual
    if isinstance(visual, FSDPModule):
        register_fsdp_forward_method(cast(nn.Module, visual), _FORWARD)


def locked_tokens(model: Model, images_BHWC: Tensor) -> Tensor:
    """[B, P, U] of uint8[B, H, W, C], without a graph: the class token first, where there is one."""
    visual = cast(Any, model.clip.visual)
    of_timm: Any = getattr(visual, "trunk", None)
    has_prefix = hasattr(visual, "class_embedding") or bool(getattr(of_timm, "num_prefix_tokens", None))
    with torch.no_grad(), model.autocast():
        found = getattr(visual, _FORWARD)(
            model.pixels(images_BHWC),
            indices=[-2],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NCHW",
            output_extra_tokens=has_prefix,
        )
    map_BUHW = found["image_intermediates"][0]
    prefix = found.get("image_intermediates_prefix", [])
    return torch.cat([*prefix, map_BUHW.flatten(2).transpose(1, 2)], dim=1)

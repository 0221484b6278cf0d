"""A stem of convolutions in the place of a vision transformer's patch embedding.

    picture --3x3, stride 2--> norm, GELU --3x3, stride 2--> ... --1x1--> patches [B, W, H / 2^n, H / 2^n]

Xiao et al. (Early Convolutions Help Transformers See Better, arXiv 2106.14881) find that transformers so learn faster
and bear more optimisers; MobileCLIP-B has such a stem too. Theirs normalise over the batch; here it is over groups of
a sample's channels, so that a sample's gradient does not depend on how a batch is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from torch import Tensor, nn

from training.errors import ModelError

__all__ = ["put_conv_stem", "refuse_conv_stem"]

_GROUPS = 8
"""Groups of channels in each normalisation."""


def put_conv_stem(visual: nn.Module, channels: Sequence[int], *, name: str) -> None:
    """Give open_clip's image tower of the model `name`, its own ViT or one of timm's, a stem with such channels.

    Each convolution halves the picture, so n of them make patches of 2^n pixels. The weights are torch's own draw.
    Raises ModelError for a tower without patches, for another number of convolutions, and for channels that do not fall
    into 8 groups.
    """
    where, what = _patch_embedding(visual)
    patches = getattr(where, what, None)
    if not isinstance(patches, nn.Conv2d) or patches.kernel_size != patches.stride:
        raise ModelError(f"model.conv_stem: {name} has no patches to make; leave it out, or take a ViT")
    side = 2 ** len(channels)
    if patches.stride != (side, side):
        raise ModelError(
            f"model.conv_stem: {len(channels)} convolutions of stride 2 make patches of {side} px, and {name} has "
            f"patches of {patches.stride[0]}; each halves the picture"
        )
    if odd := [c for c in channels if c % _GROUPS]:
        raise ModelError(f"model.conv_stem: channels must be multiples of {_GROUPS}, got {odd[0]}")
    device = patches.weight.device
    layers: list[nn.Module] = []
    before = patches.in_channels
    for width in channels:
        layers.append(nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False, device=device))
        layers += [nn.GroupNorm(_GROUPS, width, device=device), nn.GELU()]
        before = width
    layers.append(nn.Conv2d(before, patches.out_channels, 1, bias=patches.bias is not None, device=device))
    setattr(where, what, _Stem(*layers, patch=side))


def refuse_conv_stem(weights: Iterable[str], *, reader: str) -> None:
    """Raise ModelError where weights of such names have a stem, of which `reader` knows nothing."""
    if any(name in ("visual.conv1.0.weight", "visual.trunk.patch_embed.proj.0.weight") for name in weights):
        raise ModelError(
            f"model.conv_stem: {reader} has no stem of convolutions and would not load the export; take --to onnx"
        )


class _Stem(nn.Sequential):
    """Patches of whole sides, as one wide convolution makes them: what is left over to the right and below is cut off,
    where each halving would round up."""

    def __init__(self, *layers: nn.Module, patch: int) -> None:
        super().__init__(*layers)
        self._patch = patch

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, W, H / patch, W / patch], rounded down."""
        height, width = (side // self._patch * self._patch for side in x_BCHW.shape[-2:])
        return cast(Tensor, super().forward(x_BCHW[..., :height, :width]))  # type: ignore[no-untyped-call]  # torch's


def _patch_embedding(visual: nn.Module) -> tuple[Any, str]:
    """Where the patch embedding is, and under which name."""
    trunk = getattr(visual, "trunk", None)
    if trunk is None:
        return visual, "conv1"
    return cast(Any, getattr(trunk, "patch_embed", None)), "proj"

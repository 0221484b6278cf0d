"""Leaves out a share of a picture's patches while training (FLIP, arXiv 2212.00794)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training.config import ModelConfig, Phase
from training.errors import ModelError
from training.learning.keyed import GOLDEN, spread

__all__ = ["KeyedPatchDropout", "drop_patches", "share_of_patches"]


class KeyedPatchDropout(nn.Module):
    """Which patches are left out is chosen per sample by its key, so that ranks and micro-batches agree."""

    def __init__(self, share: float, *, prefix: int = 1, tells_kept: bool = False) -> None:
        """`prefix`: tokens before the patches, which all stay. `tells_kept`: return what was kept as well."""
        super().__init__()
        self.share = share
        self.keys_B: Tensor | None = None
        self._prefix = prefix
        self._tells_kept = tells_kept

    def forward(self, x_BPW: Tensor) -> Tensor | tuple[Tensor, Tensor | None]:
        """[B, prefix + patches, W] -> the same with fewer patches (and which: [B, kept], None for all)."""
        if not self.training or self.keys_B is None or not self.share:
            return (x_BPW, None) if self._tells_kept else x_BPW
        batch, patches = x_BPW.shape[0], x_BPW.shape[1] - self._prefix
        kept = max(1, int(patches * (1 - self.share)))
        order = spread(self.keys_B[:, None] + torch.arange(1, patches + 1, device=x_BPW.device) * GOLDEN)
        chosen = order.topk(kept, dim=1).indices
        first = torch.arange(self._prefix, device=chosen.device).expand(batch, -1)
        rows = torch.arange(batch, device=chosen.device)[:, None]
        x_BPW = x_BPW[rows, torch.cat([first, chosen + self._prefix], dim=1)]
        return (x_BPW, chosen) if self._tells_kept else x_BPW


def share_of_patches(phase: Phase, model: ModelConfig) -> float:
    """The share of a picture's patches that is left out in `phase`."""
    return model.patch_dropout if phase.patch_dropout is None else phase.patch_dropout


def drop_patches(visual: Any, share: float, *, name: str) -> None:
    """Have open_clip's image tower of the model `name`, its own or timm's, leave out `share` of the patches.

    Raises ModelError for a tower without patches.
    """
    trunk: Any = getattr(visual, "trunk", None)
    if hasattr(visual, "patch_dropout"):
        visual.patch_dropout = KeyedPatchDropout(share)
    elif hasattr(trunk, "patch_drop"):
        # timm's EVA has none unless it is asked for one, and must know which patches its rotary positions are for.
        tells = trunk.patch_drop is None
        trunk.patch_drop = KeyedPatchDropout(share, prefix=trunk.num_prefix_tokens, tells_kept=tells)
    else:
        raise ModelError(f"model.patch_dropout: {name} has no image patches to drop; set it to 0")

"""timm's vision transformer inside open_clip, asked for its tokens as well as for their pool.

    picture --patches--> some replaced by a mask --positions--> layers --norm--> tokens [B, P, W]
                                                                            \\--> pool --> feature [B, D]

As open_clip calls it, it is what it was. Weights and their names are open_clip's.

Shapes: B pictures, P patches, W = the tower's width, D = embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from timm.models import checkpoint_seq
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from training.errors import ModelError

__all__ = ["TokenTower", "give_tokens"]


class TokenTower(TimmModel):  # type: ignore[misc]  # open_clip has no types
    """See above."""

    def forward(
        self,
        x: Tensor,
        *,
        tokens: bool = False,
        drops: bool = True,
        mask_BP: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Features [B, D] of pictures [B, C, H, W]; with `tokens` also those before the pool, [B, P, W].

        With `tokens` H and W may be others than the tower's, for which positions are interpolated. `drops`: leave
        patches out where the model does so. Where bool[B, P] `mask_BP` is true, `mask_token` [W] stands in the patch's
        place.
        """
        if not tokens:
            return cast(Tensor, super().forward(x))
        trunk = cast(Any, self.trunk)
        x_BWHW = trunk.patch_embed.proj(x)
        grid = x_BWHW.shape[-2:]
        x_BPW = trunk.patch_embed.norm(x_BWHW.flatten(2).transpose(1, 2))
        if mask_BP is not None and mask_token is not None:
            x_BPW = torch.where(mask_BP[..., None], mask_token.to(x_BPW.dtype), x_BPW)
        prefix = [token for token in (trunk.cls_token, trunk.reg_token) if token is not None]
        before = [token.expand(len(x), -1, -1) for token in prefix]
        ahead = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
        positions = _positions(trunk.pos_embed, trunk.patch_embed.grid_size, grid, ahead=ahead)
        if trunk.no_embed_class:
            x_BPW = torch.cat([*before, x_BPW + positions], dim=1)
        else:
            x_BPW = torch.cat([*before, x_BPW], dim=1) + positions
        x_BPW = trunk.pos_drop(x_BPW)
        if drops:
            x_BPW = trunk.patch_drop(x_BPW)
        x_BPW = trunk.norm_pre(x_BPW)
        x_BPW = checkpoint_seq(trunk.blocks, x_BPW) if trunk.grad_checkpointing else trunk.blocks(x_BPW)
        x_BPW = trunk.norm(x_BPW)
        return self.head(trunk.forward_head(x_BPW)), x_BPW[:, trunk.num_prefix_tokens :]


def _positions(own_1NW: Tensor, own: Sequence[int], grid: Sequence[int], *, ahead: int) -> Tensor:
    """[1, ahead + patches, W]: the positions of a grid of patches, interpolated from the tower's own grid, as timm does
    it (`resample_abs_pos_embed`: bicubic, antialiased), but in no less than their own precision."""
    if tuple(own) == tuple(grid):
        return own_1NW
    before, patches = own_1NW[:, :ahead], own_1NW[:, ahead:]
    wide = patches.to(torch.promote_types(patches.dtype, torch.float32))
    wide = wide.reshape(1, *own, -1).permute(0, 3, 1, 2)
    wide = F.interpolate(wide, size=tuple(grid), mode="bicubic", antialias=True)
    return torch.cat([before, wide.flatten(2).transpose(1, 2).to(before.dtype)], dim=1)


def give_tokens(clip: nn.Module, *, why: str) -> TokenTower:
    """The image tower of open_clip's module, which from now on can be asked for its tokens.

    Raises ModelError for a tower that is no plain vision transformer of timm's; `why` says who asks.
    """
    visual = cast(nn.Module, clip.visual)
    trunk = getattr(visual, "trunk", None)
    if type(trunk).__name__ == "NaFlexVit":
        raise ModelError(
            f"{why}: variable aspect (NaFlex) is not in the released open_clip; take a model of one size, such as "
            "ViT-B-16-SigLIP2-256"
        )
    if not isinstance(trunk, VisionTransformer) or trunk.pos_embed is None:
        raise ModelError(
            f"{why} reads the patches of timm's vision transformer, and this image tower is none; take a model such as "
            "ViT-B-16-SigLIP2-256"
        )
    visual.__class__ = TokenTower
    return cast(TokenTower, visual)

"""A text tower's positions for longer texts than it was trained on: `model.init_text_positions: stretch`.

    0 ... 19 | 20 ................ 76     a general CLIP's
    0 ... 19 | 20 .................................. 255     as they are | interpolated

A CLIP has seen few texts that go far, so its first positions are well trained and the others little. Interpolating all
of them alike (open_clip's `resize_text_pos_embed`) gives the first words the positions of others.
"""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.errors import ModelError

__all__ = ["KEPT", "stretch_positions"]

KEPT = 20
"""So many positions stay as they are (Long-CLIP, arXiv 2403.15378; `keep_len` in its model/longclip.py)."""
_KEYS = ("positional_embedding", "text.positional_embedding")


def stretch_positions(state: MutableMapping[str, Tensor], clip: nn.Module) -> None:
    """Bring the text positions [P, W] in `state`, open_clip's names, to the number that `clip` has.

    More than P: the first KEPT stay, those behind are interpolated linearly, from the first of them to the last. Fewer:
    the last ones are cut off. Raises ModelError where there are too few to stretch.
    """
    text = getattr(clip, "text", clip)
    own = getattr(text, "positional_embedding", None)
    key = next((key for key in _KEYS if key in state), None)
    if own is None or key is None:
        return
    old_PW, wanted = state[key], own.shape[0]
    if wanted <= old_PW.shape[0]:
        state[key] = old_PW[:wanted]
        return
    if old_PW.shape[0] < KEPT + 2:
        raise ModelError(
            f"model.init_text_positions: of {old_PW.shape[0]} positions none is left to stretch behind the first "
            f"{KEPT}; take interpolate"
        )
    tail_1WP = old_PW[KEPT:].T.unsqueeze(0).float()
    tail_1WP = F.interpolate(tail_1WP, size=wanted - KEPT, mode="linear", align_corners=True)
    state[key] = torch.cat([old_PW[:KEPT], tail_1WP[0].T.to(old_PW.dtype)])

"""What open_clip leaves out where it makes a CoCa."""

from __future__ import annotations

import open_clip
from torch import nn

__all__ = ["draw_unset"]


def draw_unset(clip: nn.Module) -> None:
    """Draw the projection of the decoder of an open_clip CoCa to its vocabulary, from torch's generator.

    open_clip makes it as memory that nobody has written to, and does not call its `MultimodalTransformer.
    init_parameters`, which would draw it with this deviation. Other models, and those on the meta device, are left as
    they are.
    """
    if isinstance(clip, open_clip.CoCa):
        projection = clip.text_decoder.text_projection
        nn.init.normal_(projection, std=projection.shape[0] ** -0.5)

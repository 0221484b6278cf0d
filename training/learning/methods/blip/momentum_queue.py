"""Contrast with a queue of features that slower towers made (MoCo, arXiv 1911.05722; ALBEF, 2107.07651).

    own features [n, D] --against--> the follower's: those of the batch [N, D], then those of batches before [Q, D]
    targets: alpha x what the follower says itself + (1 - alpha) x the own pair

What the follower made has no gradient, so a rank needs it of all others, and nothing of it goes back.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["Follower", "Queue", "soft_contrast"]


class Follower(nn.Module):
    """Copies of modules that go after them as moving averages; nobody trains them."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        """They begin as `modules` are now."""
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, copy.deepcopy(module).requires_grad_(False))

    @torch.no_grad()
    def follow(self, modules: Mapping[str, nn.Module], *, momentum: float) -> None:
        """`momentum` of each weight stays, the rest comes from `modules`; what is no weight is taken as it is."""
        for name, module in modules.items():
            own = self.get_submodule(name)
            for follower, leader in zip(own.parameters(), module.parameters(), strict=True):
                follower.lerp_(leader, 1 - momentum)
            for kept, there in zip(own.buffers(), module.buffers(), strict=True):
                kept.copy_(there)


class Queue(nn.Module):
    """The last Q features of pictures and of texts, and how far the run is: buffers, saved with the weights."""

    image: Tensor
    """[Q, D], of unit length; random ones until batches have taken their places."""
    text: Tensor
    """As `image`."""
    place: Tensor
    """int64 scalar: where the next features go."""
    samples_seen: Tensor
    """int64 scalar: samples of the run before this step."""

    def __init__(self, size: int, width: int) -> None:
        """`size`: Q; `width`: D."""
        super().__init__()
        for name in ("image", "text"):
            self.register_buffer(name, F.normalize(torch.randn(size, width), dim=1))
        for name in ("place", "samples_seen"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, image_ND: Tensor, text_ND: Tensor) -> None:
        """A batch takes the places of the oldest features; of one that is larger than the queue, its last ones.

        Features that are not finite change nothing, as the step that they belong to does not: a NaN would stay for
        thousands of batches. The device decides.
        """
        size = len(self.image)
        new = [rows_ND[-size:] for rows_ND in (image_ND, text_ND)]
        count = len(new[0])
        is_finite = torch.stack([rows_ND.isfinite().all() for rows_ND in new]).all()
        places = (self.place + torch.arange(count, device=self.place.device)) % size
        for kept_QD, rows_ND in zip((self.image, self.text), new, strict=True):
            kept_QD[places] = rows_ND.to(kept_QD).where(is_finite, kept_QD[places])
        self.place.copy_((self.place + is_finite * count) % size)


def soft_contrast(
    own_nD: Tensor, follower_nD: Tensor, every_MD: Tensor, scale: Tensor, *, alpha: Tensor, first: int, tile: int
) -> Tensor:
    """Cross-entropy of n samples' choices among M, summed over the n (scalar).

    `own_nD` have a gradient, and `scale`, which multiplies similarities. `follower_nD` are the follower's features of
    the same samples, whose choice is `alpha` (scalar) of the target; the rest is sample i's own pair, `first + i` of
    the M. About `tile` x `tile` numbers are held at a time, and computed again backwards.
    """
    rows = max(1, tile * tile // len(every_MD))
    parts = []
    for start in range(0, len(own_nD), rows):
        some = slice(start, start + rows)
        given = (own_nD[some], follower_nD[some], every_MD, scale, alpha, first + start)
        if rows >= len(own_nD):
            return _of_rows(*given)
        parts.append(checkpoint(_of_rows, *given, use_reentrant=False, preserve_rng_state=False))
    return torch.stack(parts).sum()


def _of_rows(own_nD: Tensor, follower_nD: Tensor, every_MD: Tensor, scale: Tensor, alpha: Tensor, first: int) -> Tensor:
    logits_nM = scale * own_nD @ every_MD.T
    with torch.no_grad():
        target_nM = alpha * (scale * follower_nD @ every_MD.T).softmax(1)
        own = torch.arange(len(own_nD), device=own_nD.device)
        target_nM[own, first + own] += 1 - alpha
    return -(target_nM * logits_nM.log_softmax(1)).sum()

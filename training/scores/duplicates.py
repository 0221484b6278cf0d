"""Semantic duplicates: SemDeDup (Abbas et al. 2023, arXiv 2303.09540, section 3).

    clusters of like pictures --within each: the nearest of those before it--> similarity, duplicate_of

Within a cluster the pictures stand in an order, and each is compared with those before it. One whose cosine with any of
them is above 1 - eps goes. The paper's order begins with the picture that is least like the centroid (`keep: hard`):
of like pictures that one stays. Two that are alike but in two clusters both stay, so what goes is a part of what all
pairs would give: `docs/score.md` has how large a part.

The similarity of a row does not hang on eps, so that another eps needs no other run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.records.identity import keyed_hash
from training.scores.config import Keep

__all__ = ["Alike", "in_order", "nearest_before", "stand_ins"]

_TILE_ROWS = 2048


@dataclass(frozen=True, kw_only=True)
class Alike:
    """What the rows of a cluster, in its order, have before them."""

    similarity: npt.NDArray[np.float32]
    """float32[N]: the highest cosine with a row before; -1 where there is none before."""
    nearest: npt.NDArray[np.int64]
    """int64[N]: the place of that row, the first of equals; the row's own where there is none before."""


def in_order(
    to_centre_N: npt.NDArray[np.float32], uids: npt.NDArray[np.void], keep: Keep, *, seed: int
) -> npt.NDArray[np.int64]:
    """int64[N]: places of a cluster's rows, the one that stays in any case first; ties by uid.

    hard: least like the centroid first; easy: most like it first; random: by a keyed hash of the uid.
    """
    halves = uids.view(np.dtype(">u8")).reshape(-1, 2)
    by_uid = np.lexsort((halves[:, 1], halves[:, 0]))
    if keep == "random":
        hashes_N = keyed_hash(seed, halves[:, 0].astype(np.uint64))
        return by_uid[np.argsort(hashes_N[by_uid], kind="stable")]
    like_N = to_centre_N if keep == "hard" else -to_centre_N
    return by_uid[np.argsort(like_N[by_uid], kind="stable")]


def nearest_before(rows_ND: Tensor) -> Alike:
    """Each row's nearest among those before it: N * N / 2 cosines, in tiles. `rows_ND` float32[N, D] of length 1."""
    count = len(rows_ND)
    best_N = torch.full((count,), -1.0, device=rows_ND.device)
    place_N = torch.arange(count, device=rows_ND.device)
    for first in range(0, count, _TILE_ROWS):
        last = min(first + _TILE_ROWS, count)
        for earlier in range(0, last, _TILE_ROWS):
            end = min(earlier + _TILE_ROWS, last)
            cosine_RE = rows_ND[first:last] @ rows_ND[earlier:end].T
            if earlier == first:  # of the tile on the diagonal, what stands before
                cosine_RE = cosine_RE.tril(-1) + torch.full_like(cosine_RE, -2.0).triu()
            found_R, at_R = cosine_RE.max(dim=1)
            better_R = found_R > best_N[first:last]
            best_N[first:last] = torch.where(better_R, found_R, best_N[first:last])
            place_N[first:last] = torch.where(better_R, at_R + earlier, place_N[first:last])
    return Alike(similarity=best_N.clamp(-1, 1).cpu().numpy(), nearest=place_N.cpu().numpy())


def stand_ins(alike: Alike, eps: float) -> npt.NDArray[np.int64]:
    """int64[N]: the place of the row that stays for each; its own where it stays itself.

    That is its nearest before it or, where that one goes too, the one that stays for that one.
    """
    places = np.arange(len(alike.nearest))
    goes = alike.similarity > 1 - eps
    stays = np.where(goes, alike.nearest, places)
    while True:  # halves every chain each time, and each leads to a row that stays
        further = stays[stays]
        if np.array_equal(further, stays):
            return stays
        stays = further

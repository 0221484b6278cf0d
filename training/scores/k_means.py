"""Spherical k-means: rows of length 1 in clusters of like direction (Dhillon and Modha 2001).

    rows --k of them--> centroids --nearest, mean, length 1; again--> centroids --nearest--> a cluster a row

The same rows, seed and options give the same clusters.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.records.identity import keyed_hash

__all__ = ["centroids_of", "nearest"]

_TILE = 1 << 22
"""Similarities in memory at a time: 16 MB."""


def centroids_of(rows_ND: Tensor, clusters: int, *, iterations: int, seed: int) -> Tensor:
    """float32[K, D] of length 1, on the device of `rows_ND` (float32[N, D] of length 1); K is `clusters`, at most N.

    It begins at rows that are drawn by `seed` and ends early when no row changes its cluster. A cluster that loses all
    of its rows keeps its centroid.
    """
    drawn = np.argsort(keyed_hash(seed, np.arange(len(rows_ND), dtype=np.uint64)), kind="stable")[:clusters]
    centroids_KD = rows_ND[torch.from_numpy(drawn).to(rows_ND.device)].clone()
    before_N: Tensor | None = None
    for _ in range(iterations):
        cluster_N, _ = nearest(rows_ND, centroids_KD)
        if before_N is not None and torch.equal(cluster_N, before_N):
            break
        before_N = cluster_N
        # Sorted first, then summed cluster by cluster: on a GPU `index_add_` adds in an order of its own.
        order_N = torch.argsort(cluster_N, stable=True)
        counts_K = torch.bincount(cluster_N, minlength=len(centroids_KD))
        sums_KD = torch.segment_reduce(rows_ND[order_N], "sum", lengths=counts_K, axis=0, unsafe=True)
        lengths_K = sums_KD.norm(dim=1, keepdim=True)
        centroids_KD = torch.where(lengths_K > 0, sums_KD / lengths_K.clamp_min(1e-12), centroids_KD)
    return centroids_KD


def nearest(rows_ND: Tensor, centroids_KD: Tensor) -> tuple[Tensor, Tensor]:
    """int64[N], float32[N]: the cluster of each row, and its cosine with the centroid."""
    step = max(1, _TILE // max(1, len(centroids_KD)))
    cluster_N = torch.empty(len(rows_ND), dtype=torch.int64, device=rows_ND.device)
    cosine_N = torch.empty(len(rows_ND), dtype=torch.float32, device=rows_ND.device)
    for first in range(0, len(rows_ND), step):
        part = slice(first, first + step)
        torch.max(rows_ND[part] @ centroids_KD.T, dim=1, out=(cosine_N[part], cluster_N[part]))
    return cluster_N, cosine_N

"""Zero-shot and retrieval metrics, from features; each comes with what guessing would score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Metric", "label_ranks", "positive_ranks", "retrieval", "zero_shot"]

_ROWS = 1024
"""Rows of a score matrix held at a time."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure, in 0..1, with the expectation of a random ranking."""

    name: str
    value: float
    chance: float


def label_ranks(scores_NC: Tensor, labels_N: Tensor) -> Tensor:
    """int64[N]: how many classes come before the right one. Ties go to the lower class number."""
    own_N1 = scores_NC.gather(1, labels_N[:, None])
    classes_C = torch.arange(scores_NC.shape[1], device=scores_NC.device)
    tied_before = (scores_NC == own_N1) & (classes_C[None, :] < labels_N[:, None])
    return ((scores_NC > own_N1) | tied_before).sum(dim=1)


def positive_ranks(scores_NM: Tensor, is_positive_NM: Tensor) -> Tensor:
    """int64[N]: how many candidates come before the best positive. Ties go to the lower number.

    Rows without a positive rank at M, behind everything.
    """
    candidates = scores_NM.shape[1]
    best_N1 = scores_NM.masked_fill(~is_positive_NM, float("-inf")).amax(dim=1, keepdim=True)
    numbers_M = torch.arange(candidates, device=scores_NM.device)
    is_best_NM = is_positive_NM & (scores_NM == best_N1)
    first_N1 = torch.where(is_best_NM, numbers_M[None, :], candidates).amin(dim=1, keepdim=True)
    before = (scores_NM > best_N1) | ((scores_NM == best_N1) & (numbers_M[None, :] < first_N1))
    ranks = before.sum(dim=1)
    return torch.where(is_positive_NM.any(dim=1), ranks, candidates)


def zero_shot(image_ND: Tensor, class_CD: Tensor, labels_N: Tensor) -> list[Metric]:
    """Top-1, top-5 and mean per-class accuracy of unit features against unit class embeddings.

    Classes without an example do not enter the mean.
    """
    ranks = torch.cat(
        [
            label_ranks(image_ND[i : i + _ROWS] @ class_CD.T, labels_N[i : i + _ROWS])
            for i in range(0, len(image_ND), _ROWS)
        ]
    )
    classes = len(class_CD)
    examples_C = torch.bincount(labels_N, minlength=classes)
    right_C = torch.bincount(labels_N[ranks == 0], minlength=classes)
    present = examples_C > 0
    mean_per_class = (right_C[present] / examples_C[present]).mean()
    return [
        Metric(name="zeroshot_top1", value=_hit_rate(ranks < 1), chance=1 / classes),
        Metric(name="zeroshot_top5", value=_hit_rate(ranks < 5), chance=min(5, classes) / classes),
        Metric(name="zeroshot_mean_per_class", value=float(mean_per_class), chance=1 / classes),
    ]


def retrieval(image_ND: Tensor, text_MD: Tensor, image_of_text_M: Tensor) -> list[Metric]:
    """Recall at 1, 5 and 10 in both directions; several captions an image are allowed.

    A hit is any positive among the top k, the usual convention; only an image's own captions are
    positives, even where another image carries the same words.
    """
    n, m = len(image_ND), len(text_MD)
    numbers_N = torch.arange(n, device=image_ND.device)
    to_text, to_image = [], []
    for i in range(0, n, _ROWS):
        positive = numbers_N[i : i + _ROWS, None] == image_of_text_M[None, :]
        to_text.append(positive_ranks(image_ND[i : i + _ROWS] @ text_MD.T, positive))
    for i in range(0, m, _ROWS):
        to_image.append(label_ranks(text_MD[i : i + _ROWS] @ image_ND.T, image_of_text_M[i : i + _ROWS]))
    text_ranks, image_ranks = torch.cat(to_text), torch.cat(to_image)
    captions_N = torch.bincount(image_of_text_M, minlength=n)
    metrics = []
    for k in (1, 5, 10):
        chance = sum(_chance_of_hit(m, int(c), k) for c in captions_N) / n
        metrics.append(Metric(name=f"image_to_text_recall_at_{k}", value=_hit_rate(text_ranks < k), chance=chance))
    for k in (1, 5, 10):
        metrics.append(
            Metric(name=f"text_to_image_recall_at_{k}", value=_hit_rate(image_ranks < k), chance=min(k, n) / n)
        )
    return metrics


def _chance_of_hit(candidates: int, positives: int, k: int) -> float:
    """Probability that k of `candidates` drawn without replacement hold one of `positives`."""
    miss = 1.0
    for i in range(min(k, candidates)):
        miss *= max(0, candidates - positives - i) / (candidates - i)
    return 1 - miss


def _hit_rate(hits: Tensor) -> float:
    return float(hits.double().mean())

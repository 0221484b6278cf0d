"""Zero-shot and retrieval metrics, from features; each comes with what guessing would score.

No matrix of all scores is held: rows go by a thousand at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Classified",
    "Metric",
    "accuracies",
    "classify",
    "clip_score",
    "label_ranks",
    "likeness",
    "positive_ranks",
    "retrieval",
    "template_spread",
    "zero_shot",
]

_ROWS = 1024
"""Rows of a score matrix held at a time."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure, in 0..1, with the expectation of a random ranking."""

    name: str
    value: float
    chance: float


@dataclass(frozen=True, kw_only=True)
class Classified:
    """What a classifier makes of N pictures."""

    ranks: Tensor
    """int64[N]: how many classes come before the right one."""
    predicted: Tensor
    """int64[N]: the first class."""


def label_ranks(scores_NC: Tensor, labels_N: Tensor) -> Tensor:
    """int64[N]: how many classes come before the right one. Ties go to the lower class number.

    A score that is no number comes behind everything.
    """
    own_N1 = scores_NC.gather(1, labels_N[:, None])
    classes_C = torch.arange(scores_NC.shape[1], device=scores_NC.device)
    tied_behind = (scores_NC == own_N1) & (classes_C[None, :] >= labels_N[:, None])
    return (~((scores_NC < own_N1) | tied_behind)).sum(dim=1)


def positive_ranks(scores_NM: Tensor, is_positive_NM: Tensor) -> Tensor:
    """int64[N]: how many candidates come before the best positive. Ties go to the lower number.

    Rows without a positive, or with scores that are no numbers, rank at M, behind everything.
    """
    candidates = scores_NM.shape[1]
    best_N1 = scores_NM.masked_fill(~is_positive_NM, float("-inf")).amax(dim=1, keepdim=True)
    numbers_M = torch.arange(candidates, device=scores_NM.device)
    is_best_NM = is_positive_NM & (scores_NM == best_N1)
    first_N1 = torch.where(is_best_NM, numbers_M[None, :], candidates).amin(dim=1, keepdim=True)
    behind = (scores_NM < best_N1) | ((scores_NM == best_N1) & (numbers_M[None, :] >= first_N1))
    ranks = (~behind).sum(dim=1)
    return torch.where(is_positive_NM.any(dim=1), ranks, candidates)


def likeness(rows: Tensor, columns: Tensor) -> Tensor:
    """[N, M]: the cosines of unit features, [N, D] and [M, D]. Pictures, on either side, may be [N, Q, D], by Q
    queries, of which the likest counts (BLIP-2, arXiv 2301.12597, section 3.2)."""
    if columns.ndim == 3:
        return likeness(columns, rows).T
    if rows.ndim == 2:
        return rows @ columns.T
    best_NM = rows[:, 0] @ columns.T
    for query_ND in rows.unbind(dim=1)[1:]:
        torch.maximum(best_NM, query_ND @ columns.T, out=best_NM)
    return best_NM


def classify(image_ND: Tensor, class_CD: Tensor, labels_N: Tensor, bias_C: Tensor | None = None) -> Classified:
    """Pictures by their scores with the classes, features times `class_CD` plus `bias_C`."""
    ranks, predicted = [], []
    for rows in _blocks(len(image_ND)):
        scores = likeness(image_ND[rows], class_CD)
        scores = scores if bias_C is None else scores + bias_C
        ranks.append(label_ranks(scores, labels_N[rows]))
        predicted.append(scores.argmax(dim=1))
    return Classified(ranks=torch.cat(ranks), predicted=torch.cat(predicted))


def accuracies(found: Classified, labels_N: Tensor, num_classes: int, *, prefix: str) -> list[Metric]:
    """Top-1, top-5 and mean per-class accuracy. Classes without an example do not enter the mean."""
    examples_C = torch.bincount(labels_N, minlength=num_classes)
    right_C = torch.bincount(labels_N[found.ranks == 0], minlength=num_classes)
    present = examples_C > 0
    mean_per_class = (right_C[present] / examples_C[present]).mean()
    top5_by_chance = min(5, num_classes) / num_classes
    return [
        Metric(name=f"{prefix}_top1", value=_hit_rate(found.ranks < 1), chance=1 / num_classes),
        Metric(name=f"{prefix}_top5", value=_hit_rate(found.ranks < 5), chance=top5_by_chance),
        Metric(name=f"{prefix}_mean_per_class", value=float(mean_per_class), chance=1 / num_classes),
    ]


def zero_shot(image_ND: Tensor, class_CD: Tensor, labels_N: Tensor) -> list[Metric]:
    """`accuracies` of unit features against unit class embeddings."""
    return accuracies(classify(image_ND, class_CD, labels_N), labels_N, len(class_CD), prefix="zeroshot")


def template_spread(top1_T: list[float], num_classes: int) -> list[Metric]:
    """How far zero-shot top-1 hangs on the wording, from its values with each single template: the worst, the best,
    and their standard deviation (of these templates, not of a population)."""
    values = torch.tensor(top1_T, dtype=torch.float64)
    name, chance = "zeroshot_top1", 1 / num_classes
    return [
        Metric(name=f"{name}_worst_template", value=float(values.min()), chance=chance),
        Metric(name=f"{name}_best_template", value=float(values.max()), chance=chance),
        Metric(name=f"{name}_std_over_templates", value=float(values.std(correction=0)), chance=0.0),
    ]


def retrieval(image_ND: Tensor, text_MD: Tensor, image_of_text_M: Tensor) -> list[Metric]:
    """Recall at 1, 5 and 10 in both directions; several captions an image are allowed.

    A hit is any positive among the top k, the usual convention; only an image's own captions are
    positives, even where another image carries the same words.
    """
    n, m = len(image_ND), len(text_MD)
    numbers_N = torch.arange(n, device=image_ND.device)
    to_text, to_image = [], []
    for rows in _blocks(n):
        positive = numbers_N[rows, None] == image_of_text_M[None, :]
        to_text.append(positive_ranks(likeness(image_ND[rows], text_MD), positive))
    for rows in _blocks(m):
        to_image.append(label_ranks(likeness(text_MD[rows], image_ND), image_of_text_M[rows]))
    text_ranks, image_ranks = torch.cat(to_text), torch.cat(to_image)
    captions = Counter(torch.bincount(image_of_text_M, minlength=n).tolist())
    metrics = []
    for k in (1, 5, 10):
        chance = sum(_chance_of_hit(m, number, k) * images for number, images in captions.items()) / n
        metrics.append(Metric(name=f"image_to_text_recall_at_{k}", value=_hit_rate(text_ranks < k), chance=chance))
    for k in (1, 5, 10):
        metrics.append(
            Metric(name=f"text_to_image_recall_at_{k}", value=_hit_rate(image_ranks < k), chance=min(k, n) / n)
        )
    return metrics


def clip_score(image_ND: Tensor, text_MD: Tensor, image_of_text_M: Tensor) -> Metric:
    """Mean over captions of max(cos(picture, caption), 0): CLIPScore (Hessel et al. 2021, equation 1) with w = 1.

    They take w = 2.5, torchmetrics 100. Chance is the same mean over all pictures and captions.
    """
    own = all_pairs = torch.zeros((), dtype=torch.float64)
    for rows in _blocks(len(text_MD)):
        scores = likeness(text_MD[rows], image_ND).clamp(min=0)
        own = own + scores.gather(1, image_of_text_M[rows, None]).double().sum()
        all_pairs = all_pairs + scores.double().sum()
    captions, pairs = len(text_MD), len(text_MD) * len(image_ND)
    return Metric(name="clip_score", value=float(own) / captions, chance=float(all_pairs) / pairs)


def _blocks(count: int) -> Iterator[slice]:
    for first in range(0, count, _ROWS):
        yield slice(first, first + _ROWS)


def _chance_of_hit(candidates: int, positives: int, k: int) -> float:
    """Probability that k of `candidates` drawn without replacement hold one of `positives`."""
    miss = 1.0
    for i in range(min(k, candidates)):
        miss *= max(0, candidates - positives - i) / (candidates - i)
    return 1 - miss


def _hit_rate(hits: Tensor) -> float:
    return float(hits.double().mean())

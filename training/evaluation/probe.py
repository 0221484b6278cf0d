"""A linear probe: multinomial logistic regression on frozen features, as CLIP was measured (section 3.2, appendix A.3).

train --a fifth of each class held out--> sweep of the L2 penalty --the best, on all of train--> classifier --> test

CLIP takes scikit-learn's L-BFGS, at most 1,000 iterations, and a binary search over the penalty; here it is torch's
L-BFGS with a strong Wolfe line search, so that it runs on a GPU too, and the same objective:

    sum of cross entropies + l2 / 2 * |W|^2        (l2 = 1 / C of scikit-learn; the bias is not punished)

The features are those that the model compares pictures and texts by: unit, behind the projection. CLIP's paper took
those before it for its ViTs, so its figures are not comparable to the digit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.errors import EvaluationError
from training.evaluation.metrics import Metric, accuracies, classify

__all__ = ["LinearProbe", "fit_probe", "probe", "sweep"]

_COARSE = tuple(10.0**exponent for exponent in range(-6, 7, 2))
_FINEST_DECADES = 1 / 8
"""CLIP, appendix A.3: 1e-6 to 1e6, halved around the peak down to eight steps a decade."""
_ITERATIONS = 1000
_HELD_OUT = 5
"""One of so many, of each class."""


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """A classifier, on the device of the features that it was made from."""

    weight: Tensor
    """[C, D]."""
    bias: Tensor
    """[C]."""
    l2: float


def probe(
    train_ND: Tensor, train_labels_N: Tensor, test_ND: Tensor, test_labels_N: Tensor, *, num_classes: int
) -> tuple[list[Metric], LinearProbe]:
    """Accuracies of the probe on test, and the probe. Raises EvaluationError where train is too small to hold out."""
    l2 = sweep(train_ND, train_labels_N, num_classes=num_classes)
    found = fit_probe(train_ND, train_labels_N, num_classes=num_classes, l2=l2)
    classified = classify(test_ND, found.weight, test_labels_N, found.bias)
    return accuracies(classified, test_labels_N, num_classes, prefix="linear_probe"), found


def sweep(features_ND: Tensor, labels_N: Tensor, *, num_classes: int) -> float:
    """The penalty whose probe is right most often on held-out examples; of equal ones the largest.

    Raises EvaluationError where no class has enough examples.
    """
    held_N = _held_out(labels_N)
    if not held_N.any():
        raise EvaluationError(f"a linear probe needs {_HELD_OUT} examples of a class in train, to hold one out")
    known: dict[float, float] = {}
    last: LinearProbe | None = None

    def right(l2: float) -> float:
        nonlocal last
        if l2 not in known:
            last = fit_probe(features_ND[~held_N], labels_N[~held_N], num_classes=num_classes, l2=l2, start=last)
            ranks = classify(features_ND[held_N], last.weight, labels_N[held_N], last.bias).ranks
            known[l2] = float((ranks == 0).double().mean())
        return known[l2]

    for l2 in reversed(_COARSE):
        right(l2)
    step = 1.0
    while step >= _FINEST_DECADES:
        best = max(known, key=lambda l2: (known[l2], l2))
        for l2 in (best * 10**step, best * 10**-step):
            if _COARSE[0] <= l2 <= _COARSE[-1]:
                right(l2)
        step /= 2
    return max(known, key=lambda l2: (known[l2], l2))


def fit_probe(
    features_ND: Tensor, labels_N: Tensor, *, num_classes: int, l2: float, start: LinearProbe | None = None
) -> LinearProbe:
    """The minimum of the objective, from `start` or zero; it has one minimum, so the start only saves time."""
    width = features_ND.shape[1]
    parameters = features_ND.new_zeros(num_classes, width + 1)
    if start is not None:
        parameters[:, :width], parameters[:, width] = start.weight, start.bias
    parameters.requires_grad_()
    optimiser = torch.optim.LBFGS(
        [parameters],
        max_iter=_ITERATIONS,
        tolerance_grad=1e-7,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        weight_CD, bias_C = parameters[:, :width], parameters[:, width]
        # By the number of examples, so that the tolerances mean the same for every set.
        loss = F.cross_entropy(F.linear(features_ND, weight_CD, bias_C), labels_N)
        loss = loss + l2 / (2 * len(labels_N)) * weight_CD.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        return loss

    with torch.enable_grad():
        optimiser.step(closure)  # type: ignore[no-untyped-call]  # torch's stub
    found = parameters.detach()
    return LinearProbe(weight=found[:, :width], bias=found[:, width], l2=l2)


def _held_out(labels_N: Tensor) -> Tensor:
    """bool[N]: the last of every five examples of a class, in an order that hangs on their number alone."""
    order = torch.randperm(len(labels_N), generator=torch.Generator().manual_seed(0))
    held = torch.zeros(len(labels_N), dtype=torch.bool)
    seen: dict[int, int] = {}
    labels = labels_N.tolist()
    for number in order.tolist():
        seen[labels[number]] = seen.get(labels[number], 0) + 1
        held[number] = seen[labels[number]] % _HELD_OUT == 0
    return held.to(labels_N.device)

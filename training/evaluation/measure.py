"""One model on one set: every metric that the set allows, what became of each class, what was taken for what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from training.distributed import World
from training.evaluation.captions import caption_metrics
from training.evaluation.config import EvaluateOptions
from training.evaluation.encode import Encoded, encode_parts, template_embeddings
from training.evaluation.metrics import (
    Classified,
    Metric,
    accuracies,
    classify,
    clip_score,
    retrieval,
    template_spread,
)
from training.evaluation.probe import probe
from training.evaluation.sets.form import EvaluationSet
from training.learning.model import Model

__all__ = ["ClassResult", "Confusion", "Measured", "Prompts", "measure", "per_class"]


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """What became of the pictures of a class."""

    number: int
    name: str
    examples: int
    top1: float | None
    """Share of them whose class came first; None without pictures."""
    top5: float | None
    confused_with: int | None
    """The class that its pictures are most often taken for, if not its own; None where none was."""
    confused_name: str | None
    confused: int
    """How often."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Pictures of one class that were taken for another."""

    number: int
    name: str
    predicted: int
    predicted_name: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that was found."""

    metrics: Sequence[Metric]
    classes: Sequence[ClassResult] = ()
    confusions: Sequence[Confusion] = ()
    """The most frequent first."""
    templates: Sequence[tuple[str, float]] = ()
    """Each template, and zero-shot top-1 with it alone."""
    probe_l2: float | None = None
    """The penalty that the sweep chose."""


@dataclass
class Prompts:
    """The class prompts of one model, embedded once for all sets that have the same classes and templates."""

    model: Model
    batch_size: int
    world: World
    known: dict[tuple[tuple[str, ...], tuple[str, ...]], Tensor] = field(default_factory=dict)

    def of(self, classes: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
        """Unit [C, T, D]."""
        if (classes, templates) not in self.known:
            self.known[classes, templates] = template_embeddings(
                self.model, classes, templates, batch_size=self.batch_size, world=self.world
            )
        return self.known[classes, templates]


def measure(
    data: EvaluationSet,
    prompts: Prompts,
    options: EvaluateOptions,
    world: World,
    advance: Callable[[int], None] = lambda _: None,
) -> Measured:
    """The model of `prompts` on `data`, the same on every rank. Raises EvaluationError."""
    found = _encoded(data, "parts", prompts, options, world, advance)
    metrics: list[Metric] = []
    classes: list[ClassResult] = []
    confusions: list[Confusion] = []
    alone: list[float] = []
    l2 = None
    is_labelled = found.labels >= 0
    images_ND, labels_N = found.images[is_labelled], found.labels[is_labelled]
    if len(labels_N):
        text_CTD = prompts.of(data.classes, data.templates)
        num_classes = len(data.classes)
        class_CD = F.normalize(text_CTD.mean(dim=1), dim=-1)
        classified = classify(images_ND, class_CD, labels_N)
        metrics += accuracies(classified, labels_N, num_classes, prefix="zeroshot")
        classes, confusions = per_class(classified, labels_N, data.classes)
        if len(data.templates) > 1:
            alone = [_top1(classify(images_ND, text_CD, labels_N)) for text_CD in text_CTD.unbind(dim=1)]
            metrics += template_spread(alone, num_classes)
        if options.probe and data.train:
            train = _encoded(data, "train", prompts, options, world, advance)
            learns, device = train.labels >= 0, prompts.model.device
            # Every rank fits the same: nothing is waited for, and nothing is random.
            own, learnt = probe(
                train.images[learns].to(device),
                train.labels[learns].to(device),
                images_ND.to(device),
                labels_N.to(device),
                num_classes=num_classes,
            )
            metrics += own
            l2 = learnt.l2
    if len(found.owners):
        metrics += retrieval(found.images, found.texts, found.owners)
        metrics.append(clip_score(found.images, found.texts, found.owners))
        if prompts.model.has_decoder:
            metrics += caption_metrics(data.parts, prompts.model, batch_size=options.batch_size, world=world)
    return Measured(
        metrics=metrics,
        classes=classes,
        confusions=confusions,
        templates=list(zip(data.templates, alone, strict=True)) if alone else (),
        probe_l2=l2,
    )


def per_class(found: Classified, labels_N: Tensor, names: Sequence[str]) -> tuple[list[ClassResult], list[Confusion]]:
    """The result of every class, in order, and the confusions, the most frequent first."""
    count = len(names)
    examples = torch.bincount(labels_N, minlength=count).tolist()
    first = torch.bincount(labels_N[found.ranks < 1], minlength=count).tolist()
    among5 = torch.bincount(labels_N[found.ranks < 5], minlength=count).tolist()
    is_wrong = found.predicted != labels_N
    pairs, times = torch.unique(labels_N[is_wrong] * count + found.predicted[is_wrong], return_counts=True)
    confusions = [
        Confusion(
            number=pair // count,
            name=names[pair // count],
            predicted=pair % count,
            predicted_name=names[pair % count],
            count=number,
        )
        for pair, number in zip(pairs.tolist(), times.tolist(), strict=True)
    ]
    confusions.sort(key=lambda each: (-each.count, each.number, each.predicted))
    most: dict[int, Confusion] = {}
    for confusion in confusions:
        most.setdefault(confusion.number, confusion)
    results = []
    for number, name in enumerate(names):
        worst = most.get(number)
        results.append(
            ClassResult(
                number=number,
                name=name,
                examples=examples[number],
                top1=first[number] / examples[number] if examples[number] else None,
                top5=among5[number] / examples[number] if examples[number] else None,
                confused_with=None if worst is None else worst.predicted,
                confused_name=None if worst is None else worst.predicted_name,
                confused=0 if worst is None else worst.count,
            )
        )
    return results, confusions


def _encoded(
    data: EvaluationSet,
    what: str,
    prompts: Prompts,
    options: EvaluateOptions,
    world: World,
    advance: Callable[[int], None],
) -> Encoded:
    return encode_parts(
        data.parts if what == "parts" else data.train,
        prompts.model,
        batch_size=options.batch_size,
        world=world,
        flips=options.flips,
        advance=advance,
    )


def _top1(found: Classified) -> float:
    return float((found.ranks == 0).double().mean())

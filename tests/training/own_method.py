"""A method from outside the trainer, with every kind of term, and the same loss computed plainly.

A CLIP with a head on the pictures' features that predicts the texts' (a sum over samples, divided by weights), a frozen
teacher (constants), a moving average of the head (state that follows), and a question about each picture and a text of
another sample, the likest of the whole batch (a second stage with a hard negative).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.batches import Batch
from training.distributed import World
from training.learning.coupling import everyone
from training.learning.method import Coupled, Method, Output, Rows, Terms
from training.learning.model import Model

WIDTH = 16
"""Of the tiny models' features."""


class Everything(Method):
    """See above."""

    @dataclass(frozen=True, kw_only=True)
    class Options:
        predict_weight: float = 0.5
        momentum: float = 0.9

    init_logit_scale = 1.5

    def heads(self, clip: nn.Module) -> Mapping[str, nn.Module]:
        predictor = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        follower = copy.deepcopy(predictor).requires_grad_(False)
        return {"predictor": predictor, "follower": follower, "judge": nn.Bilinear(WIDTH, WIDTH, 1)}

    def forward(self, model: Model, batch: Batch, *, rows_only: bool = False, known: Rows | None = None) -> Output:
        rows = {"image": model.encode_image(batch.images, batch.keys), "text": model.encode_text(batch.tokens)}
        if rows_only:
            return Output(rows=rows)
        errors_B = (model.head("predictor")(rows["image"]) - rows["text"]).square().sum(1)
        return Output(rows=rows, sums={"predict": self.options.predict_weight * (errors_B * weights_of(batch)).sum()})

    def constants(self, model: Model, batch: Batch) -> Rows:
        return {"teacher": teacher(batch)}

    def coupled(self, model: Model, rows: Rows, constants: Rows, *, world: World, total: int) -> Coupled:
        scale = cast(Any, model.clip).logit_scale.exp()
        image_ND, text_ND = (everyone(rows[name], world, total=total) for name in ("image", "text"))
        first, last = world.share(total)
        teacher_ND = world.gather_rows(constants["teacher"], total=total)
        target_nN = (10 * constants["teacher"] @ teacher_ND.T).softmax(1)
        logits_nN = scale * image_ND[first:last] @ text_ND.T
        distil = -(target_nN * logits_nN.log_softmax(1)).sum() / total
        with torch.no_grad():
            own = torch.arange(first, last)
            hardest_n = logits_nN.masked_fill(F.one_hot(own, total).bool(), -torch.inf).argmax(1)
        return Coupled(terms={"distil": distil}, found={"negative": text_ND.detach()[hardest_n]})

    def second(self, model: Model, batch: Batch, output: Output, found: Rows) -> Terms:
        judge, image_BD = model.head("judge"), output.rows["image"]
        yes, no = judge(image_BD, output.rows["text"]), judge(image_BD, found["negative"])
        return {"judge": F.softplus(-yes).sum() + F.softplus(no).sum()}

    def counts(self, batch: Batch) -> Terms:
        return {"predict": weights_of(batch).sum(), "judge": torch.tensor(2.0 * len(batch), dtype=torch.float64)}

    def after_step(self, model: Model, *, samples_seen: int) -> None:
        pairs = zip(model.head("follower").parameters(), model.head("predictor").parameters(), strict=True)
        for follower, leader in pairs:
            follower.lerp_(leader, 1 - self.options.momentum)


def weights_of(batch: Batch) -> Tensor:
    """[B]: a weight of each sample, by its key."""
    return 1.0 + (batch.keys % 5)


def teacher(batch: Batch) -> Tensor:
    """[B, 4]: unit features that nobody learns."""
    return F.normalize(
        batch.images.double().mean((1, 2)) @ torch.arange(12.0, dtype=torch.float64).view(3, 4).cos(), dim=1
    )


def plain_loss(method: Everything, model: Model, batch: Batch) -> dict[str, Tensor]:
    """The terms over the whole batch, as a textbook has them."""
    image_ND, text_ND = model.encode_image(batch.images, batch.keys), model.encode_text(batch.tokens)
    logits_NN = cast(Any, model.clip).logit_scale.exp() * image_ND @ text_ND.T
    target_NN = (10 * teacher(batch) @ teacher(batch).T).softmax(1)
    hardest_N = (logits_NN.detach() - torch.diag(torch.full((len(batch),), torch.inf))).argmax(1)
    judge = model.head("judge")
    yes, no = judge(image_ND, text_ND), judge(image_ND, text_ND[hardest_N].detach())
    weights_N = weights_of(batch)
    errors_N = (model.head("predictor")(image_ND) - text_ND).square().sum(1)
    return {
        "distil": F.cross_entropy(logits_NN, target_NN),
        "predict": method.options.predict_weight * (errors_N * weights_N).sum() / weights_N.sum(),
        "judge": F.binary_cross_entropy_with_logits(torch.cat([yes, no]), torch.cat([torch.ones_like(yes), 0 * no])),
    }

"""MobileCLIP and MobileCLIP2: a small model learns from pairs and from what strong ones say of the same pairs.

    (1 - weight) x CLIP's loss + weight x distillation, over real texts, and again over synthetic ones

Teachers need not be at hand: their features come from the data set's reinforcements (`data.reinforced`, made by
`python -m training reinforce`), of the very crop and caption that the student sees. With `teacher` a CLIP at hand sees
each batch, which needs no reinforcements and takes its time (open_clip's `DistillClipLoss`).

Vasu et al. 2023, arXiv 2311.17049, section 4; Faghri et al. 2025, arXiv 2508.20691.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds
from training.config import LossConfig
from training.data.batches import Batch
from training.data.taught import SYNTHETIC, num_teachers, teacher_field, teacher_scales
from training.distributed import World
from training.errors import ModelError
from training.learning.coupling import everyone
from training.learning.method import Coupled, Output, Rows
from training.learning.methods.contrastive import Contrastive
from training.learning.methods.distillation.teaching import Taught, distillation_loss
from training.learning.model import Model
from training.learning.similarity import softmax_loss

__all__ = ["Distillation"]

_SCALES = "teacher_scales"
_PROBES = ["a photo of a cat", "Zürich, 1984: 2 × éclairs & a naïve robot's umbrella"]
"""Two tokenizers that agree on these are taken for one."""


class Distillation(Contrastive):
    """See above. Student and teachers are compared by the softmax of their similarities, so `loss.name` is softmax."""

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Of the method."""

        weight: Annotated[float, Bounds(least=0, most=1)] = 1.0
        """Of the distillation, from 0 to 1; CLIP's loss has the rest. MobileCLIP has 1 for its S models, 0.75 for B."""
        synthetic_weight: Annotated[float, Bounds(least=0)] = 1.0
        """Of both losses over the synthetic captions, beside 1 for the real ones; without reinforcements that hold some
        it has no say."""
        teacher: str | None = None
        """A CLIP that sees each batch, as `python -m training embed` takes it: a run, an export, NAME:FILE, NAME:TAG.
        It must have the student's picture size and tokens. Null: teachers are those of the reinforcements."""
        teacher_scales: tuple[Annotated[float, Bounds(above=0)], ...] = ()
        """What each teacher's similarities are multiplied by: the inverse of its temperature; empty for their own
        logit scales. MobileCLIP2 has 70 and 60 for two teachers of DFN."""

        def __post_init__(self) -> None:
            check_bounds(self)
            if self.teacher is not None and len(self.teacher_scales) > 1:
                raise ConfigError(f"teacher is one, and teacher_scales has {len(self.teacher_scales)} numbers")

    options: Options

    def __init__(self, options: Any, loss: LossConfig) -> None:
        super().__init__(options, loss)
        if loss.name != "softmax":
            raise ConfigError(f"method distillation goes with loss.name softmax, and it is {loss.name}")
        if loss.label_smoothing:
            raise ConfigError("loss.label_smoothing is of method contrastive; leave it out")
        self._teacher: Model | None = None

    @property
    def needs_reinforcements(self) -> bool:
        """Whether the teachers are those of `data.reinforced`."""
        return self.options.teacher is None

    def check_reinforced(self, teachers: int | None) -> None:
        """Raises ConfigError without teachers, or where `teacher_scales` are not as many."""
        if self.options.teacher is not None:
            return
        if teachers is None:
            raise ConfigError(
                "method distillation learns from teachers: name reinforcements of the data with --data.reinforced "
                "(`python -m training reinforce` makes them), or a CLIP with --method.options.teacher"
            )
        scales = len(self.options.teacher_scales)
        if scales not in (0, teachers):
            raise ConfigError(
                f"method.options.teacher_scales has {scales} numbers, and there are {teachers} teachers; give one for "
                "each, in the order of the reinforcements, or none"
            )

    def check(self, model: Model) -> None:
        """Raises ModelError where the teacher at hand is none, or does not see what `model` sees."""
        if self.options.teacher is None:
            return
        teacher = self._teacher_for(model)
        what = f"method.options.teacher: {self.options.teacher}"
        remedy = "take another teacher, or make reinforcements with it (docs/reinforce.md), which take any"
        if teacher.image_size != model.image_size:
            raise ModelError(
                f"{what} sees pictures of {teacher.image_size} px, and {model.name} of {model.image_size}; {remedy}"
            )
        own, other = model.tokenizer, teacher.tokenizer
        if own.context_length != other.context_length or not torch.equal(own(_PROBES), other(_PROBES)):
            raise ModelError(f"{what} has other tokens than {model.name}; {remedy}")

    def forward(self, model: Model, batch: Batch, *, rows_only: bool = False, known: Rows | None = None) -> Output:
        """Unit features, [B, D] each: `image`, `text`, and `synthetic` where there are such texts."""
        output = super().forward(model, batch, rows_only=rows_only, known=known)
        if not self.options.synthetic_weight or SYNTHETIC not in batch.fields:
            return output
        return Output(rows={**output.rows, SYNTHETIC: model.encode_text(batch.fields[SYNTHETIC])})

    def constants(self, model: Model, batch: Batch) -> Rows:
        """The teachers' features of what the student sees, and their scales [B, T]."""
        if not self.options.weight:
            return {}
        if self.options.teacher is not None:
            return self._seen_by_teacher(model, batch)
        found = {
            teacher_field(what, number): batch.fields[teacher_field(what, number)]
            for number in range(num_teachers(batch.fields))
            for what in ("image", "text", SYNTHETIC)
            if teacher_field(what, number) in batch.fields
        }
        return {**found, _SCALES: teacher_scales(batch.fields)}

    def coupled(self, model: Model, rows: Rows, constants: Rows, *, world: World, total: int) -> Coupled:
        """This rank's pictures against the texts of all, of student and teachers."""
        scale = cast(Any, model.clip).logit_scale.exp()
        first, _ = world.share(total)
        image_nD = self._kept(rows["image"])
        terms: dict[str, Tensor] = {}
        for what, weight in (("text", 1.0), (SYNTHETIC, self.options.synthetic_weight)):
            if what not in rows:
                continue
            text_ND = everyone(self._kept(rows[what]), world, total=total)
            name = "" if what == "text" else f"_{what}"
            if self.options.weight < 1:
                terms[f"contrastive{name}"] = (weight * (1 - self.options.weight)) * softmax_loss(
                    image_nD, text_ND, scale, first=first, tile=self.loss.chunk_rows, logsumexp=world.logsumexp
                )
            if self.options.weight > 0:
                taught = self._taught(constants, what, world, total)
                terms[f"distillation{name}"] = (weight * self.options.weight) * distillation_loss(
                    image_nD, text_ND, scale, taught, tile=self.loss.chunk_rows, logsumexp=world.logsumexp
                )
        return Coupled(terms=terms)

    def _kept(self, features: Tensor) -> Tensor:
        return features.bfloat16() if self.loss.features == "bf16" else features

    def _taught(self, constants: Rows, what: str, world: World, total: int) -> Sequence[Taught]:
        scales = self._scales(constants[_SCALES])
        return [
            Taught(
                image=constants[teacher_field("image", number)],
                text=world.gather_rows(constants[teacher_field(what, number)], total=total),
                scale=scale,
            )
            for number, scale in enumerate(scales)
        ]

    def _scales(self, own_nT: Tensor) -> Sequence[Tensor]:
        """A scalar for each teacher: those of the options, or their own."""
        if not self.options.teacher_scales:
            return own_nT[0].unbind()
        # Each made on the device: a tensor of them all would be copied there, and waited for.
        return [own_nT.new_full((), scale) for scale in self.options.teacher_scales]

    def _teacher_for(self, model: Model) -> Model:
        """The teacher at hand, beside `model`; loaded once."""
        if self._teacher is None:
            from training.learning.pretrained import load_model  # which knows methods

            device: Any = model.device.type
            try:
                self._teacher = load_model(cast(str, self.options.teacher), device=device, precision=model.precision)
            except ModelError as error:
                raise ModelError(f"method.options.teacher: {error}") from error
        return self._teacher

    def _seen_by_teacher(self, model: Model, batch: Batch) -> Rows:
        teacher = self._teacher_for(model)
        scale = cast(Any, teacher.clip).logit_scale.exp()
        with teacher.evaluating():
            texts = {"text": batch.tokens}
            if SYNTHETIC in batch.fields:
                texts[SYNTHETIC] = batch.fields[SYNTHETIC]
            return {
                teacher_field("image", 0): teacher.encode_image(batch.images),
                **{
                    teacher_field(what, 0): teacher.encode_text(_padded(tokens, teacher))
                    for what, tokens in texts.items()
                },
                _SCALES: scale.detach().reshape(1, 1).expand(len(batch), 1),
            }


def _padded(tokens_BL: Tensor, teacher: Model) -> Tensor:
    """As long as a teacher wants them whose texts cannot be cut."""
    missing = 0 if teacher.can_trim else teacher.tokenizer.context_length - tokens_BL.shape[1]
    return F.pad(tokens_BL, (0, missing)) if missing > 0 else tokens_BL

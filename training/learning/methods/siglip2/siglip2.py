"""SigLIP 2 (arXiv 2502.14786): SigLIP's loss, captions written from the picture's tokens, and in the last fifth what a
moving average of the image tower says of the whole picture, asked of its parts.

    pictures, texts --> sigmoid over the batch                                       the whole run
    tokens of pictures --decoder--> captions, half of them all at once               (section 2.2)
    8 views of a part --student, head--> the teacher's of the whole picture          from 80 % on
    half of the patches masked --student, head--> the teacher's of these patches     (section 2.3)

Before the last fifth the teacher and its heads lie there, and nothing is computed of them; when it begins, the teacher
is the student as it is then. How far the run is is told by `before_step`, so a resumed run begins it at the same step.

Shapes: B pictures, P patches of each, M of them masked, V views, W = the image tower's width, D = embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds
from training.config import LossConfig
from training.data.batch import Batch
from training.distributed import World
from training.errors import ModelError
from training.learning.captioning import caption_tokens
from training.learning.keyed import draws
from training.learning.method import Coupled, Output, Rows, Terms
from training.learning.methods.contrastive import Contrastive
from training.learning.methods.siglip2.caption_decoder import IGNORED, CaptionDecoder, labels_of
from training.learning.methods.siglip2.self_distillation import MaskToken, Matched, SelfDistillation, Still, follow
from training.learning.methods.siglip2.token_tower import give_tokens
from training.learning.methods.siglip2.views import local_views
from training.learning.model import Model

__all__ = ["Siglip2"]

_PARALLEL, _MASKED = 2, 3
"""Purposes of draws; views have the first."""


class Siglip2(Contrastive):
    """See above."""

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Weights and sizes. Those that the paper leaves to SILC (arXiv 2310.13355) are DINO's (arXiv 2104.14294),
        whose loss SILC takes."""

        caption_weight: Annotated[float, Bounds(least=0)] = 1.0
        """Of the captions, beside 1 for the sigmoid (section 2.2: equal)."""
        decoder_layers: Annotated[int, Bounds(least=1)] | None = None
        """Null for half of the text tower's (section 2.2)."""
        parallel: Annotated[float, Bounds(least=0, most=1)] = 0.5
        """Share of the captions that are predicted all at once (section 2.2)."""
        begins_at: Annotated[float, Bounds(least=0, most=1)] = 0.8
        """Share of the run after which the two losses of the teacher begin (section 2.3); 1 for never."""
        ramp: Annotated[float, Bounds(least=0, most=1)] = 0.0
        """Share of the run over which they rise from 0 to their weights, in a line; 0 for at once, since the paper
        tells of no ramp."""
        distil_weight: Annotated[float, Bounds(least=0)] = 1.0
        """Of parts against the whole (section 2.3)."""
        masked_weight: Annotated[float, Bounds(least=0)] = 0.25
        """Of masked patches (section 2.3)."""
        size_factor: Annotated[float, Bounds(least=0)] = 0.25
        """Of both: 0.25 for B, 0.5 for L, 1 for So400m, 0.5 for g (section 2.3)."""
        views: Annotated[int, Bounds(least=1)] = 8
        """Parts of each picture that the student sees (section 2.3)."""
        view_size: Annotated[int, Bounds(least=1)] = 96
        """Their side in pixels, a multiple of the patches' (DINO's)."""
        min_view_area: Annotated[float, Bounds(above=0, most=1)] = 0.05
        """The least share of the picture that one covers (SILC)."""
        max_view_area: Annotated[float, Bounds(above=0, most=1)] = 0.4
        """The largest (SILC)."""
        masked: Annotated[float, Bounds(least=0, most=1)] = 0.5
        """Share of the patches that are masked (section 2.3)."""
        momentum: Annotated[float, Bounds(least=0, most=1)] = 0.996
        """Share of itself that the teacher keeps at each step: where DINO's begins, and as SILC has it it stays so."""
        prototypes: Annotated[int, Bounds(least=1)] = 65_536
        """What pictures and patches are compared with (DINO's)."""
        head_width: Annotated[int, Bounds(least=1)] = 2048
        """Of the hidden layers before them (DINO's)."""
        head_output: Annotated[int, Bounds(least=1)] = 256
        """Width of the vectors that are compared (DINO's)."""

        def __post_init__(self) -> None:
            check_bounds(self)
            if self.min_view_area > self.max_view_area:
                raise ConfigError(
                    f"min_view_area must not exceed max_view_area, got {self.min_view_area} and {self.max_view_area}"
                )

    options: Options

    def __init__(self, options: Any, loss: LossConfig) -> None:
        super().__init__(options, loss)
        if loss.name != "sigmoid":
            raise ConfigError(
                f"method.name: siglip2 goes with the sigmoid loss, got {loss.name}; set loss.name: sigmoid"
            )
        # Where the run is, as `before_step` says.
        self._seen_before, self._start = 0, 0.0
        self._share = 1.0
        """Of their weights that the losses of the last fifth have now."""
        self._is_late = options.begins_at < 1
        # What the step finds for `after_step`.
        self._world = World()
        self._centres: dict[str, Tensor] = {}
        """By head: [K + 1], the teacher's logits summed over what this rank has seen, and how many rows that was."""

    def heads(self, clip: nn.Module) -> Mapping[str, nn.Module]:
        """The decoder; the teacher, and the heads that compare it with the student."""
        tower = give_tokens(clip, why="method.name: siglip2")
        trunk = cast(Any, tower.trunk)
        text = cast(Any, getattr(clip, "text", clip))
        if not isinstance(getattr(text, "token_embedding", None), nn.Embedding):
            raise ModelError(
                "method.name: siglip2 makes its decoder like open_clip's text tower, and this model's is of "
                "transformers; take a model such as ViT-B-16-SigLIP2-256"
            )
        patch = trunk.patch_embed.patch_size[0]
        if self.options.view_size % patch:
            raise ConfigError(
                f"method.options: view_size {self.options.view_size} is no multiple of the {patch} pixels of a patch"
            )
        layers = text.transformer.resblocks
        made: dict[str, nn.Module] = {
            "decoder": CaptionDecoder(
                vocabulary=text.token_embedding.num_embeddings,
                context_length=text.context_length,
                width=text.token_embedding.embedding_dim,
                heads=layers[0].attn.num_heads,
                layers=self.options.decoder_layers or max(1, len(layers) // 2),
                image_width=trunk.embed_dim,
            )
        }
        if self.options.begins_at == 1:
            return made
        sizes = {
            "prototypes": self.options.prototypes,
            "hidden": self.options.head_width,
            "bottleneck": self.options.head_output,
        }
        above = [module for module in tower.head.modules() if isinstance(module, nn.Linear)]
        width = above[-1].out_features if above else trunk.num_features
        return made | {
            "teacher": Still(tower),
            "mask": MaskToken(trunk.embed_dim),
            "distil": SelfDistillation(width, **sizes),
            "masked": SelfDistillation(trunk.embed_dim, **sizes),
        }

    def before_step(self, model: Model, *, samples_seen: int, total: int) -> None:
        """Whether the last fifth has begun, and how much its losses count."""
        if model.image_is_locked:
            raise ConfigError(
                "model.lock_image: siglip2 trains the image tower; leave it out, or take method contrastive"
            )
        start, over = self.options.begins_at * total, self.options.ramp * total
        self._start, self._seen_before = start, samples_seen
        self._is_late = self.options.begins_at < 1 and samples_seen >= start
        self._share = min(1.0, (samples_seen - start) / over) if over else 1.0
        self._centres = {}

    def forward(self, model: Model, batch: Batch, *, rows_only: bool = False, known: Rows | None = None) -> Output:
        """Unit features, `image` and `text`, [B, D] each; captions, parts and masked patches, summed."""
        text_BD = model.encode_text(batch.tokens)  # first: a sharded model wakes up by what goes through its root
        image_BD, tokens_BPW = model.encode_image_and_tokens(batch.images, batch.keys)
        if rows_only:
            return Output(rows={"image": image_BD, "text": text_BD})
        sums = {"caption": self._captions(model, batch, tokens_BPW)}
        if self.options.begins_at < 1:
            zero = image_BD.new_zeros(())
            sums |= self._late(model, batch) if self._is_late else {"distil": zero, "masked": zero}
        return Output(rows={"image": image_BD, "text": text_BD}, sums=sums)

    def coupled(self, model: Model, rows: Rows, constants: Rows, *, world: World, total: int) -> Coupled:
        """SigLIP's."""
        self._world = world
        return super().coupled(model, rows, constants, world=world, total=total)

    def counts(self, batch: Batch) -> Terms:
        """Tokens of captions, and pictures."""
        pictures = torch.full((), float(len(batch)), device=batch.tokens.device)
        tokens = caption_tokens(labels_of(batch.tokens), ignore=IGNORED)
        return {"caption": tokens, "distil": pictures, "masked": pictures}

    def after_step(self, model: Model, *, samples_seen: int) -> None:
        """The scale below its limit; the teacher and the centres behind the step."""
        super().after_step(model, samples_seen=samples_seen)
        if self.options.begins_at == 1:
            return
        begins_next = self._seen_before < self._start <= samples_seen
        if not (self._is_late or begins_next):
            return
        # Until it begins the teacher is not moved: then it is the student.
        momentum = self.options.momentum if self._is_late else 0.0
        follow(model.head("teacher"), cast(nn.Module, model.clip.visual), momentum)
        for name in ("distil", "masked"):
            head = cast(SelfDistillation, model.head(name))
            follow(head.teacher, head.student, momentum)
            if self._is_late:  # every rank comes here after the step's own sums, in one order
                seen = self._world.sum_(self._centres[name])
                head.move_centre(seen[:-1] / seen[-1])
        self._centres = {}

    def _captions(self, model: Model, batch: Batch, tokens_BPW: Tensor) -> Tensor:
        """Cross-entropy of the captions, summed over their tokens."""
        labels_BL = labels_of(batch.tokens)
        # Cut texts are as long as the longest of the batch, and one that is predicted at once sees its length.
        missing = model.tokenizer.context_length - labels_BL.shape[1]
        labels_BL = F.pad(labels_BL, (0, missing), value=IGNORED)
        is_parallel_B = draws(batch.keys, 1, purpose=_PARALLEL)[:, 0] < self.options.parallel
        with model.autocast():
            value: Tensor = model.head("decoder")(tokens_BPW, labels_BL, is_parallel_B)
        return self.options.caption_weight * value

    def _late(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """What the student says of parts and of masked patches, held against the teacher."""
        options, tower = self.options, cast(Any, model.clip).visual
        pixels_BCHW = model.pixels(batch.images)
        views = local_views(
            pixels_BCHW,
            batch.keys,
            count=options.views,
            size=options.view_size,
            min_area=options.min_view_area,
            max_area=options.max_view_area,
        )
        with model.autocast():
            teacher_BD, teacher_BPW = cast(Any, model.head("teacher"))(pixels_BCHW, tokens=True, drops=False)
            part_ND, _ = tower(views, tokens=True, drops=False)
            part_BVD = part_ND.unflatten(0, (len(batch), options.views))
            distil: Matched = model.head("distil")(part_BVD, teacher_BD)

            chosen_BM = _masked_patches(batch.keys, teacher_BPW.shape[1], options.masked)
            mask_BP = torch.zeros(teacher_BPW.shape[:2], dtype=torch.bool, device=chosen_BM.device)
            mask_BP = mask_BP.scatter(1, chosen_BM, True)
            _, student_BPW = tower(
                pixels_BCHW, tokens=True, drops=False, mask_BP=mask_BP, mask_token=model.head("mask")()
            )
            # [B * M, 1, W] and [B * M, W]
            asked_NVW, known_NW = _rows(student_BPW, chosen_BM)[:, None], _rows(teacher_BPW, chosen_BM)
            masked: Matched = model.head("masked")(asked_NVW, known_NW)
        self._see("distil", distil, len(batch))
        self._see("masked", masked, chosen_BM.numel())
        weight = options.size_factor * self._share
        return {
            "distil": weight * options.distil_weight / options.views * distil.loss,
            "masked": weight * options.masked_weight / chosen_BM.shape[1] * masked.loss,
        }

    def _see(self, name: str, found: Matched, rows: int) -> None:
        """Keep what the centre of a head will follow."""
        value = F.pad(found.centre.detach(), (0, 1), value=float(rows))
        self._centres[name] = self._centres[name] + value if name in self._centres else value


def _masked_patches(keys_B: Tensor, patches: int, share: float) -> Tensor:
    """int64[B, M]: which are masked, at least one."""
    order = draws(keys_B, patches, purpose=_MASKED).argsort(dim=1)
    return order[:, : max(1, round(share * patches))]


def _rows(x_BPW: Tensor, chosen_BM: Tensor) -> Tensor:
    """[B * M, W]: those of the chosen patches."""
    return x_BPW.gather(1, chosen_BM[..., None].expand(-1, -1, x_BPW.shape[-1])).flatten(0, 1)

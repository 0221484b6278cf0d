"""BLIP (Li et al. 2022, arXiv 2201.12086): contrast, matching and captions, with one text tower for all three.

    image tower --feature--> contrast with features of moving averages: the batch's and a queue's (`momentum_queue.py`)
        |                       | softmax of the similarities, drawn by key (`hard_pairs.py`)
        |                       v
        +--tokens--> text tower that looks at them (`grounding.py`) --> match: own pair, hard text, hard picture
        +--tokens--> the same as decoder                            --> language: the caption, token by token

A text and its hard picture are judged where the picture is: token ids travel between ranks, tokens of pictures do not,
and the gradient reaches the picture's tower all the same. Figures are those of `blip_pretrain.py` and `pretrain.py` in
salesforce/BLIP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds
from training.config import LossConfig
from training.data.batch import Batch, trim
from training.distributed import World
from training.errors import ModelError
from training.learning.captioning import caption_sum, caption_tokens
from training.learning.marks import PADDING, marks_of
from training.learning.method import Coupled, Method, Output, Rows, Terms
from training.learning.methods.blip.grounding import Grounding
from training.learning.methods.blip.hard_pairs import keyed_choice, negative_weights
from training.learning.methods.blip.image_tokens import feature_and_tokens, token_width, unit_features
from training.learning.methods.blip.momentum_queue import Follower, Queue, soft_contrast
from training.learning.model import Model

__all__ = ["Blip"]

_TEMPERATURE = 0.07
"""`temp`, learnt; clamped to [0.001, 0.5] there."""
_LEAST_SCALE = 1 / 0.5
_HARD_TEXT, _HARD_PICTURE = 1, 2
"""What keeps the two draws of a sample apart."""


class Blip(Method):
    """Three losses of equal weight: `contrast`, `match` and `language`."""

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """BLIP's own figures, but for the ramp, which it counts in epochs."""

        queue: Annotated[int, Bounds(least=1)] = 57_600
        """Features of earlier samples that each one is told apart from, beside those of its batch."""
        momentum: Annotated[float, Bounds(least=0, below=1)] = 0.995
        """How much of the moving averages stays at each step."""
        alpha: Annotated[float, Bounds(least=0, most=1)] = 0.4
        """Share of the targets that is what the moving averages say themselves."""
        ramp_samples: Annotated[int, Bounds(least=0)] = 0
        """Samples over which `alpha` rises from 0; BLIP's first two epochs."""
        label_smoothing: Annotated[float, Bounds(least=0, below=1)] = 0.1
        """Of the captions' tokens (`med.py` there)."""

        def __post_init__(self) -> None:
            check_bounds(self)

    def __init__(self, options: Any, loss: LossConfig) -> None:
        super().__init__(options, loss)
        if loss.name != "softmax" or loss.label_smoothing or loss.features != "fp32":
            raise ConfigError(
                "method.name: blip contrasts by a softmax with soft targets of its own; leave loss.name, "
                "loss.label_smoothing and loss.features as they are"
            )
        self.init_logit_scale = -math.log(loss.init_temperature or _TEMPERATURE)
        self._arrived: tuple[Tensor, Tensor] | None = None
        """The moving averages' features of a whole batch, until its step is taken."""

    def heads(self, clip: nn.Module) -> Mapping[str, nn.Module]:
        """The grounding of the text tower, the moving averages of both towers, the queue. Raises ModelError."""
        text = _text(clip)
        width = token_width(cast(nn.Module, clip.visual), what="method.name: blip")
        return {
            "grounding": Grounding(text, width),
            "follower": Follower(_towers(clip)),
            "queue": Queue(self.options.queue, int(text.output_dim)),
        }

    def check(self, model: Model) -> None:
        """Raises ModelError for weights that are cut over ranks, and a tokenizer that does not bound its texts."""
        super().check(model)
        if model.is_sharded:
            raise ModelError(
                "method.name: blip uses the text tower's layers in three ways, of which sharded weights know one; set "
                "--distributed ddp"
            )
        marks_of(model.tokenizer, model.name)

    def forward(self, model: Model, batch: Batch, *, rows_only: bool = False, known: Rows | None = None) -> Output:
        """Unit features `image` and `text` [B, D]; with the caption's loss also `tokens` [B, P, I], which `second`
        looks at."""
        image_BD, picture_BPI = feature_and_tokens(model, batch.images, batch.keys)
        rows = {"image": image_BD, "text": model.encode_text(batch.tokens)}
        if rows_only:
            return Output(rows=rows)
        text, tokens_BL = _text(model.clip), _short(batch.tokens)
        with model.autocast():
            logits = _grounding(model).decode(text, tokens_BL[:, :-1], picture_BPI)
        value = caption_sum(logits, tokens_BL[:, 1:], ignore=PADDING, label_smoothing=self.options.label_smoothing)
        return Output(rows={**rows, "tokens": picture_BPI}, sums={"language": value})

    def constants(self, model: Model, batch: Batch) -> Rows:
        """What the moving averages make of the samples, and what draws negatives."""
        follower = cast(Any, model.head("follower"))
        image_BD, text_BD = unit_features(model, follower.image, follower.text, batch.images, batch.tokens)
        return {"image": image_BD, "text": text_BD, "key": batch.keys, "tokens": batch.tokens}

    def coupled(self, model: Model, rows: Rows, constants: Rows, *, world: World, total: int) -> Coupled:
        """Contrast of this rank's samples, and of each its hard text, and the texts whose hard picture it is."""
        queue = cast(Queue, model.head("queue"))
        scale = cast(Any, model.clip).logit_scale.exp()
        first, last = world.share(total)
        image_ND, text_ND = (world.gather_rows(constants[name], total=total) for name in ("image", "text"))
        self._arrived = image_ND, text_ND
        alpha = self._alpha(queue)
        choices = (
            ("image", torch.cat([text_ND, queue.text])),
            ("text", torch.cat([image_ND, queue.image])),
        )
        sums = [
            soft_contrast(
                rows[name], constants[name], every_MD, scale, alpha=alpha, first=first, tile=self.loss.chunk_rows
            )
            for name, every_MD in choices
        ]
        with torch.no_grad():
            tokens_NL = world.gather_rows(constants["tokens"], total=total)
            logits = [scale * rows["image"] @ text_ND.T, scale * rows["text"] @ image_ND.T]
            texts_n, pictures_n = (
                keyed_choice(negative_weights(each, first=first), constants["key"], salt=salt)
                for each, salt in zip(logits, (_HARD_TEXT, _HARD_PICTURE), strict=True)
            )
            asked = _asked(world.gather_rows(pictures_n, total=total), tokens_NL, first=first, last=last)
        found = {"hard_text": tokens_NL[texts_n], **asked}
        return Coupled(terms={"contrast": (sums[0] + sums[1]) / (2 * total)}, found=found)

    def second(self, model: Model, batch: Batch, output: Output, found: Rows) -> Terms:
        """Whether a picture and a text are a pair: the own text, its hard text, and those that ask for the picture."""
        picture_BPI, asked_BKL = output.rows["tokens"], found["asked"]
        places = torch.arange(asked_BKL.shape[1], device=asked_BKL.device)
        total = int(found["asked_read"].sum())
        rows, which = (places < found["asked_count"][:, None]).nonzero_static(size=total).unbind(1)
        own = torch.arange(len(batch), device=rows.device)
        tokens_ML = torch.cat([batch.tokens, found["hard_text"], asked_BKL[rows, which]])
        return {"match": self._judged(model, tokens_ML, picture_BPI[torch.cat([own, own, rows])], pairs=len(batch))}

    def rehearse(self, model: Model, batch: Batch) -> None:
        """As `second` with three pairs a sample, here all with the own text, since none has content to be found by."""
        picture_BPI = self.forward(model, batch).rows["tokens"]
        self._judged(model, batch.tokens.repeat(3, 1), picture_BPI.repeat(3, 1, 1), pairs=len(batch))

    def _judged(self, model: Model, tokens_ML: Tensor, picture_MPI: Tensor, *, pairs: int) -> Tensor:
        """Cross-entropy of M texts and pictures, of which the first `pairs` are pairs, summed."""
        grounding = _grounding(model)
        with model.autocast():
            seen_MW = grounding.encode(_text(model.clip), _short(tokens_ML), picture_MPI)
            logits_M2 = grounding.match(seen_MW)
        wide = torch.promote_types(logits_M2.dtype, torch.float32)
        is_pair_M = (torch.arange(len(tokens_ML), device=tokens_ML.device) < pairs).long()
        return F.cross_entropy(logits_M2.to(wide), is_pair_M, reduction="sum")

    def counts(self, batch: Batch) -> Terms:
        """Three pairs a sample are judged, over the whole batch; tokens after the first are written."""
        pairs = torch.full((), 3.0 * len(batch), dtype=torch.float64, device=batch.tokens.device)
        return {"match": pairs, "language": caption_tokens(batch.tokens[:, 1:], ignore=PADDING)}

    def after_step(self, model: Model, *, samples_seen: int) -> None:
        """The scale is clamped, the moving averages follow, the batch's features enter the queue."""
        clip = cast(Any, model.clip)
        clip.logit_scale.clamp_(math.log(_LEAST_SCALE), math.log(self.loss.max_logit_scale))
        cast(Follower, model.head("follower")).follow(_towers(clip), momentum=self.options.momentum)
        queue = cast(Queue, model.head("queue"))
        if self._arrived is not None:
            queue.push(*self._arrived)
            self._arrived = None
        queue.samples_seen.fill_(samples_seen)

    def _alpha(self, queue: Queue) -> Tensor:
        """Scalar: the share of the targets that is not the own pair, at this step."""
        done = queue.samples_seen.to(queue.image.dtype) / max(1, self.options.ramp_samples)
        risen = done.clamp(max=1) if self.options.ramp_samples else torch.ones_like(done)
        return risen * float(self.options.alpha)


def _asked(pictures_N: Tensor, tokens_NL: Tensor, *, first: int, last: int) -> Rows:
    """For pictures `first` to `last`, n of them: `asked` int64[n, K, L], the tokens of the texts that have drawn each,
    in the texts' order; `asked_count` int64[n], how many there are, and `asked_read`, the same for the host. K is the
    most that one has. `pictures_N` int64[N]: which each text has drawn.

    How many texts a rank judges is what its pictures were drawn for, so here a GPU is waited for, once a step.
    """
    own = torch.arange(first, last, device=pictures_N.device)
    drawn_nN = pictures_N == own[:, None]
    count_n = drawn_nN.sum(1)
    read_n = count_n.cpu()
    # Those that drew it first, in their order: sorting is stable.
    texts_nN = drawn_nN.to(torch.int8).sort(dim=1, descending=True, stable=True).indices
    return {"asked": tokens_NL[texts_nN[:, : int(read_n.max())]], "asked_count": count_n, "asked_read": read_n}


def _text(clip: nn.Module) -> Any:
    """The text tower. Raises ModelError where it is none that can be grounded."""
    text: Any = getattr(clip, "text", None)
    if not hasattr(getattr(text, "transformer", None), "resblocks"):
        raise ModelError(_NEEDS)
    is_plain = getattr(text, "attn_mask", None) is None and getattr(text, "cls_emb", None) is None
    if not (is_plain and text.pool_type == "first" and text.pad_id == PADDING):
        raise ModelError(_NEEDS)
    return text


_NEEDS = (
    "method.name: blip needs a text tower that sees whole texts: in the model's JSON custom_text true, and in text_cfg "
    "no_causal_mask true, pool_type first (configs/train/models/blip-vit-b-16.json)"
)


def _towers(clip: nn.Module) -> dict[str, nn.Module]:
    """What the moving averages follow."""
    return {"image": cast(nn.Module, clip.visual), "text": cast(nn.Module, clip.text)}


def _grounding(model: Model) -> Grounding:
    return cast(Grounding, model.head("grounding"))


def _short(tokens_BL: Tensor) -> Tensor:
    """Without columns that are padding alone, at least two; on a GPU that would have to be waited for."""
    if tokens_BL.device.type != "cpu" or type(tokens_BL) is not Tensor:  # a plan's have no content
        return tokens_BL
    return tokens_BL[:, : max(2, trim(tokens_BL).shape[1])]

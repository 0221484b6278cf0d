"""BLIP-2, second stage (Li et al. 2023, arXiv 2301.12597, section 3.3): what the queries see, told to a language model.

    locked tower --tokens--> Q-Former of the first stage --projection--> soft prompts --\\
                                                         caption's tokens --their inputs--> locked language model
                                                                                              --> the caption's tokens

Q-Former and projection learn, through a model that does not. That one is held beside open_clip's, whole on each
process: it is neither saved with a checkpoint nor sharded, and is read again from its directory when a run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.bounds import Bounds
from configs.load import ConfigError
from training.config import LossConfig
from training.data.batches import Batch, Tokenizer
from training.errors import ModelError
from training.learning.captioning import caption_sum, caption_tokens
from training.learning.method import Method, Output, Rows, Terms
from training.learning.methods.blip2.first_stage import QFormerOptions, lock_unused
from training.learning.methods.blip2.language_model import LanguageModel, load_language_model, words_of
from training.learning.methods.blip2.locked_tokens import check_locked, locked_tokens, token_width
from training.learning.methods.blip2.qformer import QFormer
from training.learning.model import Model
from training.learning.tokenizer import num_tokens

__all__ = ["LanguageStage"]

_WHAT = "method.name: qformer_lm"
_NOTHING = -1
"""The label of a place where nothing is to be said."""


class LanguageStage(Method):
    """`captions`: the mean cross-entropy of the captions' tokens, as the language model says them."""

    @dataclass(frozen=True, kw_only=True)
    class Options(QFormerOptions):
        """The shape, which is the first stage's, and the language model."""

        language_model: str
        """Its directory: transformers' (config.json), or a decoder of ours (decoder.json)."""
        language_model_width: Annotated[int, Bounds(least=1)]
        """Of its inputs; known without it, for a plan."""

    not_in_towers = "it tells pictures to a language model, and has no features"
    inherits = ("qformer",)
    embeds = False
    init_logit_scale = 0.0

    def __init__(self, options: Any, loss: LossConfig) -> None:
        super().__init__(options, loss)
        if loss != LossConfig():
            raise ConfigError(f"{_WHAT} tells no pictures from texts; leave the section loss out")
        self._language_model: LanguageModel | None = None
        self._texts: _Texts | None = None

    def heads(self, clip: nn.Module) -> Mapping[str, nn.Module]:
        """The Q-Former without what reads texts, and the projection. Raises ModelError."""
        lock_unused(clip)
        o = self.options
        qformer = QFormer(
            queries=o.queries, width=o.width, layers=o.layers, heads=o.heads, cross_every=o.cross_every,
            picture_width=token_width(cast(nn.Module, clip.visual), what=_WHAT),
        )  # fmt: skip
        return {"qformer": qformer, "projection": nn.Linear(o.width, o.language_model_width)}

    def check(self, model: Model) -> None:
        """Read the language model. Raises ModelError where it, its width or its vocabulary does not fit."""
        check_locked(model, what=_WHAT)
        model.embedder = _NoFeatures()
        model.captioner = _Greedy(self, model)
        if model.device.type == "meta":  # for a plan
            self._texts = _Texts(start=None, end=_NOTHING, padding=0)
            return
        o, path = self.options, self.options.language_model
        dtype = torch.bfloat16 if model.precision == "bf16" else model.mean_C11.dtype
        found = load_language_model(path, device=model.device, dtype=dtype)
        if found.width != o.language_model_width:
            raise ModelError(
                f"language_model: {path} takes inputs of width {found.width}; set "
                f"method.options.language_model_width to that, it is {o.language_model_width}"
            )
        if (tokens := num_tokens(model.tokenizer)) > found.vocab_size:
            raise ModelError(
                f"language_model: {path} knows {found.vocab_size:,} tokens, and texts come in {tokens:,}; set "
                "--model.tokenizer to the language model's own"
            )
        longest = o.queries + model.tokenizer.context_length
        if found.context_length is not None and found.context_length < longest:
            raise ModelError(
                f"language_model: {path} reads {found.context_length} tokens, and {o.queries} queries with a text of "
                f"{model.tokenizer.context_length} are {longest}; set text_cfg.context_length in the model's JSON lower"
            )
        self._language_model = found
        self._texts = _Texts.of(model.tokenizer, end=found.end)

    def forward(self, model: Model, batch: Batch, *, rows_only: bool = False, known: Rows | None = None) -> Output:
        """The captions' loss; there are no rows."""
        if rows_only:
            return Output(rows={})
        prompts_BQW = self._prompts(model, batch.images)
        language_model = self._language_model
        if language_model is None:  # for a plan
            return Output(rows={}, sums={"captions": prompts_BQW.sum()})
        # The last prompt's logits are of the first token.
        labels = F.pad(self._labels(batch.tokens), (self.options.queries - 1, 0), value=_NOTHING)
        # What nobody asks for is not said; on a GPU that would have to be waited for.
        asked_M = (labels != _NOTHING).flatten().nonzero()[:, 0] if labels.device.type == "cpu" else None
        with model.autocast():
            inputs_BLW = language_model.inputs_of(batch.tokens[:, :-1])
            inputs_BSW = torch.cat([prompts_BQW.to(language_model.dtype), inputs_BLW], dim=1)
            logits = language_model.logits(inputs_BSW, asked_M)
        labels = labels if asked_M is None else labels.flatten()[asked_M]
        return Output(rows={}, sums={"captions": caption_sum(logits, labels, ignore=_NOTHING)})

    def counts(self, batch: Batch) -> Terms:
        """The captions' tokens, with the one behind them."""
        return {"captions": caption_tokens(self._labels(batch.tokens), ignore=_NOTHING)}

    def captions(self, model: Model, images_BHWC: Tensor, *, most: int = 30) -> list[str]:
        """Of uint8[B, H, W, C] a text each of up to `most` tokens, the likest token at each place; without a graph."""
        language_model, texts = self._language_model, self._texts
        assert language_model is not None
        assert texts is not None
        with model.evaluating(), model.autocast():
            inputs_BSW = self._prompts(model, images_BHWC).to(language_model.dtype)
            if texts.start is not None:
                start_B1 = torch.full((len(images_BHWC), 1), texts.start, device=model.device)
                inputs_BSW = torch.cat([inputs_BSW, language_model.inputs_of(start_B1)], dim=1)
            said = torch.zeros(len(images_BHWC), 0, dtype=torch.int64, device=model.device)
            ended_B = torch.zeros(len(images_BHWC), dtype=torch.bool, device=model.device)
            room = (
                most if language_model.context_length is None else language_model.context_length - inputs_BSW.shape[1]
            )
            for _ in range(min(most, room)):
                next_B = language_model.logits(inputs_BSW)[:, -1].argmax(1)
                said = torch.cat([said, next_B.masked_fill(ended_B, texts.end)[:, None]], dim=1)
                ended_B |= next_B == texts.end
                if bool(ended_B.all()):
                    break
                inputs_BSW = torch.cat([inputs_BSW, language_model.inputs_of(said[:, -1:])], dim=1)
        return [words_of(model.tokenizer, _until(row, texts.end)) for row in said.tolist()]

    def _prompts(self, model: Model, images_BHWC: Tensor) -> Tensor:
        """[B, Q, W of the language model]."""
        tokens_BPU = locked_tokens(model, images_BHWC)
        with model.autocast():
            (queries_BQW,) = model.head("qformer")("outputs", tokens_BPU)
            return cast(Tensor, model.head("projection")(queries_BQW))

    def _labels(self, tokens_BL: Tensor) -> Tensor:
        assert self._texts is not None
        return self._texts.labels(tokens_BL)


@dataclass(frozen=True, kw_only=True)
class _Texts:
    """Where texts begin and end, by their tokenizer and the language model."""

    start: int | None
    """The token that every text begins with; None where there is none."""
    end: int
    padding: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, end: int) -> _Texts:
        inner: Any = getattr(tokenizer, "tokenizer", None)
        if inner is not None and inner.pad_token_id is None:
            raise ModelError(
                "language_model: its tokenizer has no token to fill up with; set pad_token in tokenizer_config.json"
            )
        first, other = (int(tokenizer([text])[0, 0]) for text in ("a", "the"))
        padding = getattr(tokenizer, "pad", 0) if inner is None else inner.pad_token_id
        return cls(start=first if first == other else None, end=end, padding=int(padding))

    def labels(self, tokens_BL: Tensor) -> Tensor:
        """int64[B, L]: each token of the text, the end behind it, and `_NOTHING` where it begins and behind it."""
        is_text_BL = (tokens_BL != self.padding).flip(1).cumsum(1).flip(1) > 0
        length_B1 = is_text_BL.sum(1, keepdim=True)
        last_B1 = tokens_BL.gather(1, (length_B1 - 1).clamp_min(0))
        places = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)
        labels_BL = tokens_BL.where(is_text_BL, _NOTHING)
        labels_BL = labels_BL.masked_fill((places == length_B1) & (last_B1 != self.end), self.end)
        if self.start is not None:
            labels_BL = labels_BL.masked_fill(places == 0, _NOTHING)
        return labels_BL


class _Greedy:
    """What `Model.captioner` is."""

    def __init__(self, method: LanguageStage, model: Model) -> None:
        self._method, self._model = method, model

    @property
    def beside(self) -> str:
        """Of the language model's weights."""
        language_model = self._method._language_model
        return "" if language_model is None else language_model.fingerprint

    def captions(self, images_BHWC: npt.NDArray[np.uint8], keys: Sequence[int] = ()) -> list[list[str]]:
        """Of each picture, uint8[B, S, S, 3] as the model wants them, one caption; nothing is drawn by `keys`."""
        images = torch.from_numpy(images_BHWC).to(self._model.device)
        return [[text] for text in self._method.captions(self._model, images)]


class _NoFeatures:
    """In place of the towers, which nobody trained for each other here."""

    def encode_image(self, images_BHWC: Tensor) -> Tensor:
        """Raises ModelError."""
        raise ModelError(f"{_WHAT} has no features to evaluate; leave evaluation.path and evaluation.sets out")

    encode_text = encode_image


def _until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens

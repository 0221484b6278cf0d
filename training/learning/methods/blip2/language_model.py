"""A language model from a directory of this machine, locked: what stands before a text tells it how that goes on.

    DIRECTORY/decoder.json  --> causal_decoder.py
    DIRECTORY/config.json   --> transformers' AutoModelForCausalLM, where that package is installed

Nothing is looked up on a network, and no code of the directory is run.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from pipeline.errors import one_line
from training.data.batches import Tokenizer
from training.errors import ModelError
from training.learning.fingerprint import fingerprint_of_weights
from training.learning.methods.blip2.causal_decoder import SHAPE_FILE, load_decoder

__all__ = ["LanguageModel", "load_language_model", "words_of"]

_EXTRA = "pip install 'openwit[transformers]'"


class LanguageModel:
    """A causal language model that learns nothing, and through which gradients go."""

    def __init__(
        self,
        module: nn.Module,
        *,
        words: nn.Module,
        logits: Callable[[Tensor, Tensor | None], Tensor],
        end: int,
        context_length: int | None,
    ) -> None:
        """`words` are `module`'s inputs of tokens, `logits` what it says behind each of its inputs [B, S, W]."""
        self._module = module.requires_grad_(False).eval()
        self._words = words
        self._logits = logits
        self.end = end
        """The token behind a text."""
        self.context_length = context_length
        """The longest sequence; None where there is no bound."""
        weight = cast(Tensor, words.weight)
        self.vocab_size, self.width = int(weight.shape[0]), int(weight.shape[1])
        self.dtype = weight.dtype
        """Of its inputs."""

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits over its weights."""
        return fingerprint_of_weights(self._module)

    def inputs_of(self, tokens_BL: Tensor) -> Tensor:
        """[B, L, W]."""
        return cast(Tensor, self._words(tokens_BL))

    def logits(self, inputs_BSW: Tensor, asked_M: Tensor | None = None) -> Tensor:
        """[B, S, V]: of the token behind each input, or [M, V] of those at `asked_M` of the B x S. None of them sees
        what follows it."""
        return self._logits(inputs_BSW.to(self.dtype), asked_M)


def load_language_model(path: str | Path, *, device: torch.device, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The one in the directory `path`, with weights of `dtype` on `device`. Raises ModelError."""
    directory = Path(path)
    if (directory / SHAPE_FILE).is_file():
        decoder = load_decoder(directory).to(device=device, dtype=dtype)
        shape = decoder.shape
        return LanguageModel(
            decoder, words=decoder.words, logits=decoder, end=shape.end, context_length=shape.context_length
        )
    if not (directory / "config.json").is_file():
        what = f"holds neither config.json nor {SHAPE_FILE}" if directory.is_dir() else "does not exist"
        raise ModelError(
            f"language_model: {directory} {what}; give a directory with a causal language model, as transformers' "
            "save_pretrained writes it"
        )
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError(f"language_model: {directory} is read by the package transformers; {_EXTRA}") from error
    try:
        module: Any = transformers.AutoModelForCausalLM.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False, dtype=dtype
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(
            f"language_model: {directory} is no causal language model that transformers reads "
            f"({one_line(error, 200)}); copy it again"
        ) from error
    end, known = module.config.eos_token_id, getattr(module.config, "max_position_embeddings", None)
    end = end[0] if isinstance(end, list) else end
    if end is None:
        raise ModelError(f"language_model: {directory} names no token behind a text; set eos_token_id in config.json")
    module = module.to(device)

    def logits(inputs_BSW: Tensor, asked_M: Tensor | None) -> Tensor:
        found: Tensor = module(inputs_embeds=inputs_BSW, use_cache=False).logits
        return found if asked_M is None else found.flatten(0, 1)[asked_M]

    return LanguageModel(
        module,
        words=module.get_input_embeddings(),
        logits=logits,
        end=int(end),
        context_length=None if known is None else int(known),
    )


def words_of(tokenizer: Tokenizer, tokens: list[int]) -> str:
    """The text that `tokens` stand for, without marks. Raises ModelError for a tokenizer that cannot say."""
    given: Any = tokenizer
    if hasattr(given, "pieces"):  # sentencepiece
        return str(given.pieces.decode(tokens)).strip()
    if hasattr(given, "tokenizer"):  # transformers, behind open_clip's wrapper
        return str(given.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
    if hasattr(given, "decode"):  # CLIP's own
        marks = {given.sot_token_id, given.eot_token_id}
        return str(given.decode([token for token in tokens if token not in marks])).strip()
    raise ModelError(f"a {type(given).__name__} cannot turn tokens into words; take CLIP's tokenizer")

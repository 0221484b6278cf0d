"""Which models this trainer can feed, told by their description before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import open_clip

from pipeline.errors import one_line
from training.data.batches import Tokenizer
from training.errors import ModelError

__all__ = ["make_tokenizer"]


def make_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of open_clip's model `name`.

    Raises ModelError where the model has a text decoder, where its tokenizer is not on this machine, and where that
    knows more tokens than the model has places for.
    """
    config = cast("dict[str, Any]", open_clip.get_model_config(name))
    if "multimodal_cfg" in config:
        raise ModelError(
            f"{name}: has a decoder that writes captions, and no loss here trains it; take a model without one "
            "(ViT-B-32, ViT-L-14)"
        )
    text: Mapping[str, Any] = config["text_cfg"]
    theirs = text.get("hf_tokenizer_name")
    try:
        made = cast(Tokenizer, open_clip.get_tokenizer(name))
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{name}: its tokenizer {theirs} cannot be made ({one_line(error, 160)}); install the "
            "package transformers and put the tokenizer into Hugging Face's cache (nothing is looked up on a "
            "network), or take a model with CLIP's own tokenizer (ViT-B-32, ViT-L-14)"
        ) from error
    # A tower of transformers has its own vocabulary, whatever open_clip's default says.
    places = int(text.get("vocab_size", 49408)) if not text.get("hf_model_name") else None
    tokens = int(getattr(made, "vocab_size", 0) or getattr(getattr(made, "tokenizer", None), "vocab_size", 0))
    if places is not None and tokens > places:
        raise ModelError(
            f"{name}: its tokenizer knows {tokens:,} tokens and its text tower {places:,}; set text_cfg.vocab_size in "
            f"the model's JSON to {tokens}"
        )
    return made

"""The tokens that bound a text, which a decoder must tell from words: where it begins, where it ends, what fills up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.data.batches import Tokenizer
from training.errors import ModelError

__all__ = ["PADDING", "Marks", "marks_of"]

PADDING = 0
"""What stands behind a text (`data/batch.py`); a tokenizer that fills up with something else trains no decoder.
Of CLIP's tokens it is also an exclamation mark before other marks (`!?`), which is passed over with it, as by
open_clip."""


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Numbers of tokens."""

    start: int
    """Stands before a text: what a decoder writes from."""
    end: int
    """Stands behind it: what a decoder stops at."""


def marks_of(tokenizer: Tokenizer, name: str) -> Marks:
    """Those of the `tokenizer` of the model `name`.

    Raises ModelError for one that has none, or that fills up with another token than `PADDING`, with the remedy.
    """
    # CLIP's own, and one of transformers behind open_clip's wrapper, by its names: GPT's kind, then BERT's.
    inner: Any = getattr(tokenizer, "tokenizer", None)
    if inner is None:
        start, end = getattr(tokenizer, "sot_token_id", None), getattr(tokenizer, "eot_token_id", None)
        padding = getattr(tokenizer, "pad", PADDING)
    else:
        start, end = (_first(inner, f"{kinds[0]}_token_id", f"{kinds[1]}_token_id") for kinds in _KINDS)
        padding = inner.pad_token_id
    lacks = "no mark before a text" if start is None else "no mark behind a text" if end is None else ""
    if padding != PADDING or padding in (start, end):
        lacks = lacks or f"token {padding} behind its texts, where padding is {PADDING}"
    if lacks or start is None or end is None:
        raise ModelError(
            f"{name}: its tokenizer sets {lacks}, so that captions cannot be learnt; take a model with CLIP's own "
            "tokenizer (coca_ViT-B-32, coca_ViT-L-14), and leave model.tokenizer out"
        )
    return Marks(start=start, end=end)


_KINDS = (("bos", "cls"), ("eos", "sep"))


def _first(tokenizer: Any, *names: str) -> int | None:
    found = (getattr(tokenizer, name, None) for name in names)
    return next((int(each) for each in found if each is not None), None)

"""A sentencepiece model of the captions that tests make."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.training.tiny_shards import COLOURS, SHAPES

__all__ = ["make_pieces"]


def make_pieces(path: Path) -> Path:
    """Train one at `path` with T5's marks: padding 0, end 1, unknown 2, no beginning. Skips where the package lacks."""
    sentencepiece = pytest.importorskip("sentencepiece")
    texts = [f"a photo of a {colour} {shape}" for colour, shape in itertools.product(COLOURS, SHAPES)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=file, vocab_size=200, hard_vocab_limit=False, minloglevel=2,
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        )  # fmt: skip
    return path

"""The model's tokenizer, in the files that transformers reads.

    CLIP's           vocab.json, merges.txt, tokenizer_config.json    CLIPTokenizer
    sentencepiece    spiece.model, tokenizer_config.json              SiglipTokenizer
    transformers'    what it saves itself

Two differences stay. CLIP's texts are filled up with the end mark here and with zeros by open_clip, behind the end of
the text, where the causal tower does not look. And open_clip mends broken Unicode and HTML entities first (ftfy,
html.unescape), which CLIPTokenizer does not: text that has neither has the same tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.exports.directory import write_json
from training.learning.model import Model
from training.learning.tokenizer import SentencePiece

__all__ = ["write_tokenizer"]

_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(model: Model, here: Path) -> None:
    """Write its files into `here`."""
    tokenizer: Any = model.tokenizer
    length = int(tokenizer.context_length)
    if isinstance(tokenizer, SentencePiece):
        _write_pieces(tokenizer, here, length)
    elif hasattr(tokenizer, "bpe_ranks"):
        _write_clip(tokenizer, here, length)
    else:
        tokenizer.tokenizer.save_pretrained(str(here))  # open_clip's HFTokenizer, around one of transformers


def _write_clip(tokenizer: Any, here: Path, length: int) -> None:
    vocabulary = dict(tokenizer.encoder)
    for ours, theirs in zip(list(vocabulary)[-2:], (_BEGIN, _END), strict=True):
        vocabulary[theirs] = vocabulary.pop(ours)
    write_json(here / "vocab.json", vocabulary)
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (here / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(
        here / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": length,
            "bos_token": _BEGIN,
            "eos_token": _END,
            "pad_token": _END,
            "unk_token": _END,
            "do_lower_case": True,
        },
    )


def _write_pieces(tokenizer: SentencePiece, here: Path, length: int) -> None:
    pieces = tokenizer.pieces
    (here / "spiece.model").write_bytes(pieces.serialized_model_proto())
    end, unknown = (pieces.id_to_piece(number) for number in (pieces.eos_id(), pieces.unk_id()))
    write_json(
        here / "tokenizer_config.json",
        {
            "tokenizer_class": "SiglipTokenizer",
            "model_max_length": length,
            "eos_token": end,
            "pad_token": pieces.id_to_piece(tokenizer.pad),
            "unk_token": unknown,
            "do_lower_case": True,
        },
    )

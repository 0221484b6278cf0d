"""The tokenizer of a model, told to be at hand before anything is built.

    model.tokenizer | what the model's JSON names --> spiece.model        --> SentencePiece, SigLIP's way
                                                  --> directory of files  --> transformers, by open_clip
    neither --> CLIP's own, which open_clip ships

Nothing is looked up on a network: what is missing is told in one line that names the file to bring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from open_clip.tokenizer import HFTokenizer, get_clean_fn
from torch import Tensor

from pipeline.errors import one_line
from training.data.batches import Tokenizer
from training.errors import ModelError
from training.learning.text_tower import vocabulary_of_tower

__all__ = ["SentencePiece", "make_tokenizer", "num_tokens"]

_FILES = ("spiece.model", "sentencepiece.model", "tokenizer.model")
"""What a sentencepiece model is called in the directories of T5, SigLIP and Gemma."""
_OWN = "take a model with CLIP's own tokenizer (ViT-B-32, ViT-L-14)"
_EXTRA = "pip install 'openwit[siglip]'"
_EXTRA_OTHERS = "pip install 'openwit[transformers]'"


class SentencePiece:
    """SigLIP's tokenizer: cleaned text, its pieces, the end mark, padding up to the context length.

    As open_clip's `SigLipTokenizer` has it: a text that is too long is cut before the end mark, which thus always
    stands, and padding is a token like others, which the tower attends to.
    Workers get it by pickle, with the whole model inside.
    """

    def __init__(self, path: Path, *, context_length: int, pad: int | None, clean: str = "canonicalize") -> None:
        """`pad`: the token to fill up with; None for the end mark. `clean`: one of open_clip's ways to clean a text.

        Raises ModelError where `path` is no sentencepiece model, or one without an end mark.
        """
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise ModelError(f"{path}: is read by the package sentencepiece, which is missing; {_EXTRA}") from error
        try:
            self.pieces = SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError, TypeError) as error:
            raise ModelError(f"{path}: not a sentencepiece model ({one_line(error, 160)}); copy it again") from error
        self.context_length = context_length
        self.vocab_size = int(self.pieces.vocab_size())
        self._end = int(self.pieces.eos_id())
        if self._end < 0:
            raise ModelError(f"{path}: has no end mark (eos_id), on which SigLIP's texts end; train it with one")
        self.pad = self._end if pad is None else pad
        self._clean = cast("Callable[[str], str]", get_clean_fn(clean))

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        """See Tokenizer; padded with `pad`, not with zeros."""
        length = context_length or self.context_length
        tokens_NL = torch.full((len(texts), length), self.pad, dtype=torch.int64)
        for row, pieces in enumerate(self.pieces.encode([self._clean(text) for text in texts])):
            found = [*pieces[: length - 1], self._end]
            tokens_NL[row, : len(found)] = torch.tensor(found)
        return tokens_NL


def make_tokenizer(name: str, source: str | None = None) -> Tokenizer:
    """The tokenizer of open_clip's model `name`, made from the local file or directory `source` where it is given.

    Raises ModelError where it is not on this machine, and where it knows more tokens than the model has places for.
    """
    config = cast("dict[str, Any]", open_clip.get_model_config(name))
    text: Mapping[str, Any] = config["text_cfg"]
    theirs = text.get("hf_tokenizer_name")
    if source is not None:
        made = _of_files(name, text, Path(source), told="model.tokenizer: ")
    elif theirs and Path(theirs).exists():
        made = _of_files(name, text, Path(theirs), told="")
    else:
        made = _of_open_clip(name, theirs)
    try:
        tokens = num_tokens(made)
    except (ValueError, TypeError) as error:  # without a padding token, for one
        raise ModelError(
            f"{name}: its tokenizer writes no texts of one length ({one_line(error, 160)}); name its pad_token in "
            "tokenizer_config.json"
        ) from error
    # A tower of transformers has its own vocabulary, whatever open_clip's default says.
    directory = text.get("hf_model_name")
    places = int(text.get("vocab_size", 49408)) if not directory else vocabulary_of_tower(directory)
    if places is not None and tokens > places:
        remedy = f"set text_cfg.vocab_size in the model's JSON to {tokens}, or --model.tokenizer"
        if directory:
            remedy = f"its places are those of {directory}/config.json; set --model.tokenizer"
        raise ModelError(
            f"{name}: its tokenizer knows {tokens:,} tokens and its text tower {places:,}; {remedy} to the "
            "one it was made for"
        )
    _check_end(name, text, made)
    return made


def num_tokens(tokenizer: Tokenizer) -> int:
    """How many tokens a tower needs places for: one more than the highest number that `tokenizer` writes; 0 where it
    does not say.

    Of a tokenizer of Hugging Face's, `vocab_size` leaves out what was added to it, and numbers may have gaps. Of what
    was added counts what a text can bring about: the marks around it, and what stands in it word for word, unless it is
    cleaned away.
    """
    inner: Any = getattr(tokenizer, "tokenizer", None)
    if not hasattr(inner, "get_vocab"):
        return int(getattr(tokenizer, "vocab_size", 0) or getattr(inner, "vocab_size", 0))
    known = cast("Mapping[str, int]", inner.get_vocab())
    added = cast("Mapping[str, int]", inner.get_added_vocab() if hasattr(inner, "get_added_vocab") else {})
    highest = max((number for token, number in known.items() if token not in added), default=-1)
    with torch.device("cpu"):  # also where a model is being made of tensors without content
        return 1 + max(highest, int(tokenizer(["", *added]).max()))


def _check_end(name: str, text: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Raises ModelError where a tower reads its texts at an end mark (text_cfg.eos_id) that they do not have: it would
    read the first token of each instead, without a word."""
    end = int(text.get("eos_id", 2))
    if text.get("pool_type") != "eos" or text.get("hf_model_name") or (tokenizer(["a"]) == end).any():
        return
    raise ModelError(
        f"{name}: its text tower reads a text at token {end}, its end mark, which this tokenizer does not write; set "
        "text_cfg.eos_id in the model's JSON to that of the tokenizer, or --model.tokenizer to the one it was made for"
    )


def _of_open_clip(name: str, theirs: str | None) -> Tokenizer:
    """CLIP's own, or `theirs` where Hugging Face's cache has it."""
    try:
        return cast(Tokenizer, open_clip.get_tokenizer(name))
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        files = [f"tokenizer.json and tokenizer_config.json of {theirs}"] if theirs else []
        if "siglip" in name.lower():  # by which open_clip goes too
            files.insert(0, "SigLIP's sentencepiece model (spiece.model)")
        raise ModelError(
            f"{name}: its tokenizer {theirs or 'of SigLIP'} is not at hand ({one_line(error, 100)}); nothing is looked "
            f"up on a network: bring {' or '.join(files)} and set --model.tokenizer to their path, or {_OWN}"
        ) from error


def _of_files(name: str, text: Mapping[str, Any], path: Path, *, told: str) -> Tokenizer:
    """The tokenizer at `path` for a model whose text_cfg is `text`. `told`: which option names it, for messages."""
    length, options = int(text.get("context_length", 77)), dict(text.get("tokenizer_kwargs", {}))
    pieces = path if path.is_file() else next((path / file for file in _FILES if (path / file).is_file()), None)
    if path.is_dir() and (path / "tokenizer.json").is_file():
        try:
            made = HFTokenizer(str(path), context_length=length, tokenizer_mode=text.get("tokenizer_mode"), **options)
        except ImportError as error:
            if pieces is None:
                raise ModelError(f"{told}{path}: is read by the package transformers; {_EXTRA_OTHERS}") from error
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"{told}{path}: not a tokenizer ({one_line(error, 160)}); copy it again") from error
        else:
            return cast(Tokenizer, made)
    if pieces is None:
        what = "holds neither tokenizer.json nor spiece.model" if path.is_dir() else "does not exist"
        raise ModelError(f"{told}{path} {what}; give a sentencepiece model, or a directory of tokenizer.json")
    if text.get("hf_model_name"):
        # XLM-R, NLLB and others number their pieces in another way than the file does.
        raise ModelError(f"{told}{path}: {name} has a tower of transformers; give a directory with its tokenizer.json")
    if "xlm" in str(text.get("hf_tokenizer_name")):
        raise ModelError(
            f"{told}{path}: {name} numbers XLM's pieces otherwise than the file; give a directory with its "
            "tokenizer.json"
        )
    # SigLIP fills up with the end mark, SigLIP 2 with Gemma's padding (open_clip, tokenizer.py).
    is_second = "siglip2" in f"{name} {text.get('hf_tokenizer_name', '')}".lower()
    clean = options.get("clean", "canonicalize")
    return SentencePiece(pieces, context_length=length, pad=0 if is_second else None, clean=clean)

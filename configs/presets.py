"""Presets: the configs of this package by a word, wherever the package is.

    sample     ->  configs/shards/sample.yaml
    laion      ->  configs/shards/from_laion.yaml

A word stands for a file of the package; a name that ends in .yaml is always a path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from configs.near import near

__all__ = ["KINDS", "Kind", "first_sentence", "no_preset", "preset", "presets", "shipped"]

Kind = Literal["shards", "queries", "train", "experiment"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""A directory of configs each, and what it takes to read them: a run, a query list's build, a training run, several."""
_HERE = Path(__file__).parent
_SENTENCE_END = re.compile(r"\.\s+(?=[A-Z])")


def presets(kind: Kind) -> Mapping[str, Path]:
    """Name -> file: its stem, without the `from_` of configs for the tables of others."""
    found = {file.stem.removeprefix("from_"): file for file in (_HERE / kind).glob("*.yaml")}
    return dict(sorted(found.items()))


def preset(kind: Kind, word: str) -> Path | None:
    """The file that `word` stands for, by its preset's name or the file's stem; None where it is none."""
    known = presets(kind)
    return known.get(word) or next((file for file in known.values() if file.stem == word), None)


def no_preset(kind: Kind, word: str) -> str:
    """The end of a line about a `word` that is neither a path nor a preset: what to write instead."""
    known = presets(kind)
    meant = near(word, known)
    return f"did you mean the preset {meant!r}?" if meant else f"name a .yaml file, or a preset: {', '.join(known)}"


def first_sentence(file: Path) -> str:
    """The first sentence of a config's comment."""
    text = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text.append(line.removeprefix("#").strip())
    sentence = _SENTENCE_END.split(" ".join(text), maxsplit=1)[0]
    return f"{sentence.rstrip('.:')}." if sentence else ""


def shipped(path: str) -> Path:
    """The file at `path`; where there is none and it begins with `configs/`, that of this package."""
    here = Path(path)
    if not here.exists() and here.parts[:1] == ("configs",) and ".." not in here.parts:
        return _HERE.joinpath(*here.parts[1:])
    return here

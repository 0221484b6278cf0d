"""decontaminate: turn away pairs whose picture or caption belongs to a set that models will be evaluated on."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from configs.load import ConfigError
from pipeline.hamming import distances, find_matches
from pipeline.outcome import Outcome, reject

__all__ = ["DecontaminateConfig", "Evaluation", "decontaminate", "normal_form", "prompts"]

_NOT_WORDS = re.compile(r"[\W_]+")


@dataclass(frozen=True, kw_only=True)
class DecontaminateConfig:
    """The evaluation sets, and how alike is too alike. Off while nothing is named."""

    images: tuple[str, ...] = ()
    """Evaluation pictures: folders (with all below them, tars included) and WebDataset tars; paths or globs."""
    hashes: tuple[str, ...] = ()
    """Text files with one hash a line: 64 hex digits for a SHA-256 of a file, 16 for a perceptual hash."""
    max_distance: int | None = 4
    """Bits in which perceptual hashes may differ; null compares files by SHA-256 only."""
    captions: tuple[str, ...] = ()
    """Text files of evaluation captions, one a line; a pair with an equal caption, after normalisation, goes."""
    tar_captions: bool = False
    """Whether the captions (.txt members, one a line) in the tars of `images` count as well."""
    class_names: tuple[str, ...] = ()
    """Text files of class names, one a line; with `templates` they make prompts that no caption may equal."""
    templates: tuple[str, ...] = ()
    """Text files of prompt templates with {c} for the class, one a line."""

    def __post_init__(self) -> None:
        if self.max_distance is not None and not 0 <= self.max_distance <= 16:
            raise ConfigError(f"max_distance must be null or 0 to 16 of 64 bits, got {self.max_distance}")
        if bool(self.class_names) != bool(self.templates):
            raise ConfigError("class_names and templates make prompts only together")

    @property
    def active(self) -> bool:
        """Whether an evaluation set is named."""
        return bool(self.images or self.hashes or self.captions or self.class_names)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the evaluation sets hold, all of them together."""

    sha256: frozenset[str]
    """64 hex digits each."""
    phashes: npt.NDArray[np.uint64]
    """Distinct, without 0: flat pictures have no hash."""
    captions: frozenset[str]
    """In normal form."""


def normal_form(text: str) -> str:
    """Letters and digits only (NFKC, case folded), one space between words: what equal captions share."""
    return _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def prompts(class_names: list[str], templates: list[str]) -> list[str]:
    """Every class in every template, {c} replaced."""
    return [template.replace("{c}", name) for template in templates for name in class_names]


def decontaminate(batch: pa.RecordBatch, evaluation: Evaluation, max_distance: int | None) -> Outcome:
    """Judge a batch of FETCHED rows with pictures: same file, then a like picture, then an equal caption."""
    reasons: list[str | None] = [None] * batch.num_rows
    details: list[str | None] = [None] * batch.num_rows
    if evaluation.captions:
        for i, caption in enumerate(batch.column("caption").to_pylist()):
            if normal_form(caption) in evaluation.captions:
                reasons[i], details[i] = "evaluation_caption", caption
    if max_distance is not None and len(evaluation.phashes):
        phashes = batch.column("phash").to_numpy(zero_copy_only=False).astype(np.uint64)
        rows = np.flatnonzero(phashes != 0)
        left, right = find_matches(phashes[rows], evaluation.phashes, max_distance)
        far = distances(phashes[rows[left]], evaluation.phashes[right])
        for k in np.lexsort((right, -far.astype(np.int64))).tolist():  # the nearest last, so that it stays
            i = int(rows[left[k]])
            shown = f"{int(evaluation.phashes[right[k]]):016x}, {int(far[k])} bits"
            reasons[i], details[i] = "evaluation_picture", shown
    for i, sha256 in enumerate(batch.column("sha256").to_pylist()):
        if sha256 in evaluation.sha256:
            reasons[i], details[i] = "evaluation_file", sha256
    return reject(
        batch, stage="decontaminate", reasons=pa.array(reasons, pa.string()), details=pa.array(details, pa.string())
    )

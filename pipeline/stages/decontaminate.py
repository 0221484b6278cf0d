"""decontaminate: turn away pairs whose picture or caption belongs to a set that models will be evaluated on."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.hamming import distances, find_matches
from pipeline.outcome import Outcome, reject
from pipeline.stages.decontaminate_config import DecontaminateConfig

__all__ = ["DecontaminateConfig", "Evaluation", "decontaminate", "normal_form", "prompts"]

_NOT_WORDS = re.compile(r"[\W_]+")


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

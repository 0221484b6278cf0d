"""Decontaminate: turn away pairs whose picture or caption belongs to a set that models will be evaluated on."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.pictures.hamming import distances, find_matches
from pipeline.records.outcome import Outcome, reject
from pipeline.stages.stage import Stage
from pipeline.storage.checked import read_table
from pipeline.storage.location import Files

__all__ = [
    "EVALUATION",
    "Decontaminate",
    "Evaluation",
    "decontaminate",
    "normal_form",
    "prompts",
]

EVALUATION = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),  # of the picture or line in its source
        pa.field("sha256", pa.string()),
        pa.field("phash", pa.uint64()),
        pa.field("caption", pa.string()),  # in normal form
    ]
)
"""One hash, picture or caption of an evaluation set."""

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


@functools.lru_cache(maxsize=1)
def _load(files: Files) -> Evaluation:
    """Read once a worker process."""
    table = pa.concat_tables([read_table(file).cast(EVALUATION) for file in files])
    phashes = np.unique(table["phash"].drop_null().to_numpy().astype(np.uint64))
    return Evaluation(
        sha256=frozenset(table["sha256"].drop_null().to_pylist()),
        phashes=phashes[phashes != 0],
        captions=frozenset(table["caption"].drop_null().to_pylist()),
    )


@dataclass(frozen=True, kw_only=True)
class Decontaminate(Stage):
    """`decontaminate` as a stage of the page."""

    evaluation: Files
    """EVALUATION, of every set."""
    max_distance: int | None

    name: ClassVar[str] = "decontaminate"
    reads: ClassVar[tuple[str, ...]] = ("caption", "phash", "sha256")
    reasons: ClassVar[Mapping[str, str]] = {
        "evaluation_file": "the very file is part of an evaluation set (SHA-256)",
        "evaluation_picture": "the picture looks like one of an evaluation set (perceptual hash)",
        "evaluation_caption": "the caption equals one of an evaluation set, or a prompt of its classes",
    }
    version: ClassVar[int] = 2

    def judge(self, batch: pa.RecordBatch) -> Outcome:
        return decontaminate(batch, _load(self.evaluation), self.max_distance)

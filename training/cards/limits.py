"""What a CLIP cannot do, measured on pictures that are drawn for it: shares of right answers beside guessing.

A picture's answer is the caption whose feature is nearest; captions that tie share the answer. Intervals are Wilson's
(1927), of 95 %. The pictures are simple graphics, which a model of photographs has seen few of: a low share beside low
controls says that the model does not know such pictures, not that it cannot count.
"""

from __future__ import annotations

import io
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipeline.storage.place import Place
from training.cards.probes import PROBES, WORDINGS, Question
from training.learning.features import image_features, prepare_pixels, text_features
from training.learning.model import Model
from training.learning.pretrained import fingerprint_of
from training.run.directory import write_whole

__all__ = ["Limits", "Share", "measure_limits", "wilson", "write_limits"]

_Z = 1.959964
"""Of 95 %, two-sided."""
_TIE = 1e-6
"""Scores so near are one: float32's rounding of a product, which is another in another column."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """How often a model was right."""

    name: str
    says: str
    questions: int
    chance: float
    """What guessing scores."""
    right: float
    """Share of right answers, 0..1."""
    low: float
    high: float
    """The interval of 95 %."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """All that was measured."""

    model: str
    model_fingerprint: str
    seed: int
    samples_seen: int | None
    """Of the checkpoint, where it is one."""
    probes: list[Share]
    wordings: list[Share]
    """The questions of `wording`, in each wording."""
    answers: list[dict[str, Any]]
    """One for each question and wording, for the Parquet file."""

    @property
    def spread(self) -> float:
        """From the worst wording to the best."""
        shares = [share.right for share in self.wordings]
        return max(shares) - min(shares)


def wilson(right: float, questions: int) -> tuple[float, float]:
    """(low, high) of 95 % for a share `right` of `questions`."""
    square = _Z**2 / questions
    middle = (right + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(right * (1 - right) / questions + square / (4 * questions))
    return max(0.0, middle - half), min(1.0, middle + half)


def measure_limits(
    model: Model, *, questions: int, seed: int, batch_size: int, samples_seen: int | None = None
) -> Limits:
    """Ask every probe so many questions."""
    probes: list[Share] = []
    wordings: list[Share] = []
    answers: list[dict[str, Any]] = []
    for name, probe in PROBES.items():
        asked, image_ND = _embedded(model, name, questions, seed, batch_size)
        ways = WORDINGS if name == "wording" else ("{c}",)
        texts = sorted({way.replace("{c}", choice) for each in asked for choice in each.choices for way in ways})
        text_TD = text_features(model, texts)
        rows = {text: number for number, text in enumerate(texts)}
        shares = []
        for way in ways:
            found = [
                _answer(image_D @ text_TD[[rows[way.replace("{c}", choice)] for choice in each.choices]].T, each)
                for each, image_D in zip(asked, image_ND, strict=True)
            ]
            credit = sum(each["credit"] for each in found)
            shares.append(_share(way if len(ways) > 1 else name, probe.says, probe.choices, credit, len(found)))
            answers += [{"probe": name, "wording": way, "question": n, **each} for n, each in enumerate(found)]
        if len(ways) > 1:
            wordings = shares
            mean = sum(share.right for share in shares) / len(shares)
            shares = [_share(name, probe.says, probe.choices, mean * questions, questions)]
        probes += shares
    return Limits(
        model=model.name,
        model_fingerprint=fingerprint_of(model),
        seed=seed,
        samples_seen=samples_seen,
        probes=probes,
        wordings=wordings,
        answers=answers,
    )


def _embedded(model: Model, name: str, count: int, seed: int, batch_size: int) -> tuple[list[Question], Tensor]:
    """The questions of a probe, and unit features [N, D] of their pictures on the CPU."""
    asked: list[Question] = []
    parts: list[Tensor] = []
    for batch in _batches(name, count, seed, batch_size):
        pixels = np.stack([prepare_pixels(each.picture, model) for each in batch])
        parts.append(image_features(model, pixels).float())
        asked += batch
    return asked, torch.cat(parts)


def _batches(name: str, count: int, seed: int, size: int) -> Iterator[list[Question]]:
    key = zlib.crc32(name.encode())
    for first in range(0, count, size):
        numbers = range(first, min(first + size, count))
        yield [PROBES[name].ask(np.random.default_rng([seed, key, number])) for number in numbers]


def _answer(scores_C: Tensor, asked: Question) -> dict[str, Any]:
    chosen = torch.nonzero(scores_C >= scores_C.max() - _TIE).flatten().tolist()
    others = torch.cat([scores_C[: asked.right], scores_C[asked.right + 1 :]])
    return {
        "right": asked.choices[asked.right],
        "chosen": asked.choices[chosen[0]],
        "credit": 1 / len(chosen) if asked.right in chosen else 0.0,
        "margin": (scores_C[asked.right] - others.max()).item(),
    }


def _share(name: str, says: str, choices: int, credit: float, questions: int) -> Share:
    right = credit / questions
    low, high = wilson(right, questions)
    return Share(name=name, says=says, questions=questions, chance=1 / choices, right=right, low=low, high=high)


def write_limits(limits: Limits, directory: Place) -> None:
    """limits.json, the shares; limits.parquet, each answer. Raises OSError, PipelineError."""
    content = {name: value for name, value in asdict(limits).items() if name != "answers"} | {"spread": limits.spread}
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(limits.answers), buffer)
    if isinstance(directory, Path):
        directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / "limits.parquet", buffer.getvalue())
    write_whole(directory / "limits.json", f"{json.dumps(content, indent=2)}\n".encode())

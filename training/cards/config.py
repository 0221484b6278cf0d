"""The options of `limits` and `card`, read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import check_bounds
from training.config import Precision

__all__ = ["CardConfig", "LimitsConfig"]


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """What to measure on generated pictures, and where to write it."""

    model: str
    """A run, an export, NAME:FILE, NAME:TAG, or hf-hub:ORGANISATION/NAME."""
    to: str | None = None
    """Directory for limits.json and limits.parquet, or its URL in a bucket; null for RUN/limits of a run, and none of
    other models."""
    questions: Annotated[int, Bounds(least=1)] = 240
    """Pictures of each probe. 240 tell shares that are 9 points apart at even odds."""
    seed: Annotated[int, Bounds()] = 0
    """Decides the pictures."""
    batch_size: Annotated[int, Bounds(least=1)] = 64
    """Pictures embedded at a time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""
    precision: Precision = "auto"
    """As in training."""
    tokenizer: str | None = None
    """The model's tokenizer where it is not its own: see --model.tokenizer of a run."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """Of which run, and where to."""

    run: str
    """Directory of a run, or its URL in a bucket."""
    to: str | None = None
    """File to write, on a disk or in a bucket; null for RUN/README.md. The curves go beside it, as curves.svg."""

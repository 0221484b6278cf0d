"""The options of `evaluate MODEL ...` and of `evaluation-set`. Imports nothing that computes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds
from training.config import Precision, RayConfig

__all__ = ["EvaluateOptions", "SetOptions"]


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Which models to measure on which sets."""

    models: tuple[str, ...]
    """Runs, exports, NAME:FILE, NAME:TAG or hf-hub:ORGANISATION/NAME; the words before the options."""
    sets: tuple[str, ...]
    """Evaluation sets, as a list: '[DIR, LIST.csv]'. docs/evaluate.md has their forms."""
    to: str | None = None
    """Directory for results.json, the tables as Parquet and results.html, or its URL in a bucket; what is done there is
    not computed again. null only prints."""
    probe: bool = False
    """Train a linear probe on sets that have a train part."""
    flips: bool = False
    """Measure with the mean of the features of each picture and of its mirror: twice the work."""
    batch_size: Annotated[int, Bounds(least=1)] = 256
    """Pictures or texts embedded at a time, on each rank."""
    precision: Precision = "auto"
    """auto, fp32 or bf16, as in training."""
    tokenizer: str | None = None
    """Where the models' tokenizer is, for models that bring none; see --model.tokenizer of training."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""
    threads: Annotated[int, Bounds(least=1, most=4096)] | None = None
    """CPU threads of torch; null leaves its choice."""
    launcher: Literal["torchrun", "ray"] = "torchrun"
    """Who starts several processes: torchrun (or nobody, for one process), or Ray Train, see `ray`."""
    ray: RayConfig = field(default_factory=RayConfig)
    """How many processes Ray starts, and where."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.models:
            raise ConfigError("models is empty; name at least one model")
        if not self.sets:
            raise ConfigError("sets is empty; name at least one set: --sets '[DIR]'")
        for name in ("models", "sets"):
            words = getattr(self, name)
            if len(set(words)) < len(words):
                raise ConfigError(f"{name} names {next(w for w in words if words.count(w) > 1)} twice")


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """An evaluation set to write in CLIP_benchmark's form."""

    source: str
    """A set in any form: a directory, or a list; the word before the options."""
    to: str
    """The directory to make."""
    examples_per_tar: Annotated[int, Bounds(least=1)] = 10_000
    """So many at most."""

    def __post_init__(self) -> None:
        check_bounds(self)

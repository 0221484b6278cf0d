"""The options of an experiment: what its arms have in common, and in what each differs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds

__all__ = ["Arm", "ExperimentConfig", "ReadOut"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to make the data, or to draw from it."""

    says: str = ""
    """What it is, in a few words, for the page of results."""
    shards: dict[str, Any] = field(default_factory=dict)
    """Where its shards config differs, by section."""
    data_of: str | None = None
    """Another arm whose data set it takes."""
    same_size_as: str | None = None
    """Another arm: as many pairs as its published set has are drawn uniformly (balance.mode none)."""
    train: dict[str, Any] = field(default_factory=dict)
    """Where its training config differs, by section."""

    def __post_init__(self) -> None:
        if self.data_of is not None and (self.shards or self.same_size_as):
            raise ConfigError("data_of takes another arm's data set as it is; leave out shards and same_size_as")


@dataclass(frozen=True, kw_only=True)
class ReadOut:
    """What the models are measured by."""

    evaluation: str | None = None
    """An evaluation set instead of the training config's (`evaluation.path`)."""
    classes: str | None = None
    """Parquet with `name` and `links` of each class of that set, how often the data shows it: accuracy of head (the
    first tenth of the classes), middle (the next four tenths) and tail."""
    retrieval: str | None = None
    """An evaluation set with captions, for recall both ways."""


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Arms that differ in how their data is made or drawn, and in nothing else."""

    output: str
    """Directory of the data sets, the runs and the results."""
    shards: str
    """Shards config of the data sets, a file or a preset; its output is not used."""
    train: str
    """Training config of the runs, a file or a preset; its output, seed and data.path are not used."""
    arms: dict[str, Arm]
    """By name."""
    baseline: str
    """The arm that the others are held against."""
    read_out: ReadOut = field(default_factory=ReadOut)
    seeds: Annotated[int, Bounds(least=1)] = 5
    """Trainings of each arm, from seed 0 on; arms are compared seed by seed."""
    jobs: Annotated[int, Bounds(least=1)] = 1
    """Trainings side by side, each a process: one for each core or GPU that `train.threads` leaves free."""
    results: str = "results"
    """Name of the files of results; experiments with one output and different names share what is done."""
    points: Annotated[float, Bounds(above=0)] = 2.0
    """The difference, in points of accuracy, for which the page says how many seeds would show it."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.arms:
            raise ConfigError("arms: name at least one")
        if not self.results.replace("-", "_").isidentifier():
            raise ConfigError(f"results: {self.results!r} becomes a file's name; use letters, digits, - and _")
        if self.baseline not in self.arms:
            raise ConfigError(f"baseline: there is no arm {self.baseline!r}; there are {', '.join(self.arms)}")
        for name, arm in self.arms.items():
            if not name.replace("-", "_").isidentifier():
                raise ConfigError(f"arms: {name!r} becomes a directory; use letters, digits, - and _")
            for other in filter(None, (arm.data_of, arm.same_size_as)):
                if other not in self.arms:
                    raise ConfigError(f"arms.{name}: there is no arm {other!r}; there are {', '.join(self.arms)}")
                if self.arms[other].data_of or self.arms[other].same_size_as:
                    raise ConfigError(f"arms.{name}: {other} takes its data from a third; name that one")
            for section, options in (("shards", arm.shards), ("train", arm.train)):
                if own := {"output", "seed"} & set(options):
                    raise ConfigError(f"arms.{name}.{section}: {', '.join(sorted(own))} is set by the experiment")

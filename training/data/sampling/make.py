"""The sampling that a config names."""

from __future__ import annotations

from collections.abc import Sequence

from training.config import DataConfig
from training.data.index import SampleIndex
from training.data.sampling.concept import Concept
from training.data.sampling.followed import Passing
from training.data.sampling.metaclip import Metaclip
from training.data.sampling.sampling import Sampling, Uniform
from training.data.shards import balance_mode
from training.data.stream import Stream
from training.errors import DataError

__all__ = ["check_balance", "make_passing", "make_sampling"]


def check_balance(config: DataConfig) -> None:
    """Raise DataError where sampling would balance a set that was made balanced."""
    if config.sampling != "metaclip":
        return
    for path in config.paths:
        if (mode := balance_mode(path)) not in (None, "none"):
            raise DataError(
                f"{path}: balanced already (its config.yaml has balance.mode {mode}), and --data.sampling metaclip "
                "would do it again over other counts; set uniform or concept, or make the set with mode none"
            )


def make_sampling(config: DataConfig, stream: Stream, index: SampleIndex, *, times: Sequence[float] = ()) -> Sampling:
    """What thins `stream` over the samples of `index`. Raises DataError where they do not suit.

    `times`: where `index` is a part of the sets, drawn evenly, how many times as many samples each has.
    """
    return Uniform(stream) if config.sampling == "uniform" else make_passing(config, stream, index, times=times)


def make_passing(config: DataConfig, stream: Stream, index: SampleIndex, *, times: Sequence[float] = ()) -> Passing:
    """The same for a sampling that leaves positions out."""
    if config.sampling == "metaclip":
        return Metaclip(stream, index, config.metaclip, times=times)
    return Concept(stream, index, config.concept)

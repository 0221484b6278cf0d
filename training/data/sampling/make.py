"""The sampling that a config names."""

from __future__ import annotations

from training.config import DataConfig
from training.data.index import SampleIndex
from training.data.sampling.concept import Concept
from training.data.sampling.followed import Passing
from training.data.sampling.metaclip import Metaclip
from training.data.sampling.sampling import Sampling, Uniform
from training.data.stream import Stream

__all__ = ["make_passing", "make_sampling"]


def make_sampling(config: DataConfig, stream: Stream, index: SampleIndex) -> Sampling:
    """What thins `stream` over the samples of `index`. Raises DataError where they do not suit."""
    return Uniform(stream) if config.sampling == "uniform" else make_passing(config, stream, index)


def make_passing(config: DataConfig, stream: Stream, index: SampleIndex) -> Passing:
    """The same for a sampling that leaves positions out."""
    if config.sampling == "metaclip":
        return Metaclip(stream, index, config.metaclip)
    return Concept(stream, index, config.concept)

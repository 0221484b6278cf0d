"""The sampling that a config names."""

from __future__ import annotations

from training.config import DataConfig
from training.data.index import SampleIndex
from training.data.sampling.concept import Concept
from training.data.sampling.metaclip import Metaclip
from training.data.sampling.sampling import Sampling, Uniform
from training.data.stream import Stream

__all__ = ["make_sampling"]


def make_sampling(config: DataConfig, stream: Stream, index: SampleIndex) -> Sampling:
    """What thins `stream` over the samples of `index`. Raises DataError where they do not suit."""
    match config.sampling:
        case "uniform":
            return Uniform(stream)
        case "metaclip":
            return Metaclip(stream, index, config.metaclip)
        case "concept":
            return Concept(stream, index, config.concept)

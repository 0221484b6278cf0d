"""What a sampling will make of a set, looked at before a run, by what the run itself samples with.

    lists of shards --a few evenly, where they are many--> index, as a run makes it --> Sampling --> Distribution

Exact where all shards are read; else an estimate over `_MOST_SHARDS` of each weighted set, so that time and memory are
bounded for a set of any size: about 3 microseconds a sample, and the index lies on the disk meanwhile.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from training.config import DataConfig
from training.data.index import SampleIndex, write_index
from training.data.lanes import lanes_of
from training.data.rows import states_queries
from training.data.sampling.distribution import Distribution, sampling_distribution
from training.data.sampling.make import check_balance, make_sampling
from training.data.shards import Shard
from training.data.stream import Segment, Stream

__all__ = ["Foreseen", "foresee"]

_MOST_SHARDS = 64


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """How samples are distributed over queries, as they are drawn."""

    samples: int
    """How many were looked at."""
    shards: int
    """Of how many shards."""
    is_exact: bool
    """Whether these are all."""
    taken: float
    """The share of the samples that an epoch takes."""
    distribution: Distribution | None
    """None where shards do not state queries, nor `data.sampling` asks for them."""


def foresee(
    config: DataConfig,
    sets: Sequence[Sequence[Shard]],
    *,
    seed: int,
    global_batch_size: int,
    fields: Sequence[str] = (),
) -> Foreseen | None:
    """What `config` makes of `sets`, the shards of each of its paths; `fields` are columns that batches shall have.
    None where nothing is asked of the shards, and they state no queries.

    Raises DataError for what would stop the run.
    """
    check_balance(config)
    most = _MOST_SHARDS
    while True:
        chosen = _chosen(config, sets, most)
        shards = [shard for of_set in chosen for shard in of_set]
        is_exact = len(shards) == sum(map(len, sets))
        with_queries = config.sampling != "uniform" or all(map(states_queries, shards))
        if not with_queries and not fields:
            return None
        with tempfile.TemporaryDirectory() as root:
            index = write_index(*chosen, root=root, with_queries=with_queries, fields=fields)
            needed = 2 * config.concept.super_batch * global_batch_size if config.sampling == "concept" else 0
            if is_exact or len(index) >= needed:
                times = () if is_exact else _times(sets, chosen, index, is_weighted=bool(config.weights))
                taken, distribution = 1.0, None
                if with_queries:
                    taken, distribution = _of_index(
                        config, index, times, seed=seed, global_batch_size=global_batch_size
                    )
                return Foreseen(
                    samples=len(index),
                    shards=len(shards),
                    is_exact=is_exact,
                    taken=taken,
                    distribution=distribution,
                )
        most *= 4


def _chosen(config: DataConfig, sets: Sequence[Sequence[Shard]], most: int) -> list[list[Shard]]:
    """At most that many shards, evenly: of each set where they have weights, else over all as one."""
    if config.weights:
        return [_evenly(of_set, most) for of_set in sets]
    kept = {id(shard) for shard in _evenly([shard for of_set in sets for shard in of_set], most)}
    return [found for of_set in sets if (found := [shard for shard in of_set if id(shard) in kept])]


def _evenly(shards: Sequence[Shard], most: int) -> list[Shard]:
    return list(shards) if len(shards) <= most else [shards[i * len(shards) // most] for i in range(most)]


def _of_index(
    config: DataConfig, index: SampleIndex, times: Sequence[float], *, seed: int, global_batch_size: int
) -> tuple[float, Distribution]:
    """The share of the samples that an epoch takes; what is drawn of them."""
    sizes = index.sizes if config.weights else (sum(index.sizes),)
    lanes = () if config.lanes is None else (lanes_of(index.shard_sizes, sizes, window=config.lanes, seed=seed),)
    segments = (Segment(sizes=sizes),)
    stream = Stream(
        segments=segments, seed=seed, global_batch_size=global_batch_size, weights=config.weights, lanes=lanes
    )
    sampling = make_sampling(config, stream, index, times=times)
    return global_batch_size / sampling.positions_a_batch, sampling_distribution(sampling, stream, index)


def _times(
    sets: Sequence[Sequence[Shard]], chosen: Sequence[Sequence[Shard]], index: SampleIndex, *, is_weighted: bool
) -> tuple[float, ...]:
    """How many times as many samples each set has as its part of the index: by the lists, else by the shards."""

    def times(shards: Sequence[Shard], seen: Sequence[Shard], samples: int) -> float:
        listed = [shard.samples for shard in shards if shard.samples is not None]
        return sum(listed) / samples if len(listed) == len(shards) else len(shards) / len(seen)

    if is_weighted:
        return tuple(times(*each) for each in zip(sets, chosen, index.sizes, strict=True))
    of_all = times([s for of_set in sets for s in of_set], [s for of_set in chosen for s in of_set], len(index))
    return (of_all,) * len(chosen)

"""What a data set that was balanced is asked by: its pairs, and what each query counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.errors import OutputError
from pipeline.pages import config_of
from pipeline.stages.balance import mode_of
from pipeline.stages.balance.hashes import Hashes, Longs
from pipeline.storage.checked import load_vector
from pipeline.storage.location import Files
from pipeline.storage.output import check_output
from pipeline.storage.place import Place
from pipeline.wit import build

__all__ = ["Balanced"]


@dataclass(frozen=True, kw_only=True)
class Balanced:
    """A set whose t is known."""

    unique: Files
    """Every distinct pair (MATCHED), by hash partition."""
    pairs: int
    """How many they are."""
    counts: Longs
    """int64[Q]: those that contain each query."""
    query_hashes: Hashes
    """uint64[Q]"""
    seed: int
    mode: str
    """The set's own, by name."""
    t: int
    """The set's own; in a mode for the whole set what its config would give each query."""

    @classmethod
    def of(cls, output: Place) -> Balanced:
        """Of the data set in `output`. Raises OutputError before it is balanced, DamagedFileError."""
        check_output(output)
        config = config_of(output)
        if config is None:
            raise OutputError(f"{output}: has no config that can be read; go on with `python -m pipeline run` first")
        page = build(config)
        pairs = page["permitted" if "permitted" in page else "dedup"].data
        unique, counts = pairs.present("unique"), page["count"].data.present("counts")
        listed, limit = page["queries"].data.present("query_hashes"), page["limit"].data.said()
        counted = page["count"].data.said()
        if not (unique and counts and counted and limit and listed):
            raise OutputError(f"{output}: not balanced yet; go on with `python -m pipeline run` first")
        own_t = not mode_of(config.balance.mode).whole_set
        return cls(
            unique=unique,
            pairs=int(counted[0]["pairs"]),
            counts=np.array(load_vector(counts[0])),
            query_hashes=np.array(load_vector(listed[0])),
            seed=config.seed,
            mode=config.balance.mode,
            t=int(limit[0]["t"]) if own_t else config.balance.max_pairs_per_query,
        )

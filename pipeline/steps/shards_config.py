"""The options of step shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from configs.bounds import Bounds
from configs.load import check_bounds

__all__ = ["ShardsConfig"]


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    """Layout of the published shards."""

    samples_per_shard: Annotated[int, Bounds(least=1)] = 10_000
    """Samples in a tar, at most; shards are made equal in size. Staging shards are of this size too."""

    keep_staging: bool = False
    """Keep the pictures of published samples in work/fetch too. They take twice the disk then, and a damaged shard is
    written again without a request. Otherwise their room there is given back (on Linux, not in a bucket, and not where
    fetch.store is shared): a picture lies on the disk once."""

    def __post_init__(self) -> None:
        check_bounds(self)

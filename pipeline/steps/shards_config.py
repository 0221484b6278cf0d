"""The options of step shards."""

from __future__ import annotations

from dataclasses import dataclass

from configs.load import ConfigError

__all__ = ["ShardsConfig"]


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    """Layout of the published shards."""

    samples_per_shard: int = 10_000
    """Samples in a tar, at most; shards are made equal in size. Staging shards are of this size too."""

    keep_staging: bool = False
    """Keep the pictures of published samples in work/fetch too. They take twice the disk then, and a damaged shard is
    written again without a request. Otherwise their room there is given back (on Linux, not in a bucket, and not where
    fetch.store is shared): a picture lies on the disk once."""

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1:
            raise ConfigError(f"samples_per_shard must be at least 1, not {self.samples_per_shard}")

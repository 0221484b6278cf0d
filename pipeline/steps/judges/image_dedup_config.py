"""The options of step image_dedup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs.load import ConfigError

__all__ = ["ImageDedupConfig", "Mode"]

Mode = Literal["off", "same_file", "near"]


@dataclass(frozen=True, kw_only=True)
class ImageDedupConfig:
    """Which pictures count as the same, over the whole set."""

    mode: Mode = "off"
    """off: every URL's picture stays. same_file: one of those with equal bytes stays. near: also one of those whose
    perceptual hashes differ in at most `max_distance` bits and whose thumbnails look alike."""
    max_distance: int = 4
    """Bits of 64 in which perceptual hashes may differ, for `near`."""
    partitions: int = 8
    """Hash partitions; the pictures of each are sorted in `memory_mb`, or spill to disk."""
    ranges: int = 1
    """Key ranges for each of the max_distance + 1 bands; the hashes of each are held in memory, 40 bytes a picture."""
    memory_mb: int = 1024
    """Memory of one task before it spills to disk, in MB."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_distance <= 16:
            raise ConfigError(f"max_distance must be 0 to 16 of 64 bits, got {self.max_distance}")
        if min(self.partitions, self.ranges, self.memory_mb) < 1:
            raise ConfigError("partitions, ranges and memory_mb must be at least 1")

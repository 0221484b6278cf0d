"""The options of step image_dedup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import check_bounds

__all__ = ["ImageDedupConfig", "Mode"]

Mode = Literal["off", "same_file", "near"]


@dataclass(frozen=True, kw_only=True)
class ImageDedupConfig:
    """Which pictures count as the same, over the whole set."""

    mode: Mode = "off"
    """off: every URL's picture stays. same_file: one of those with equal bytes stays. near: also one of those whose
    perceptual hashes differ in at most `max_distance` bits and whose thumbnails look alike."""
    max_distance: Annotated[int, Bounds(least=0, most=16)] = 4
    """Bits of 64 in which perceptual hashes may differ, for `near`."""
    partitions: Annotated[int, Bounds(least=1)] = 8
    """Hash partitions; the pictures of each are sorted in `memory_mb`, or spill to disk."""
    ranges: Annotated[int, Bounds(least=1)] = 1
    """Key ranges for each of the max_distance + 1 bands; the hashes of each are held in memory, 40 bytes a picture."""
    memory_mb: Annotated[int, Bounds(least=1)] = 1024
    """Memory of one task before it spills to disk, in MB."""

    def __post_init__(self) -> None:
        check_bounds(self)

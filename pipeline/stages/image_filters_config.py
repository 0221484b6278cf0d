"""The options of `filters`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds

__all__ = ["FiltersConfig", "ScoreFilter"]


@dataclass(frozen=True, kw_only=True)
class ScoreFilter:
    """One column of scores or labels, made by a model and given by uid."""

    files: tuple[str, ...]
    """Parquet files (paths or globs, in a bucket too) with a column `uid` (16 bytes, or 32 hex digits)."""
    column: str
    """The column to judge by: a number, or true and false."""
    min: Annotated[float, Bounds()] | None = None
    """Pairs below are rejected."""
    max: Annotated[float, Bounds()] | None = None
    """Pairs above are rejected."""
    missing: Literal["reject", "keep"] = "reject"
    """What becomes of pairs whose uid is not in the files, or whose value is null or not a number."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.files:
            raise ConfigError("files: name at least one Parquet file of scores")
        if self.min is None and self.max is None:
            raise ConfigError(f"scores of {self.column!r}: give min, max or both")


@dataclass(frozen=True, kw_only=True)
class FiltersConfig:
    """What a fetched pair must be to stay. Everything is off by default."""

    min_side: Annotated[int, Bounds(least=0)] = 0
    """Least length of the shorter side, in pixels as served. Unlike image.min_side, another value asks no URL again."""
    max_aspect_ratio: Annotated[float, Bounds(least=0)] = 0.0
    """Greatest longer / shorter side, as served; 0 for no limit."""
    min_words: Annotated[int, Bounds(least=0)] = 0
    """Least number of words of the caption, by white space."""
    min_chars: Annotated[int, Bounds(least=0)] = 0
    """Least number of characters of the caption."""
    languages: tuple[str, ...] = ()
    """Languages that stay, as in the column `lang`; empty for all."""
    scores: tuple[ScoreFilter, ...] = ()
    """Scores or labels by uid, each with its own limits."""
    score_partitions: Annotated[int, Bounds(least=1, most=256)] = 4
    """Parts, by uid, in which scores are sorted; each must fit in a worker's memory, at about 60 bytes a row."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.max_aspect_ratio != 0 and self.max_aspect_ratio < 1:
            raise ConfigError(f"max_aspect_ratio must be 0 (no limit) or at least 1, got {self.max_aspect_ratio}")

    @property
    def active(self) -> bool:
        """Whether anything can be rejected."""
        return self != FiltersConfig()

"""filters: judge a fetched pair by its picture's size, its caption's length, its language, and scores by uid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.load import ConfigError
from pipeline.outcome import Outcome, reject

__all__ = ["FiltersConfig", "ScoreFilter", "filter_facts"]


@dataclass(frozen=True, kw_only=True)
class ScoreFilter:
    """One column of scores or labels, made by a model and given by uid."""

    files: tuple[str, ...]
    """Parquet files (paths or globs) with a column `uid` (16 bytes, or 32 hex digits)."""
    column: str
    """The column to judge by: a number, or true and false."""
    min: float | None = None
    """Pairs below are rejected."""
    max: float | None = None
    """Pairs above are rejected."""
    missing: Literal["reject", "keep"] = "reject"
    """What becomes of pairs whose uid is not in the files, or whose value is null or not a number."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ConfigError("files: name at least one Parquet file of scores")
        if self.min is None and self.max is None:
            raise ConfigError(f"scores of {self.column!r}: give min, max or both")


@dataclass(frozen=True, kw_only=True)
class FiltersConfig:
    """What a fetched pair must be to stay. Everything is off by default."""

    min_side: int = 0
    """Least length of the shorter side, in pixels as served. Unlike image.min_side, another value asks no URL again."""
    max_aspect_ratio: float = 0.0
    """Greatest longer / shorter side, as served; 0 for no limit."""
    min_words: int = 0
    """Least number of words of the caption, by white space."""
    min_chars: int = 0
    """Least number of characters of the caption."""
    languages: tuple[str, ...] = ()
    """Languages that stay, as in the column `lang`; empty for all."""
    scores: tuple[ScoreFilter, ...] = ()
    """Scores or labels by uid, each with its own limits."""
    score_partitions: int = 4
    """Parts, by uid, in which scores are sorted; each must fit in a worker's memory, at about 60 bytes a row."""

    def __post_init__(self) -> None:
        if self.max_aspect_ratio != 0 and self.max_aspect_ratio < 1:
            raise ConfigError(f"max_aspect_ratio must be 0 (no limit) or at least 1, got {self.max_aspect_ratio}")
        if not 1 <= self.score_partitions <= 256:
            raise ConfigError(f"score_partitions must be 1 to 256, got {self.score_partitions}")

    @property
    def active(self) -> bool:
        """Whether anything can be rejected."""
        return self != FiltersConfig()


def filter_facts(
    batch: pa.RecordBatch, config: FiltersConfig, scores: Mapping[int, np.ndarray[tuple[int], np.dtype[np.float64]]]
) -> Outcome:
    """Judge a batch of FETCHED rows with pictures; the first limit that a pair breaks is its reason.

    `scores[i]` float64[N] are the values of `config.scores[i]` for the rows, NaN where there is none.
    """
    rows = batch.num_rows
    width = batch.column("original_width").to_numpy(zero_copy_only=False)
    height = batch.column("original_height").to_numpy(zero_copy_only=False)
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    captions = batch.column("caption")
    reasons = np.full(rows, None, object)
    details = np.full(rows, None, object)

    def turn_away(bad: np.ndarray[tuple[int], np.dtype[np.bool_]], reason: str, values: list[object]) -> None:
        for i in np.flatnonzero(bad & (reasons == None)):  # noqa: E711 - elementwise
            reasons[i], details[i] = reason, str(values[i])

    sizes: list[object] = [f"{w} x {h}" for w, h in zip(width.tolist(), height.tolist(), strict=True)]
    turn_away(shorter < config.min_side, "too_small", sizes)
    if config.max_aspect_ratio:
        turn_away(longer > shorter * config.max_aspect_ratio, "aspect_ratio", sizes)
    if config.min_words:
        words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(captions)))
        turn_away(words.to_numpy(zero_copy_only=False) < config.min_words, "too_few_words", captions.to_pylist())
    chars = pc.utf8_length(captions).to_numpy(zero_copy_only=False)
    turn_away(chars < config.min_chars, "too_short", captions.to_pylist())
    if config.languages:
        known = pc.is_in(batch.column("lang"), pa.array(config.languages)).to_numpy(zero_copy_only=False)
        turn_away(~known, "other_language", batch.column("lang").to_pylist())
    for i, score in enumerate(config.scores):
        values, shown = scores[i], [f"{score.column} {value:g}" for value in scores[i].tolist()]
        if score.missing == "reject":
            turn_away(np.isnan(values), "no_score", [score.column] * rows)
        if score.min is not None:
            turn_away(values < score.min, "low_score", list(shown))
        if score.max is not None:
            turn_away(values > score.max, "high_score", list(shown))
    return reject(
        batch,
        stage="filters",
        reasons=pa.array(reasons.tolist(), pa.string()),
        details=pa.array(details.tolist(), pa.string()),
    )

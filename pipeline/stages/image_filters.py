"""filters: judge a fetched pair by its picture's size, its caption's length, its language, and scores by uid."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.outcome import Outcome, reject
from pipeline.stages.image_filters_config import FiltersConfig, ScoreFilter

__all__ = ["FiltersConfig", "ScoreFilter", "filter_facts"]


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

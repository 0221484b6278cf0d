"""Filters: judge a fetched pair by its picture's size, its caption's length, its language, and scores by uid."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.records.outcome import Outcome, reject
from pipeline.stages.image_filters_config import FiltersConfig
from pipeline.stages.stage import Stage
from pipeline.storage.checked import load_vector
from pipeline.storage.location import Files, Location

__all__ = ["Filters", "Keys", "SortedScore", "filter_facts", "keys_of", "range_of"]

Keys = npt.NDArray[np.uint64]
"""uint64[N, 2]: uids, big-endian, the first half in column 0."""


def filter_facts(batch: pa.RecordBatch, config: FiltersConfig, scores: Sequence[npt.NDArray[np.float64]]) -> Outcome:
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


# --- scores by uid --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SortedScore:
    """The values of a score, in ranges of uids (`range_of`), each sorted by uid."""

    uids: Files
    """Per range: uint64[N, 2]."""
    values: Files
    """Per range: float64[N]."""


def keys_of(uids: pa.Array | pa.ChunkedArray) -> Keys:
    """uint64[N, 2] from binary(16), binary or hex text. Raises ValueError for anything else, nulls included."""
    plain = uids.to_pylist()
    data = b"".join(bytes.fromhex(uid) if isinstance(uid, str) else bytes(uid or b"") for uid in plain)
    if len(data) != 16 * len(plain):
        raise ValueError("uids are 16 bytes or 32 hex digits")
    return np.frombuffer(data, ">u8").astype(np.uint64).reshape(-1, 2)


def range_of(keys: Keys, ranges: int) -> npt.NDArray[np.uint64]:
    """uint64[N] in 0..ranges-1: equal ranges of the first 32 bits."""
    return ((keys[:, 0] >> np.uint64(32)) * np.uint64(ranges)) >> np.uint64(32)


@functools.lru_cache(maxsize=256)
def _open_vector(file: Location) -> npt.NDArray[Any]:
    """Checked and opened once a worker process: a task looks up few of the scores, and would read all of them."""
    return load_vector(file)


def _look_up(wanted: Keys, score: SortedScore) -> npt.NDArray[np.float64]:
    """float64[N]: the values of `wanted`, NaN where there is none."""
    result = np.full(len(wanted), np.nan)
    where = range_of(wanted, len(score.uids))
    for number, (uids_file, values_file) in enumerate(zip(score.uids, score.values, strict=True)):
        uids, values = _open_vector(uids_file), _open_vector(values_file)
        rows = np.flatnonzero(where == number)
        at = np.searchsorted(uids[:, 0], wanted[rows, 0], "left")
        while len(rows):  # more than once only where two uids share their first half
            inside = at < len(uids)
            rows, at = rows[inside], at[inside]
            same_half = uids[at, 0] == wanted[rows, 0]
            rows, at = rows[same_half], at[same_half]
            hit = uids[at, 1] == wanted[rows, 1]
            result[rows[hit]] = values[at[hit]]
            rows, at = rows[~hit], at[~hit] + 1
    return result


@dataclass(frozen=True, kw_only=True)
class Filters(Stage):
    """`filter_facts` as a stage of the page."""

    config: FiltersConfig
    scores: tuple[SortedScore, ...] = ()
    """One for each of `config.scores`."""

    name: ClassVar[str] = "filters"
    reads: ClassVar[tuple[str, ...]] = ("uid", "original_width", "original_height", "caption", "lang")
    reasons: ClassVar[Mapping[str, str]] = {
        "too_small": "a side of the picture, as served, is shorter than the limit",
        "aspect_ratio": "longer side / shorter side, as served, is above the limit",
        "too_few_words": "the caption has fewer words than the limit",
        "too_short": "the caption has fewer characters than the limit",
        "other_language": "the caption's language is not one of those that stay",
        "no_score": "the files of scores do not know the uid, or hold no number for it",
        "low_score": "a score is below the limit",
        "high_score": "a score is above the limit",
    }

    def judge(self, batch: pa.RecordBatch) -> Outcome:
        wanted = keys_of(batch.column("uid")) if self.scores else np.empty((0, 2), np.uint64)
        return filter_facts(batch, self.config, [_look_up(wanted, score) for score in self.scores])

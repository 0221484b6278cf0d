"""filters: which pairs stay by size, caption, language, and scores that arrive as Parquet by uid.

score files --scores (one task per score and uid range)--> sorted vectors, which the stage maps into memory
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import BinaryIO, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.engine import Data, Info, Task, output
from pipeline.errors import InputError
from pipeline.stages.image_filters import Filters, SortedScore, keys_of, range_of
from pipeline.stages.image_filters_config import FiltersConfig, ScoreFilter
from pipeline.stages.stage import Stage
from pipeline.steps.judges.judge_pairs import PairStage
from pipeline.steps.sources import Stamp, named_files, stamp_of
from pipeline.steps.step import Page, Run, StageToBe, step
from pipeline.storage.location import Files, Location
from pipeline.storage.named_objects import is_object, open_object
from pipeline.storage.parquet import save_vector

__all__ = ["Scores", "SortScores", "filters", "sort_scores"]

_BATCH_ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The values of a score for a range of uids, sorted by uid."""

    uids: Location = output("uids.npy")
    values: Location = output("values.npy")


@dataclass(frozen=True, kw_only=True)
class SortScores(Task[Scores]):
    """Read one range of uids out of all files of a score. The key holds the files' stamps, not their content."""

    files: tuple[str, ...]
    stamps: tuple[Stamp, ...]
    column: str
    number: int
    """Of the range."""
    ranges: int

    def work(self, out: Scores) -> Info:
        """A uid given twice has the value that comes last."""
        keys, values = [np.empty((0, 2), np.uint64)], [np.empty(0, np.float64)]
        for name in self.files:
            with _opened(name) as opened, pq.ParquetFile(opened) as file:
                for batch in file.iter_batches(_BATCH_ROWS, columns=["uid", self.column]):
                    try:
                        ids = keys_of(batch.column("uid"))
                    except (ValueError, TypeError) as error:
                        raise InputError(f"{name}: {error}; correct the column uid") from error
                    mine = range_of(ids, self.ranges) == self.number
                    number = pc.fill_null(pc.cast(batch.column(self.column), pa.float64()), float("nan"))
                    keys.append(ids[mine])
                    values.append(number.to_numpy(zero_copy_only=False)[mine])
        uids, numbers = np.concatenate(keys), np.concatenate(values)
        order = np.lexsort((uids[:, 1], uids[:, 0]))  # stable: equal uids stay in the order of the files
        uids, numbers = uids[order], numbers[order]
        last = np.ones(len(uids), bool)
        last[:-1] = (uids[1:] != uids[:-1]).any(axis=1)
        save_vector(out.uids.local, uids[last])
        save_vector(out.values.local, numbers[last])
        return {"rows": int(last.sum())}


@step("scores", SortScores, title="sort scores", per="score, uid range")
def sort_scores(run: Run, config: FiltersConfig) -> Iterator[SortScores]:
    """One task per score and uid range."""
    for i, score in enumerate(config.scores):
        files = tuple(_files_of(config, i))
        stamps = tuple(stamp_of(file) for file in files)
        for number in range(config.score_partitions):
            yield SortScores(
                partition=f"score-{i:02d}-{number:03d}",
                files=files,
                stamps=stamps,
                column=score.column,
                number=number,
                ranges=config.score_partitions,
            )


def _files_of(config: FiltersConfig, score: int) -> list[str]:
    return named_files(config.scores[score].files, f"filters.scores[{score}].files")


@sort_scores.checked_by
def _check(run: Run, config: FiltersConfig) -> None:
    """Raises InputError for files that are missing or not scores."""
    for i, score in enumerate(config.scores):
        for file in _files_of(config, i):
            _check_file(file, score)


def _opened(file: str) -> AbstractContextManager[str | BinaryIO]:
    """What a Parquet reader takes for the file: of one on this machine its name."""
    return open_object(file) if is_object(file) else nullcontext(file)


def _check_file(file: str, score: ScoreFilter) -> None:
    try:
        with _opened(file) as opened:
            schema = pq.read_schema(opened)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{file}: not a Parquet file of scores ({error}); correct `filters.scores`") from error
    for name in ("uid", score.column):
        if name not in schema.names:
            raise InputError(f"{file}: no column {name!r}, only {', '.join(schema.names)}; correct `filters.scores`")
    kind = schema.field(score.column).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InputError(f"{file}: the column {score.column!r} holds {kind}, not numbers; choose another")


@dataclass(frozen=True, kw_only=True)
class _Filtering(StageToBe):
    """Filters by scores that are still to be sorted."""

    config: FiltersConfig
    scores: Data[Scores]

    stage: ClassVar[type[Stage]] = Filters

    def ready(self) -> Stage:
        parts = iter(self.scores.parts)  # all ranges of a score, then those of the next
        sorted_scores = []
        for _ in self.config.scores:
            ranges = [next(parts).files for _ in range(self.config.score_partitions)]
            uids, values = Files(out.uids for out in ranges), Files(out.values for out in ranges)
            sorted_scores.append(SortedScore(uids=uids, values=values))
        return Filters(config=self.config, scores=tuple(sorted_scores))


def filters(page: Page, config: FiltersConfig) -> list[PairStage]:
    """The stage, with a step before it where there are scores; none where nothing is filtered."""
    if not config.active:
        return []
    if not config.scores:
        return [Filters(config=config)]
    return [_Filtering(config=config, scores=page.add(sort_scores(config)))]

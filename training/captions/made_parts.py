"""Whatever is made of a data set's pictures part by part: by which process, what is there already, pictures ahead.

    source --cut--> parts --those that are not there yet, by turns--> ranks
    part --rows, pictures decoded ahead in threads--> batches --work--> PART.parquet, done/PART.json
    all parts --> captions.json

A part is whole or not there; what a killed run has made stays.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.storage.place import Place
from pipeline.terminal.printable import say
from training.captions.caption_files import KIND, CaptionPart
from training.distributed import World
from training.embedding.kept_parts import kept_parts, note_part
from training.embedding.parts import Rows, SourcePart
from training.embedding.progress import EmbedProgress, console_of
from training.embedding.sources import Source
from training.embedding.trainers_errors import trainers_errors
from training.learning.features import prepare
from training.learning.model import Model

__all__ = ["Pictures", "make_parts"]

_BATCHES_AHEAD = 3


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Some whole pictures of a part."""

    which: Sequence[int]
    """Their rows."""
    images: npt.NDArray[np.uint8]
    """[B, S, S, 3], as the model wants them."""


def make_parts(
    source: Source,
    place: Place,
    keys: Mapping[str, str],
    *,
    made_by: str,
    world: World,
    model: Model,
    batch_size: int,
    threads: int | None,
    work: Callable[[SourcePart, Rows, Iterator[Pictures]], CaptionPart],
    doing: str,
    quiet: bool,
) -> list[CaptionPart]:
    """All parts of `source`, in order, those that were missing made by `work`; on every rank the same.

    `keys`: by name, what each part is made of; `made_by`: fingerprint of what makes them. Raises TrainingError.
    """
    kept = world.on_first(lambda: _kept(place, keys, made_by))
    missing = [part for part in source.parts if part.name not in kept]
    if world.is_first and not quiet:
        total, told = len(source.parts), f"; {len(kept):,} are there" if kept else ""
        say(f"{place}: {doing} {total:,} {'part' if total == 1 else 'parts'} ({source.kind}){told}", to=sys.stderr)
    own = missing[world.rank :: world.size]
    made = world.together(lambda: _made(own, place, model, batch_size, threads, work, world, doing, quiet))
    by_name = kept | {part.name: part for parts in world.gather_objects(made) for part in parts}
    return [by_name[part.name] for part in source.parts]


def _kept(place: Place, keys: Mapping[str, str], made_by: str) -> dict[str, CaptionPart]:
    with trainers_errors():
        return kept_parts(place, keys, model_fingerprint=made_by, kind=KIND)


def _made(
    parts: Sequence[SourcePart],
    place: Place,
    model: Model,
    batch_size: int,
    threads: int | None,
    work: Callable[[SourcePart, Rows, Iterator[Pictures]], CaptionPart],
    world: World,
    doing: str,
    quiet: bool,
) -> list[CaptionPart]:
    made: list[CaptionPart] = []
    workers = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="decode")
    progress = EmbedProgress(
        parts=len(parts), of_ranks=world.size, console=console_of(shown=world.is_first and not quiet), doing=doing
    )
    try:
        with trainers_errors(), progress:
            for part in parts:
                rows = part.rows()
                pictures = _told(_decoded(rows, model, batch_size, workers), rows, progress)
                made.append(work(part, rows, pictures))
                note_part(place, made[-1])
                progress.end_part()
    finally:
        workers.shutdown(cancel_futures=True)
    return made


def _decoded(rows: Rows, model: Model, batch_size: int, workers: ThreadPoolExecutor) -> Iterator[Pictures]:
    """The whole pictures of a part, batch by batch: which rows share one follows from the part alone."""
    there = np.flatnonzero(rows.has_picture).tolist()
    waiting: deque[tuple[list[int], list[Future[npt.NDArray[np.uint8] | None]]]] = deque()
    for first in [*range(0, len(there), batch_size), None]:
        if first is not None:
            which = there[first : first + batch_size]
            data = rows.pictures(which)
            waiting.append((which, [workers.submit(_prepared, each, model) for each in data]))
        while waiting and (first is None or len(waiting) > _BATCHES_AHEAD):
            some, futures = waiting.popleft()
            found = [
                (row, pixels) for row, each in zip(some, futures, strict=True) if (pixels := each.result()) is not None
            ]
            if found:
                yield Pictures(which=[row for row, _ in found], images=np.stack([pixels for _, pixels in found]))


def _prepared(data: bytes | None, model: Model) -> npt.NDArray[np.uint8] | None:
    return None if data is None else prepare(data, model)


def _told(batches: Iterator[Pictures], rows: Rows, progress: EmbedProgress) -> Iterator[Pictures]:
    through, total = 0, max(1, int(rows.has_picture.sum()))
    for batch in batches:
        yield batch
        through += len(batch.which)
        progress.advance(len(batch.which), share=through / total)

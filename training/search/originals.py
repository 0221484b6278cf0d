"""What was found, as it was before it became features: its text, and its picture, read where it lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import PipelineError
from training.embedding.parts import Rows, SourcePart
from training.embedding.sources import find_source
from training.errors import TrainingError
from training.search.index_files import IndexFacts

__all__ = ["Original", "originals_of"]


@dataclass(frozen=True, kw_only=True)
class Original:
    """One sample."""

    text: str | None = None
    picture: bytes | None = None
    """As it is stored."""


def originals_of(
    about: IndexFacts, source: str, places: Sequence[tuple[bytes, int, int]], *, pictures: bool
) -> tuple[list[Original], str | None]:
    """(the originals of samples (uid, part, row), what is wrong with the source or None).

    A sample that the source has no more, or no more at its place, has neither text nor picture.
    """
    found: dict[tuple[bytes, int, int], Original] = {}
    problem = None
    try:
        parts = {part.name: part for part in find_source(source, **about.columns).parts}
        for number in sorted({part for _, part, _ in places}):
            part = parts.get(about.parts[number])
            if part is None:
                problem = f"{source}: has changed since it was embedded; run embed and index again"
                continue
            wanted = [place for place in places if place[1] == number]
            for other in (part, *_beside(part, parts)):
                found |= _found(other.rows(), [place for place in wanted if place not in found], pictures=pictures)
                if found.keys() >= set(wanted):
                    break
            else:
                problem = f"{source}: has changed since it was embedded; run embed and index again"
    except (TrainingError, PipelineError, OSError) as error:
        problem = str(error)
    return [found.get(place, Original()) for place in places], problem


def _found(
    rows: Rows, places: Sequence[tuple[bytes, int, int]], *, pictures: bool
) -> dict[tuple[bytes, int, int], Original]:
    """Those of `places` whose uid is in a part: in its row, or in another since rows before it were removed."""
    here = {place: place[2] for place in places if place[2] < len(rows.uids) and rows.uids[place[2]] == place[0]}
    if len(here) < len(places):
        row_of = {uid: row for row, uid in enumerate(rows.uids)}
        here |= {place: row_of[place[0]] for place in places if place not in here and place[0] in row_of}
    which = [row for row in here.values() if rows.has_picture[row]] if pictures else []
    bodies = dict(zip(which, rows.pictures(which), strict=True)) if which else {}
    return {place: Original(text=rows.texts[row], picture=bodies.get(row)) for place, row in here.items()}


def _beside(part: SourcePart, parts: Mapping[str, SourcePart]) -> Iterator[SourcePart]:
    """The other parts of the same shard: rows of one move to the one before it where others were removed."""
    shard, _, number = part.name.rpartition("-")
    if number.isdigit() and shard:
        yield from (other for name, other in parts.items() if name.startswith(f"{shard}-") and other is not part)

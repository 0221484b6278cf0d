"""What was found, as it was before it became features: its text, and its picture, read where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import PipelineError
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
            rows = part.rows()
            here = [place for place in places if place[1] == number and place[2] < len(rows.uids)]
            here = [place for place in here if rows.uids[place[2]] == place[0]]
            which = [row for _, _, row in here if rows.has_picture[row]] if pictures else []
            bodies = dict(zip(which, rows.pictures(which), strict=True)) if which else {}
            for place in here:
                found[place] = Original(text=rows.texts[place[2]], picture=bodies.get(place[2]))
            if len(here) < sum(place[1] == number for place in places):
                problem = f"{source}: has changed since it was embedded; run embed and index again"
    except (TrainingError, PipelineError, OSError) as error:
        problem = str(error)
    return [found.get(place, Original()) for place in places], problem

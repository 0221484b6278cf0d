"""The retries of a data set: how often its failures were asked again, and what came of it.

    OUT/work/retries.json    {"finished": [{"retried": 79, "healed": 60}], "under_way": false}

A retry is begun by `run --retry-failed` and carried out by whatever run comes next, until one comes to its end. Its
number, from 1, is part of what `requests` does; 0 is the time before the first.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pipeline.storage.atomic import read_sealed, write_sealed
from pipeline.storage.place import Place

__all__ = ["Retried", "Retries", "begin", "end", "retries_of"]


@dataclass(frozen=True, kw_only=True)
class Retried:
    """What one retry did. Counts are URLs."""

    retried: int
    healed: int
    """Of the retried, those whose picture arrived and passed the image check."""


@dataclass(frozen=True, kw_only=True)
class Retries:
    """Every retry of a data set, the oldest first."""

    finished: tuple[Retried, ...] = ()
    under_way: bool = False

    @property
    def number(self) -> int:
        """Of the last retry that was begun; 0 where there was none."""
        return len(self.finished) + self.under_way


def retries_of(output: Place) -> Retries:
    """The retries of the data set in `output`; none where their record is damaged, so that every answer is taken as it
    stands."""
    state = read_sealed(_path(output)) or {}
    try:
        return Retries(finished=tuple(Retried(**one) for one in state["finished"]), under_way=bool(state["under_way"]))
    except (KeyError, TypeError):
        return Retries()


def begin(output: Place) -> None:
    """Begin a retry; the caller holds the lock, and none is under way. Raises OutputError."""
    _write(output, dataclasses.replace(retries_of(output), under_way=True))


def end(output: Place, outcome: Retried) -> None:
    """The retry under way has come to its end. Raises OutputError."""
    _write(output, Retries(finished=(*retries_of(output).finished, outcome)))


def _path(output: Place) -> Place:
    return output / "work" / "retries.json"


def _write(output: Place, retries: Retries) -> None:
    write_sealed(_path(output), dataclasses.asdict(retries))

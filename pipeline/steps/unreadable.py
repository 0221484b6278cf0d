"""unreadable: sources that cannot be read. Each is counted, and too many stop the step, since then the fault is
elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.engine import Done, forget
from pipeline.errors import InputError
from pipeline.stages.extract import ExtractConfig, check_source
from pipeline.steps.source_parts import Sources
from pipeline.steps.step import Accept, Run
from pipeline.storage.place import Place

__all__ = ["check_heads", "gate", "is_unreadable"]

_CHECKED = 100
_BAD_AT_FIRST = 3
"""So many unreadable sources before any other stop a run: nobody waits for 900 time-outs of a server that is gone."""


def check_heads(run: Run, sources: Sources, config: ExtractConfig) -> None:
    """Look at the heads of the tables on this machine, of many at a hundred, before anything is made of them.

    Raises InputError where a source is missing, and where more than the share `max_bad` of those looked at cannot be
    read: a column is missing, or holds no text; a file is cut, or of another format.
    """
    names = list(sources.found(run))
    looked_at = names[:: -(-len(names) // _CHECKED)]
    bad: list[InputError] = []
    for name in looked_at:
        try:
            check_source(name, config, format=sources.format)
        except InputError as error:
            bad.append(error)
    if len(bad) > sources.max_bad * len(looked_at):
        raise bad[0]


def is_unreadable(info: Mapping[str, Any]) -> bool:
    """Whether the source, or the part of one, that a task tells of could not be read."""
    return "unreadable" in info


def gate(run: Run, sources: Sources) -> Accept:
    """What counts unreadable sources as their records come, and stops the step at too many."""
    return _Gate(len(sources.found(run)), sources.max_bad).accept


class _Gate:
    def __init__(self, num_sources: int, max_bad: float) -> None:
        self._num_sources = num_sources
        self._max_bad = max_bad
        self._good: set[str] = set()
        self._bad: dict[str, list[Done]] = {}

    def accept(self, directory: Place, done: Done) -> None:
        """Raise InputError at one too many, and where a part of a source cannot be read though others could; what was
        unreadable is asked again by the next run."""
        source = done.info.get("part_of", done.partition)
        if is_unreadable(done.info):
            self._bad.setdefault(source, []).append(done)
        else:
            self._good.add(source)
        if source not in self._bad:
            return
        told = str(self._bad[source][0].info["unreadable"])
        if source in self._good:
            self._forget(directory, self._bad[source])
            raise InputError(f"{told} (other parts of this source could be read; run again to read this one)")
        at_first = not self._good and len(self._bad) >= _BAD_AT_FIRST
        if not at_first and len(self._bad) <= self._max_bad * self._num_sources:
            return
        records = [record for bad in self._bad.values() for record in bad]
        self._forget(directory, records)
        told = str(records[0].info["unreadable"])
        if self._num_sources > 1:
            others = f"{len(self._bad)} of {self._num_sources:,} sources cannot be read so far"
            told = f"{told} ({others}; max_bad_sources is {self._max_bad:g})"
        raise InputError(told)

    @staticmethod
    def _forget(directory: Place, records: list[Done]) -> None:
        forget(directory, *(bad.partition for bad in records))

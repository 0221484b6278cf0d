"""The files of a step: a named data set, in parts, whether the step is done, under way, or not begun."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pipeline.engine.record import Done, manifest_of, records_in
from pipeline.engine.task import outputs_of, place
from pipeline.storage.location import Files, Location
from pipeline.storage.place import Place

__all__ = ["Data", "Part"]

Out = TypeVar("Out", covariant=True)


@dataclass(frozen=True, kw_only=True)
class Part(Generic[Out]):
    """What a task wrote for one part, mostly named like its partition."""

    name: str
    files: Out
    info: Mapping[str, Any]
    """What the task said of it."""


class Data(Generic[Out]):
    """What a step writes. Steps that read it cut their tasks when it is done, so `parts` is for them."""

    def __init__(self, name: str, out: type[Out]) -> None:
        self.name = name
        self.out = out
        self._directory: Place | None = None
        self._parts: list[Part[Out]] | None = None

    @property
    def directory(self) -> Place:
        """Where its files are, once a page has taken its step."""
        if self._directory is None:
            raise RuntimeError(f"{self.name} is on no page")
        return self._directory

    @directory.setter
    def directory(self, path: Place) -> None:
        self._directory = path

    def finish(self, records: Sequence[Done]) -> None:
        """The step is done, with these records."""
        self._parts = [part for record in records for part in _parts_of(record, self.directory, self.out)]

    @property
    def is_done(self) -> bool:
        """Whether `finish` was called."""
        return self._parts is not None

    @property
    def parts(self) -> Sequence[Part[Out]]:
        """What the finished tasks wrote, in the order of the tasks."""
        if self._parts is None:
            raise RuntimeError(f"{self.name} is asked for what it holds before it is done")
        return self._parts

    @property
    def only(self) -> Part[Out]:
        """The part of a step that has one."""
        (part,) = self.parts
        return part

    def files(self, pick: Callable[[Out], Location]) -> Files:
        """One file of every part."""
        return Files(pick(part.files) for part in self.parts)

    def total(self, name: str) -> int:
        """The sum of a number that the tasks tell."""
        return sum(int(part.info[name]) for part in self.parts)

    def present(self, field: str) -> Files:
        """The files of one output that are there, of the last plan or of one under way. For those who only look."""
        records = manifest_of(self.directory)
        if records is None:
            records = list(records_in(self.directory))
        end = outputs_of(self.out)[field].files("")[0]
        located = (file for record in records for file in record.located(self.directory).values())
        return Files(file for file in located if file.path.endswith(end) and _is_there(file))

    def said(self) -> list[Mapping[str, Any]]:
        """What the tasks that are done told, of the last plan or of one under way. For those who only look."""
        return [record.info for record in records_in(self.directory)]

    @property
    def is_whole(self) -> bool:
        """Whether the last plan's tasks were all done. For those who only look."""
        return manifest_of(self.directory) is not None


_NOT_KEPT = ("lines",)
"""Of what a task said: the ledger's, which are many and summed up by then."""


def _is_there(file: Location) -> bool:
    """Of a bucket every record is believed: what is gone is told where it is read."""
    place = file.place
    return not isinstance(place, Path) or place.exists()


def _parts_of(record: Done, directory: Place, out: type[Out]) -> Iterator[Part[Out]]:
    located = record.located(directory)
    several = record.info.get("parts")
    if several is None:
        info = {name: said for name, said in record.info.items() if name not in _NOT_KEPT}
        yield Part(name=record.partition, files=place(out, record.partition, located), info=info)
        return
    for info in several:
        yield Part(name=info["name"], files=place(out, info["name"], located), info=info)

"""A task on its way to a worker: its bytes, and apart from them the lists of files that many tasks share.

    task --pack--> parcel (bytes), shared (kept by Ray once, however many tasks name it) --unpack--> task

Ten thousand files are 0.9 MB, and every task of a step may read all of them.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from pipeline.storage.location import Files

__all__ = ["Packer", "unpack"]

_LEAST_FILES = 100
"""Of a list that is worth sending apart: about 10 KB."""
_REMEMBERED = 16
"""Lists that are looked out for. Tasks that share one are neighbours."""


class Packer:
    """Packs the tasks of a step."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._pickler = _pickler(ray.cloudpickle.CloudPickler)
        self._met: OrderedDict[int, tuple[Files, Any]] = OrderedDict()
        """By identity: a list, and what Ray knows it by once it was met again."""

    def pack(self, content: Any) -> tuple[bytes, list[Any]]:
        """The bytes, and Ray's references to what they leave out, for `unpack` to be called with. It is kept for as
        long as this packer, or a task in flight, needs it."""
        buffer = io.BytesIO()
        pickler = self._pickler(buffer, self._reference_to)
        pickler.dump(content)
        return buffer.getvalue(), pickler.shared

    def _reference_to(self, files: Files) -> Any:
        """None for a list that was not met before: perhaps no other task has it."""
        known = self._met.get(id(files))
        if known is None:
            self._met[id(files)] = files, None  # held, so that nothing else gets its identity
            if len(self._met) > _REMEMBERED:
                self._met.popitem(last=False)
            return None
        self._met.move_to_end(id(files))
        if known[1] is None:
            known = self._met[id(files)] = files, self._ray.put(files)
        return known[1]


def unpack(parcel: bytes, shared: Sequence[Files]) -> Any:
    """What was packed."""
    unpickler = _Unpickler(io.BytesIO(parcel))
    unpickler.shared = shared
    return unpickler.load()


def _pickler(base: type[Any]) -> type[Any]:
    """Ray's pickler, which knows classes of scripts too; Ray is not imported before it is needed."""

    class Pickler(base):  # type: ignore[misc]  # what it is of is known at run time only
        def __init__(self, file: io.BytesIO, reference_to: Any) -> None:
            super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
            self._reference_to = reference_to
            self._places: dict[int, int | None] = {}
            self.shared: list[Any] = []

        def persistent_id(self, value: Any) -> int | None:
            if type(value) is not Files or len(value) < _LEAST_FILES:
                return None
            if id(value) not in self._places:
                reference = self._reference_to(value)
                self._places[id(value)] = None if reference is None else len(self.shared)
                self.shared += [] if reference is None else [reference]
            return self._places[id(value)]

    return Pickler


class _Unpickler(pickle.Unpickler):
    shared: Sequence[Files]

    def persistent_load(self, place: int) -> Files:
        return self.shared[place]

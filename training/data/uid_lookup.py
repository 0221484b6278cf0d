"""Where the rows of samples lie among files that know them by uid.

file STEM.* or STEM-000.* of a shard STEM --> most samples     all files together --> those that were moved since
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["FoundRows", "UidLookup"]

_OF_SHARD = re.compile(r"(.+?)(-\d{3,})?")


class FoundRows(NamedTuple):
    """For each of n samples its file and the row there."""

    file: npt.NDArray[np.int32]
    """int32[n]: -1 where no file has it."""
    row: npt.NDArray[np.int32]


class UidLookup:
    """Finds rows by the first 64 bits of their uids. Files are read when they are asked for."""

    def __init__(self, names: Sequence[str], read: Callable[[int], npt.NDArray[np.uint64]]) -> None:
        """`names`: of the files, without what stands behind the dot; `read` gives the uids uint64[n] of a file's rows
        by its number."""
        self._read = read
        self._count = len(names)
        self._by_stem: dict[str, list[int]] = {}
        for number, name in enumerate(names):
            for stem in dict.fromkeys((name, _stem(name))):
                self._by_stem.setdefault(stem, []).append(number)
        self._all: _Sorted | None = None

    def find(self, stem: str, uids: npt.NDArray[np.uint64]) -> FoundRows:
        """The rows of `uids` uint64[n], of which most are in the files of the shard `stem`."""
        near = self._by_stem.get(stem) or self._by_stem.get(_stem(stem)) or []
        found = _Sorted.of({number: self._read(number) for number in near}).find(uids)
        rest = np.flatnonzero(found.file < 0)
        if len(rest) and len(near) < self._count:
            # 16 bytes a row: only where shards were cut anew since.
            self._all = self._all or _Sorted.of({number: self._read(number) for number in range(self._count)})
            elsewhere = self._all.find(uids[rest])
            found.file[rest], found.row[rest] = elsewhere
        return found


def _stem(name: str) -> str:
    match = _OF_SHARD.fullmatch(name)
    return name if match is None else match[1]


class _Sorted(NamedTuple):
    uids: npt.NDArray[np.uint64]
    files: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int32]

    @classmethod
    def of(cls, files: dict[int, npt.NDArray[np.uint64]]) -> _Sorted:
        """Of the uids of some files by number."""
        uids = np.concatenate([np.zeros(0, np.uint64), *files.values()])
        numbers = np.concatenate([np.zeros(0, np.int32), *(np.full(len(u), n, np.int32) for n, u in files.items())])
        rows = np.concatenate([np.zeros(0, np.int32), *(np.arange(len(u), dtype=np.int32) for u in files.values())])
        order = np.argsort(uids, kind="stable")
        return cls(uids[order], numbers[order], rows[order])

    def find(self, uids: npt.NDArray[np.uint64]) -> FoundRows:
        """The first row of each of `uids`."""
        files, rows = np.full(len(uids), -1, np.int32), np.zeros(len(uids), np.int32)
        if len(self.uids):
            places = np.minimum(np.searchsorted(self.uids, uids), len(self.uids) - 1)
            there = self.uids[places] == uids
            files[there], rows[there] = self.files[places[there]], self.rows[places[there]]
        return FoundRows(files, rows)

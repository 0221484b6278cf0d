"""source_parts: the files that a config names, each as one task reads it: whole, or a stretch of a large one.

    sources --find--> files with their stamps --cut by size--> parts

A part hangs on the file's size and the options alone, so that planning opens no file. Where nobody told the size (files
behind http(s), and the URLs of a list), a file is one part.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import xxhash

from pipeline.errors import InputError
from pipeline.stages.extract import Format, Stretch, format_of, stores_pictures
from pipeline.steps.sources import Stamp, find_sources
from pipeline.steps.step import Run
from pipeline.storage.output import is_output
from pipeline.storage.place import Place

__all__ = ["SourcePart", "Sources", "partition_name"]

_MOST_PARTS = 256
"""Of a file. Tables of gigabytes tend to have a few dozen large row groups: most of a thousand tasks would idle."""


@dataclass(frozen=True, kw_only=True)
class SourcePart:
    """What one task reads. In a task's key it holds the file's stamp, not the content."""

    name: str
    """Of the task; safe in file names."""
    source: str
    stamp: Stamp
    format: Format
    stretch: Stretch


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What the config says of the sources, and the files that it names."""

    patterns: tuple[str, ...]
    format: Format
    most: int | None
    """Of the files of each pattern."""
    max_bad: float
    """The share of them that may be unreadable."""
    max_rows: int | None = None
    """Of each file."""
    table_bytes: int
    """A larger table is cut."""
    archive_bytes: int
    """A larger archive is cut."""

    @property
    def store_pictures(self) -> bool:
        """Whether pictures lie beside the rows."""
        return stores_pictures(self.format)

    def found(self, run: Run) -> Mapping[str, Stamp]:
        """The files with their stamps, looked for once. Raises InputError for one that is missing."""
        if run.output not in self._found:
            lists = run.directory("lists") if is_output(run.output) else None
            self._found[run.output] = find_sources(
                self.patterns, most=self.most, seed=run.seed, lists=lists, max_missing=self.max_bad
            )
        return self._found[run.output]

    @cached_property
    def _found(self) -> dict[Place, Mapping[str, Stamp]]:
        return {}

    def parts(self, run: Run) -> Iterator[SourcePart]:
        """The parts of every file, in order. Raises InputError as `found` does."""
        for source, stamp in self.found(run).items():
            name, stretches = partition_name(source), self._stretches(source, stamp)
            for number, stretch in enumerate(stretches):
                yield SourcePart(
                    name=name if len(stretches) == 1 else f"{name}-{number:05d}",
                    source=source,
                    stamp=stamp,
                    format=self.format,
                    stretch=stretch,
                )

    def _stretches(self, source: str, stamp: Stamp) -> Sequence[Stretch]:
        """Stretches of about the same size; one where the file is small, or is not to be cut."""
        size = int(stamp[0] or 0) if stamp else 0
        num = min(-(-size // self._task_bytes(source, size)), _MOST_PARTS) if size else 1
        ends = [size * number // num for number in range(num)]
        return [
            Stretch(begin=begin, end=end, max_rows=self.max_rows)
            for begin, end in zip(ends, [*ends[1:], None], strict=True)
        ]

    def _task_bytes(self, source: str, size: int) -> int:
        try:
            cut = format_of(source, self.format).cut
        except InputError:
            return size  # the task says why it cannot be read
        if cut == "table":
            return self.table_bytes
        # Which number a record has in the middle of an archive nobody knows.
        return self.archive_bytes if cut == "archive" and self.max_rows is None else size


def partition_name(source: str) -> str:
    """Readable, unique, and the same whatever other sources there are."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", os.path.basename(source))[:60].strip("-")
    return f"{stem}-{xxhash.xxh3_64_hexdigest(source.encode())[:8]}"

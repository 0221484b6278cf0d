"""An evaluation set in CLIP_benchmark's WebDataset form.

    SET/test/nshards.txt, SET/test/{0..n-1}.tar     KEY.jpg|png|webp, KEY.cls, optionally KEY.txt
    SET/train/...                                   the same, for a linear probe
    SET/classnames.txt, SET/zeroshot_classification_templates.txt    see prompts.py

`.txt` holds captions, one a line; where there are some, retrieval is measured too.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import one_line
from pipeline.storage.bucket import BucketPath
from pipeline.storage.lines import read_lines
from pipeline.storage.place import Place
from training.data.shards import IMAGE_SUFFIXES
from training.errors import EvaluationError
from training.evaluation.sets.form import EvaluationSet, Example, reading
from training.evaluation.sets.prompts import CLASSES_FILE, listed_classes, templates_for

__all__ = ["COUNT_FILE", "TarPart", "open_tars"]

COUNT_FILE = "nshards.txt"


def open_tars(root: Place) -> EvaluationSet:
    """The set at `root`. Raises EvaluationError where the layout is not complete."""
    classes = listed_classes(root) or ()
    train = root / "train"
    return EvaluationSet(
        root=root,
        form="tars",
        classes=classes,
        templates=templates_for(root) if classes else (),
        parts=_tars(root / "test", len(classes)),
        train=_tars(train, len(classes)) if (train / COUNT_FILE).is_file() else (),
    )


@dataclass(frozen=True, kw_only=True)
class TarPart:
    """One tar."""

    tar: Place
    num_classes: int

    def examples(self) -> Iterator[Example]:
        """See Part."""
        try:
            with reading(self.tar), _opened(self.tar) as archive:
                members: dict[str, dict[str, bytes]] = {}
                for member in archive:
                    stem, _, suffix = member.name.rpartition(".")
                    file = archive.extractfile(member)
                    if file is None:
                        continue
                    if stem not in members and members:
                        yield self._example(*members.popitem())
                    members.setdefault(stem, {})[suffix.lower()] = file.read()
                if members:
                    yield self._example(*members.popitem())
        except tarfile.TarError as error:
            raise EvaluationError(f"{self.tar}: cannot be read ({one_line(error)}); make the set again") from error

    def _example(self, key: str, members: dict[str, bytes]) -> Example:
        name = f"{self.tar}: {key}"
        image = next((members[s] for s in IMAGE_SUFFIXES if s in members), None)
        if image is None:
            raise EvaluationError(f"{name} has no picture ({', '.join(IMAGE_SUFFIXES)}); make the set again")
        label: int | None = None
        if "cls" in members:
            text = members["cls"].decode("utf-8", "replace").strip()
            if not self.num_classes:
                raise EvaluationError(
                    f"{name} has a label, and the set no class names; write {CLASSES_FILE} beside test/"
                )
            if not text.isdigit() or int(text) >= self.num_classes:
                raise EvaluationError(
                    f"{name}.cls is {text!r}, not a class number below {self.num_classes}; make the set again, or "
                    f"complete {CLASSES_FILE}"
                )
            label = int(text)
        captions = members.get("txt", b"").decode("utf-8", "replace").split("\n")
        return Example(name=name, image=image, label=label, captions=tuple(c for c in captions if c.strip()))


def _tars(directory: Place, num_classes: int) -> tuple[TarPart, ...]:
    path = directory / COUNT_FILE
    with reading(path, remedy="make the set again"):
        lines = [line for line in read_lines(path) if line.strip()]
    if len(lines) != 1 or not lines[0].isdigit():
        raise EvaluationError(f"{path}: expected one number, the count of tars; make the set again")
    tars = [directory / f"{number}.tar" for number in range(int(lines[0]))]
    for tar in tars:
        if not tar.is_file():
            raise EvaluationError(f"{tar}: missing, though {COUNT_FILE} counts it; make the set again")
    return tuple(TarPart(tar=tar, num_classes=num_classes) for tar in tars)


@contextmanager
def _opened(tar: Place) -> Iterator[tarfile.TarFile]:
    """A tar to be read from its beginning to its end, of a bucket without a copy on this machine."""
    if isinstance(tar, Path):
        with tarfile.open(tar) as archive:
            yield archive
    else:
        with io.BufferedReader(_Stream(tar)) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            yield archive


class _Stream(io.RawIOBase):
    """An object from its beginning to its end."""

    def __init__(self, path: BucketPath) -> None:
        self._pieces = path.stream()
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = memoryview(next(self._pieces, b""))
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size

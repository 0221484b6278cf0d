"""An evaluation set in CLIP_benchmark's WebDataset form.

    EVAL/test/nshards.txt, EVAL/test/{0..n-1}.tar   KEY.jpg|png|webp, KEY.cls, optionally KEY.txt
    EVAL/classnames.txt                             one class a line
    EVAL/zeroshot_classification_templates.txt      one template a line, {c} stands for the class

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

from pipeline.errors import InputError, one_line
from pipeline.storage.bucket import BucketPath, ConflictError
from pipeline.storage.lines import read_lines
from pipeline.storage.place import Place, place_of
from training.data.shards import IMAGE_SUFFIXES
from training.errors import EvaluationError

__all__ = ["EvaluationSet", "Example"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One member of an evaluation set."""

    image: bytes
    label: int | None
    captions: tuple[str, ...]


class EvaluationSet:
    """An evaluation set, on a disk or in a bucket. Examples are read anew at each pass; they need not fit in memory."""

    def __init__(self, path: str | Place) -> None:
        """Raises EvaluationError where the layout is not complete."""
        self.root = place_of(path)
        test = self.root / "test"
        count = self._lines(test / "nshards.txt")
        if len(count) != 1 or not count[0].isdigit():
            raise EvaluationError(f"{test / 'nshards.txt'}: expected one number, the count of tars")
        self.tars = [test / f"{i}.tar" for i in range(int(count[0]))]
        for tar in self.tars:
            if not tar.is_file():
                raise EvaluationError(f"{tar}: missing, though nshards.txt counts it; make the set again")
        self.classes = self._lines(self.root / "classnames.txt")
        self.templates = self._lines(self.root / "zeroshot_classification_templates.txt")
        for template in self.templates:
            if "{c}" not in template:
                raise EvaluationError(f"{self.root}: the template {template!r} has no {{c}} for the class name")
        if not self.classes or not self.templates:
            raise EvaluationError(f"{self.root}: class names or templates are empty")

    def examples(self) -> Iterator[Example]:
        """All examples, in file order. Raises EvaluationError for a damaged tar or label."""
        for tar in self.tars:
            try:
                with _opened(tar) as archive:
                    members: dict[str, dict[str, bytes]] = {}
                    for member in archive:
                        stem, _, suffix = member.name.rpartition(".")
                        file = archive.extractfile(member)
                        if file is None:
                            continue
                        if stem not in members and members:
                            yield self._example(tar, *members.popitem())
                        members.setdefault(stem, {})[suffix.lower()] = file.read()
                    if members:
                        yield self._example(tar, *members.popitem())
            except (OSError, tarfile.TarError, ConflictError) as error:
                raise EvaluationError(f"{tar}: cannot be read ({one_line(error)})") from error

    def _example(self, tar: Place, key: str, members: dict[str, bytes]) -> Example:
        image = next((members[s] for s in IMAGE_SUFFIXES if s in members), None)
        if image is None:
            raise EvaluationError(f"{tar}: {key} has no picture")
        label: int | None = None
        if "cls" in members:
            text = members["cls"].decode("utf-8", "replace").strip()
            if not text.isdigit() or int(text) >= len(self.classes):
                raise EvaluationError(f"{tar}: {key}.cls is {text!r}, not a class number below {len(self.classes)}")
            label = int(text)
        captions = members.get("txt", b"").decode("utf-8", "replace").split("\n")
        return Example(image=image, label=label, captions=tuple(c for c in captions if c.strip()))

    def _lines(self, path: Place) -> list[str]:
        try:
            return [line for line in read_lines(path) if line.strip()]
        except InputError as error:
            raise EvaluationError(str(error)) from error
        except OSError as error:
            raise EvaluationError(
                f"{path}: cannot be read ({error.strerror}); make the evaluation set, or set --evaluation.path"
            ) from error


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

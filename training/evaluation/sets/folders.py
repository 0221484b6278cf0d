"""Pictures in a directory for each class, as ImageNet comes.

    SET/CLASS/**/*.jpg                     or SET/{test,val,validation}/CLASS/..., and SET/train/CLASS/... for a probe

Classes are the sorted directories, and those of ImageNet may be called by their WordNet numbers; see prompts.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.storage.place import Place
from training.errors import EvaluationError
from training.evaluation.sets.form import EvaluationSet, Example, reading
from training.evaluation.sets.prompts import class_names, templates_for

__all__ = ["TEST_NAMES", "PathPart", "cut", "open_folders"]

TEST_NAMES = ("test", "val", "validation")
"""What people call the part that is measured on, in order of preference."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2")
_EXAMPLES_A_PART = 1000
"""So that ranks can share a set, and a part is no task by itself."""


@dataclass(frozen=True, kw_only=True)
class PathPart:
    """Pictures that lie as files."""

    rows: Sequence[tuple[Place, int | None, tuple[str, ...]]]
    """Picture, class, captions."""

    def examples(self) -> Iterator[Example]:
        """See Part."""
        for path, label, captions in self.rows:
            with reading(path, remedy="bring the picture, or take it out of the set"):
                image = path.read_bytes()
            yield Example(name=str(path), image=image, label=label, captions=captions)


def cut(rows: Sequence[tuple[Place, int | None, tuple[str, ...]]]) -> tuple[PathPart, ...]:
    """`rows` as parts."""
    return tuple(PathPart(rows=rows[i : i + _EXAMPLES_A_PART]) for i in range(0, len(rows), _EXAMPLES_A_PART))


def open_folders(root: Place) -> EvaluationSet:
    """The set at `root`. Raises EvaluationError where a class is empty, or one of train is not in the test part."""
    with reading(root):
        test = next((root / name for name in TEST_NAMES if _folders(root / name)), root)
        folders = _folders(test)
        if not folders:
            raise EvaluationError(
                f"{root}: holds no directories of classes; see docs/evaluate.md for the forms of a set"
            )
        keys = [folder.name for folder in folders]
        train = _folders(root / "train") if test != root else []
        for folder in train:
            if folder.name not in keys:
                raise EvaluationError(f"{folder}: a class that {test} has not; give both parts the same classes")
        return EvaluationSet(
            root=root,
            form="folders",
            classes=class_names(root, keys),
            templates=templates_for(root, keys),
            parts=cut(_pictures(folders, keys)),
            train=cut(_pictures(train, keys)),
        )


def _folders(place: Place) -> list[Place]:
    if not place.is_dir():
        return []
    return sorted((each for each in place.iterdir() if not each.name.startswith(".") and each.is_dir()), key=str)


def _pictures(folders: Sequence[Place], keys: Sequence[str]) -> list[tuple[Place, int | None, tuple[str, ...]]]:
    rows: list[tuple[Place, int | None, tuple[str, ...]]] = []
    numbers = {key: number for number, key in enumerate(keys)}
    for folder in folders:
        found = [path for path in _files_below(folder) if path.suffix.lower() in SUFFIXES]
        if not found:
            raise EvaluationError(f"{folder}: a class without pictures ({' '.join(SUFFIXES)}); fill or remove it")
        rows += [(path, numbers[folder.name], ()) for path in found]
    return rows


def _files_below(folder: Place) -> list[Place]:
    if isinstance(folder, Path):
        return sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path, _ in folder.walk()]

"""A data set that Hugging Face's `datasets` saved on disk (`save_to_disk`), read by pyarrow alone.

    SET/dataset_dict.json                  {"splits": ["train", "test"]}: each in its directory; or one set by itself
    SET/state.json                         {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    SET/*.arrow                            Arrow's streaming format; pictures as struct<bytes, path>

`save_to_disk` writes the rows in their order, chosen and filtered, and takes the pictures' bytes in
(datasets 5.2, arrow_dataset.py), so that nothing beside the tables is needed. What the columns are stands in the
schema's metadata (columns.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import one_line
from pipeline.storage.place import Place
from training.errors import EvaluationError
from training.evaluation.sets.columns import Columns, captions_of, find_columns, number_labels
from training.evaluation.sets.folders import TEST_NAMES
from training.evaluation.sets.form import EvaluationSet, Example, reading
from training.evaluation.sets.lists import picture_of
from training.evaluation.sets.prompts import templates_for

__all__ = ["STATE_FILES", "open_arrow"]

_DICT, _STATE = "dataset_dict.json", "state.json"
STATE_FILES = (_DICT, _STATE)
"""By which such a directory is known."""


@dataclass(frozen=True, kw_only=True)
class _ArrowPart:
    """One .arrow file."""

    place: Place
    columns: Columns
    labels: Sequence[int | None]

    def examples(self) -> Iterator[Example]:
        """See Part."""
        number = 0
        with reading(self.place), _opened(self.place) as stream:
            for batch in stream:
                captions = (
                    [()] * len(batch) if self.columns.caption is None else batch[self.columns.caption].to_pylist()
                )
                for cell, texts in zip(batch[self.columns.image], captions, strict=True):
                    name = f"{self.place}: row {number}"
                    yield Example(
                        name=name,
                        image=picture_of(cell.as_py(), self.place.parent, name),
                        label=self.labels[number],
                        captions=captions_of(texts),
                    )
                    number += 1


def open_arrow(root: Place) -> EvaluationSet:
    """The set at `root`. Raises EvaluationError."""
    splits = [root]
    if (root / _DICT).is_file():
        names = _json(root / _DICT).get("splits", [])
        test = next((name for name in TEST_NAMES if name in names), None)
        if test is None:
            raise EvaluationError(
                f"{root}: its parts are {', '.join(names) or 'none'}, and none of {', '.join(TEST_NAMES)}; give one of "
                "them as the set"
            )
        splits = [root / test, *([root / "train"] if "train" in names else [])]
    files = [_files(split) for split in splits]
    columns = _columns(files[0][0])
    raw = [[_labels(file, columns) for file in each] for each in files]
    flat = [label for each in raw for labels in each for label in labels]
    numbered = number_labels(root, root, flat, columns.classes)
    numbers = iter(numbered.numbers)
    parts = [
        tuple(
            _ArrowPart(place=file, columns=columns, labels=[next(numbers) for _ in labels])
            for file, labels in zip(each, of_each, strict=True)
        )
        for each, of_each in zip(files, raw, strict=True)
    ]
    return EvaluationSet(
        root=root,
        form="datasets",
        classes=numbered.classes,
        templates=templates_for(root, numbered.keys) if numbered.classes else (),
        parts=parts[0],
        train=parts[1] if len(parts) > 1 else (),
    )


def _files(directory: Place) -> list[Place]:
    state = _json(directory / _STATE)
    if state.get("_indices_files"):
        raise EvaluationError(f"{directory}: holds a choice of rows apart from them; save it after flatten_indices()")
    files = [directory / str(about["filename"]) for about in state.get("_data_files") or []]
    if not files:
        raise EvaluationError(f"{directory / _STATE}: names no data files; save the set again")
    return files


def _columns(file: Place) -> Columns:
    with reading(file, remedy="save the set again"), _opened(file) as stream:
        return find_columns(file, stream.schema.names, stream.schema.metadata)


def _labels(file: Place, columns: Columns) -> list[Any]:
    """One for each row, None where there are none."""
    labels: list[Any] = []
    with reading(file, remedy="save the set again"), _opened(file) as stream:
        for batch in stream:
            labels += [None] * len(batch) if columns.label is None else batch[columns.label].to_pylist()
    return labels


def _json(path: Place) -> dict[str, Any]:
    with reading(path, remedy="save the set again with save_to_disk"):
        text = path.read_bytes()
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise EvaluationError(f"{path}: is damaged ({one_line(error)}); save the set again") from error


@contextmanager
def _opened(file: Place) -> Iterator[Any]:
    source = pa.memory_map(str(file)) if isinstance(file, Path) else pa.PythonFile(file.open("rb"), mode="r")
    try:
        with source, pa.ipc.open_stream(source) as stream:
            yield stream
    except pa.ArrowInvalid as error:
        raise EvaluationError(f"{file}: is damaged ({one_line(error, 100)}); save the set again") from error

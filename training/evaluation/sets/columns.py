"""Which column of a table is the picture, the label, the caption; and what a row of it says.

    picture   image, filepath, file_name, filename, path, file    a path beside the table, or its bytes
    label     label, class, cls                            a name, or a number of a named class
    caption   caption, captions, text, title               a string, or a list of them

Of these names the first that is there; in a table of Hugging Face's `datasets`, which says what its columns are (the
schema's metadata), the one that is an Image and the one that is a ClassLabel, whatever they are called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.storage.place import Place
from training.data.lists import CAPTION_COLUMNS, IMAGE_COLUMNS, first_column
from training.errors import EvaluationError
from training.evaluation.sets.prompts import CLASSES_FILE, class_names, listed_classes

__all__ = ["Columns", "Labels", "bytes_of", "captions_of", "find_columns", "number_labels"]

_LABEL = ("label", "class", "cls")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of the columns that say something here; None where there is none."""

    image: str
    label: str | None
    caption: str | None
    classes: tuple[str, ...] | None = None
    """Class names that the table itself brings."""

    @property
    def words(self) -> list[str]:
        """Those without the picture."""
        return [name for name in (self.label, self.caption) if name is not None]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of a set, as numbers."""

    classes: tuple[str, ...]
    keys: tuple[str, ...]
    """What the set itself calls them; empty where it has numbers."""
    numbers: Sequence[int | None]


def find_columns(place: Place, names: Sequence[str], metadata: Mapping[bytes, bytes] | None = None) -> Columns:
    """The columns of a table with these `names`; `metadata` is its Arrow schema's.

    Raises EvaluationError where there is no picture, or neither label nor caption.
    """
    features = _features(metadata or {})
    kinds = {name: about.get("_type") for name, about in features.items() if name in names}
    image = next((name for name, kind in kinds.items() if kind == "Image"), None) or first_column(IMAGE_COLUMNS, names)
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    label = first_column(_LABEL, names) or (labels[0] if labels else None)
    caption = first_column(CAPTION_COLUMNS, names)
    if image is None:
        raise EvaluationError(
            f"{place}: no column of pictures ({', '.join(IMAGE_COLUMNS)}) among {', '.join(names)}; rename it"
        )
    if label is None and caption is None:
        raise EvaluationError(
            f"{place}: neither labels ({', '.join(_LABEL)}) nor captions ({', '.join(CAPTION_COLUMNS)}) among "
            f"{', '.join(names)}; rename the column"
        )
    own = features.get(label, {}).get("names") if label is not None else None
    return Columns(image=image, label=label, caption=caption, classes=tuple(own) if own else None)


def number_labels(place: Place, directory: Place, labels: Sequence[Any], own: tuple[str, ...] | None) -> Labels:
    """`labels` as class numbers; `own` are names that the table brings, `directory` may hold others.

    Raises EvaluationError where numbers have no names, and where a label is none of the classes.
    """
    found = [
        None if label in (None, "", -1) else label for label in labels
    ]  # -1: `datasets` has no other way to say so
    present = {label for label in found if label is not None}
    if not present:
        return Labels(classes=(), keys=(), numbers=[None] * len(found))
    listed = listed_classes(directory) or own
    if all(_is_number(label) for label in present):
        if listed is None:
            raise EvaluationError(
                f"{place}: labels are numbers without names; write {CLASSES_FILE} beside it, one a line"
            )
        for label in present:
            if not 0 <= int(label) < len(listed):
                raise EvaluationError(
                    f"{place}: label {label} is not a class number below {len(listed)}; complete {CLASSES_FILE}"
                )
        numbers = [None if label is None else int(label) for label in found]
        return Labels(classes=listed, keys=(), numbers=numbers)
    keys = tuple(sorted({str(label) for label in present}))
    classes = listed if listed is not None and set(keys) <= set(listed) else class_names(directory, keys)
    order = {key: number for number, key in enumerate(classes if classes is listed else keys)}
    return Labels(classes=classes, keys=keys, numbers=[None if each is None else order[str(each)] for each in found])


def captions_of(value: Any) -> tuple[str, ...]:
    """The captions in a cell."""
    texts = value if isinstance(value, list | tuple) else [value]
    return tuple(str(text) for text in texts if text is not None and str(text).strip())


def bytes_of(value: Any) -> tuple[bytes | None, str | None]:
    """The picture in a cell: its bytes, or its path."""
    if isinstance(value, Mapping):
        return value.get("bytes"), value.get("path")
    return (value, None) if isinstance(value, bytes) else (None, value)


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """What `datasets` writes of each column into the schema of its Arrow and Parquet files."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {name: about for name, about in features.items() if isinstance(about, dict)}


def _is_number(label: Any) -> bool:
    return isinstance(label, int) or (isinstance(label, str) and label.strip().isdigit())

"""Class names and prompt templates: files beside the pictures, else what the set itself calls its classes.

    classnames.txt                          one class a line, in the order of the labels
    zeroshot_classification_templates.txt   one template a line; {c}, {} or {classname} stands for the class

Both names are CLIP_benchmark's. Classes that are called by WordNet numbers (n01440764), as ImageNet's directories are,
get the names and the 80 templates with which CLIP was measured. Without templates there is CLIP's plain one (Radford et
al. 2021, section 3.1.4).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.storage.lines import read_lines
from pipeline.storage.place import Place
from training.errors import EvaluationError
from training.evaluation.sets.form import reading
from training.learning.imagenet import imagenet_names, imagenet_templates

__all__ = ["CLASSES_FILE", "PLAIN_TEMPLATE", "TEMPLATES_FILE", "class_names", "listed_classes", "templates_for"]

CLASSES_FILE = "classnames.txt"
TEMPLATES_FILE = "zeroshot_classification_templates.txt"
PLAIN_TEMPLATE = "a photo of a {c}."
_PLACE = re.compile(r"\{(?:c|classname)?\}")
_WORDNET = re.compile(r"n\d{8}")


def listed_classes(directory: Place) -> tuple[str, ...] | None:
    """The names in `classnames.txt`; None where there is no such file. Raises EvaluationError."""
    path = directory / CLASSES_FILE
    lines = _lines(path)
    if lines is not None and "" in lines:  # to leave it out would move all labels behind it
        raise EvaluationError(
            f"{path}: line {lines.index('') + 1} is empty; give every class a name, in the labels' order"
        )
    return lines


def class_names(directory: Place, keys: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes that the set calls `keys`, in their order.

    Those of `classnames.txt` where it is there. Raises EvaluationError where it names more or fewer, and for WordNet
    numbers of which ImageNet knows no name.
    """
    listed = listed_classes(directory)
    if listed is not None:
        if len(listed) != len(keys):
            raise EvaluationError(
                f"{directory / CLASSES_FILE}: names {len(listed):,} classes, and the set has {len(keys):,} "
                f"({', '.join(keys[:3])} ...); give one name a line, in the order of the sorted classes"
            )
        return listed
    if _are_wordnet(keys):
        known = imagenet_names()
        unknown = [key for key in keys if key not in known]
        if unknown:
            raise EvaluationError(
                f"{directory}: {unknown[0]} is none of ImageNet's 1,000 classes; name the classes in {CLASSES_FILE}"
            )
        return tuple(known[key] for key in keys)
    return tuple(key.replace("_", " ") for key in keys)


def templates_for(directory: Place, keys: Sequence[str] = ()) -> tuple[str, ...]:
    """The templates of a set whose classes are called `keys`, {c} in the place of the class. Raises EvaluationError."""
    path = directory / TEMPLATES_FILE
    listed = _lines(path)
    if listed is None:
        return imagenet_templates() if _are_wordnet(keys) else (PLAIN_TEMPLATE,)
    listed = tuple(line for line in listed if line)
    if not listed:
        raise EvaluationError(f"{path}: is empty; give a template a line, such as {PLAIN_TEMPLATE!r}, or remove it")
    for template in listed:
        if _PLACE.search(template) is None:
            raise EvaluationError(f"{path}: {template!r} has no place for the class name; write {{c}} where it stands")
    return tuple(_PLACE.sub("{c}", template) for template in listed)


def _are_wordnet(keys: Sequence[str]) -> bool:
    return bool(keys) and all(_WORDNET.fullmatch(key) for key in keys)


def _lines(path: Place) -> tuple[str, ...] | None:
    """Empty ones at the end left out, those of spaces alone as empty ones."""
    with reading(path):
        if not path.is_file():
            return None
        lines = [line if line.strip() else "" for line in read_lines(path)]
    while lines and not lines[-1]:
        lines.pop()
    return tuple(lines)

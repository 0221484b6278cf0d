"""The numbers of config classes, and what it means that they are held to their bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from configs.bounds import bounds_of
from configs.load import ConfigError
from configs.options import is_required
from tests.conftest import REPOSITORY

__all__ = ["Number", "assert_bounds_are_held", "config_classes", "name_of", "numbers_of"]

Number = tuple[type[Any], str, Any]
"""Class, name and type of a field."""


def config_classes(house: str) -> list[type[Any]]:
    """Every class of the config files in a package: those that YAML or a command line is read into."""
    files = sorted((REPOSITORY / house).rglob("*config.py"))
    modules = [import_module(".".join(file.relative_to(REPOSITORY).with_suffix("").parts)) for file in files]
    found = {cls for module in modules for cls in vars(module).values() if isinstance(cls, type) and is_dataclass(cls)}
    return sorted((cls for cls in found if cls.__module__.startswith(f"{house}.")), key=str)


def numbers_of(classes: Iterable[type[Any]]) -> list[Number]:
    """Their numeric fields."""
    return [
        (cls, name, kind)
        for cls in classes
        for name, kind in get_type_hints(cls, include_extras=True).items()
        if name in {each.name for each in fields(cls)} and {int, float} & set(_parts_of(kind))
    ]


def name_of(number: Number) -> str:
    """For a test's name."""
    return f"{number[0].__qualname__}.{number[1]}"


def assert_bounds_are_held(number: Number) -> None:
    """Of numbers on the edge, beyond it, infinite or none at all each is refused, wherever the class is made.

    A number for which any will do says so: `Annotated[float, Bounds()]`.
    """
    cls, name, kind = number
    bounds = next((found for part in _parts_of(kind) if (found := bounds_of(part)) is not None), None)
    assert bounds is not None, f"{name_of(number)}: say what numbers it takes, by Annotated[..., Bounds(...)]"
    outside = [math.nan, math.inf, -math.inf, 10**19]
    outside += [edge for edge in (bounds.above, bounds.below) if edge is not None]
    outside += [bounds.least - 1] if bounds.least is not None else []
    outside += [bounds.most + 1] if bounds.most is not None else []
    needed = {each.name: None for each in fields(cls) if is_required(each)}
    is_list = any(get_origin(part) is tuple for part in _parts_of(kind))
    for value in outside:
        with pytest.raises(ConfigError, match=rf"^{name} must .*, got {re.escape(str(value))}"):
            cls(**{**needed, name: (value,) if is_list else value})


def _parts_of(kind: Any) -> Iterator[Any]:
    """A type and all that it is made of."""
    yield kind
    for part in get_args(kind):
        yield from _parts_of(part)

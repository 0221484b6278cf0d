"""What numbers an option takes, said beside its type.

    chunk_rows: Annotated[int, Bounds(least=1)] = 4096
    ema_decay: Annotated[float, Bounds(above=0, below=1)] | None = None

`load` holds every number of a config to them, and so does a class whose `__post_init__` calls `check_bounds`, wherever
it is made. What is no number, or infinite, is in no bounds; a number for which any other will do says `Bounds()`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from configs.options import default_of, is_required, is_union

__all__ = ["LARGEST", "Bounds", "bounds_of", "mistake_in"]

LARGEST = 10**18
"""Of any whole number: sums of a few such still fit 64 bits."""


@dataclass(frozen=True)
class Bounds:
    """The least or the largest number that an option takes, itself among them (`least`, `most`) or not (`above`,
    `below`)."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        """Whether `value` is a number that the option takes."""
        return (
            not _is_huge(value)
            and math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    @property
    def interval(self) -> str:
        """As a page of help has it: ">= 1", "in [0, 1)"; nothing where any number will do."""
        words = str(self)
        if words.startswith("lie "):
            return words.removeprefix("lie ")
        signs = {">=": self.least, ">": self.above, "<=": self.most, "<": self.below}
        return next((f"{sign} {_shown(limit)}" for sign, limit in signs.items() if limit is not None), "")

    def __str__(self) -> str:
        """The end of "it must ..."."""
        low, high = _first(self.least, self.above), _first(self.most, self.below)
        if low is not None and high is not None:
            return f"lie in {'[' if self.above is None else '('}{low}, {high}{']' if self.below is None else ')'}"
        if low is not None and self.above is None:
            return "not be negative" if low == "0" else f"be at least {low}"
        if low is not None:
            return "be positive" if low == "0" else f"be more than {low}"
        if high is not None:
            return f"be at most {high}" if self.below is None else f"be less than {high}"
        return "be a finite number"


def _is_huge(value: float) -> bool:
    """Whether `value` is a whole number beyond LARGEST, on either side."""
    return isinstance(value, int) and abs(value) > LARGEST


def bounds_of(kind: Any) -> Bounds | None:
    """Those of `Annotated[..., Bounds(...)]`; None of other types."""
    notes = kind.__metadata__ if get_origin(kind) is Annotated else ()
    return next((note for note in notes if isinstance(note, Bounds)), None)


def mistake_in(config: Any) -> str | None:
    """What is wrong with the first number of `config` that is out of its bounds; None where all are in them.

    Of the class's own fields: those of sections are held to theirs by themselves.
    """
    for field, bounds, is_null in _bounded(type(config)):  # type: ignore[arg-type]  # a class can be hashed
        value = getattr(config, field.name)
        for number in _numbers(value):
            if bounds.hold(number):
                continue
            told = "lie within 10^18 of 0" if _is_huge(number) else str(bounds)
            null = ", or be null" if is_null else ""
            return f"{field.name} must {told}{null}, got {_shown(number)}{_remedy(field)}"
    return None


@functools.cache
def _bounded(cls: type[Any]) -> tuple[tuple[dataclasses.Field[Any], Bounds, bool], ...]:
    """The numeric fields of `cls` with bounds, and whether null stands for one."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = ((field, hints[field.name]) for field in dataclasses.fields(cls))
    return tuple(
        (field, bounds, is_union(kind) and type(None) in get_args(kind))
        for field, kind in found
        if (bounds := next(_within(kind), None)) is not None
    )


def _within(kind: Any) -> Iterator[Bounds]:
    """The bounds anywhere in a type: of a member of a union, of the items of a list, of the values of a mapping."""
    if (bounds := bounds_of(kind)) is not None:
        yield bounds
    elif not dataclasses.is_dataclass(kind):
        for part in get_args(kind):
            yield from _within(part)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def _remedy(field: dataclasses.Field[Any]) -> str:
    if is_required(field):
        return ""
    default = default_of(field)
    return f"; the default is {'null' if default is None else _shown(default)}"


def _first(*numbers: float | None) -> str | None:
    return next((_shown(number) for number in numbers if number is not None), None)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return str(list(value))
    text = f"{value}"
    return text if len(text) <= 40 else f"{text[:40]}..."

"""What a config class asks for: its options, their types, defaults and documentation.

The string literal that follows a field is its documentation. It is read from the source, which takes milliseconds a
class: who wants names alone takes no documentation.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Union, cast, get_args, get_origin

__all__ = [
    "Example",
    "OneOf",
    "Option",
    "default_of",
    "documentation",
    "example_of",
    "is_required",
    "is_union",
    "names_of",
    "options_of",
    "section_of",
    "takes_one_text",
]


@dataclass(frozen=True, eq=False)  # equal to itself alone, so that a type that holds it can be hashed
class OneOf:
    """The names that a text field takes, where they come from a list in the code rather than from a `Literal`.

        mode: Annotated[str, OneOf({mode.name: mode.says for mode in MODES})] = "quota"

    They are checked and told as a Literal's are; `--help` prints what each of them means.
    """

    names: Mapping[str, str]
    """Name -> a line of documentation, or none ("")."""


@dataclass(frozen=True)
class Example:
    """How a value may look, for those who left it out: `user_agent: Annotated[str, Example("a/1 (+https://b.c)")]`."""

    text: str


@dataclass(frozen=True)
class Option:
    """One option of a config class, wherever in its sections."""

    name: str
    """Dotted, as on the command line."""
    kind: Any
    """Its type, with annotations."""
    field: dataclasses.Field[Any]
    owner: type[Any]
    """The class that has the field."""

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return is_required(self.field)


def options_of(cls: type[Any], prefix: str = "") -> Iterator[Option]:
    """The options of `cls` and its sections, in the order of the fields; `prefix` comes before their names."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        kind = hints[field.name]
        section = section_of(kind)
        if section is None:
            yield Option(f"{prefix}{field.name}", kind, field, cls)
        else:
            yield from options_of(section, f"{prefix}{field.name}.")


def section_of(kind: Any) -> type[Any] | None:
    """The config class of a field that is a section, or may be null instead; None for other types."""
    if dataclasses.is_dataclass(kind):
        return cast("type[Any]", kind)
    nested = [member for member in get_args(kind) if dataclasses.is_dataclass(member)] if is_union(kind) else []
    return cast("type[Any]", nested[0]) if len(nested) == 1 else None


def is_union(kind: Any) -> bool:
    """Whether `kind` is `A | B`, in either spelling."""
    return get_origin(kind) in (Union, types.UnionType)


def takes_one_text(kind: Any) -> bool:
    """Whether `kind` is a list of texts or names, of any length: one text then stands for a list of one."""
    arguments = get_args(kind)
    if get_origin(kind) is not tuple or len(arguments) != 2 or arguments[1] is not Ellipsis:
        return False
    item = arguments[0]
    if get_origin(item) is Annotated:
        item = get_args(item)[0]
    return item is str or (get_origin(item) is typing.Literal and all(isinstance(name, str) for name in get_args(item)))


def names_of(kind: Any) -> Mapping[str, str]:
    """The names of `Annotated[str, OneOf(...)]`, also where it is a member of a union; none of other types."""
    if get_origin(kind) is Annotated:
        return next((note.names for note in kind.__metadata__ if isinstance(note, OneOf)), {})
    if is_union(kind):
        return next((names for member in get_args(kind) if (names := names_of(member))), {})
    return {}


def example_of(kind: Any) -> str | None:
    """The text of `Annotated[..., Example(text)]`."""
    notes = kind.__metadata__ if get_origin(kind) is Annotated else ()
    return next((note.text for note in notes if isinstance(note, Example)), None)


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether the field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The field's default, made anew where a factory makes it."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def documentation(cls: type[Any]) -> dict[str, str]:
    """The string literal after each annotated field, over the class and its dataclass bases."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is object or not dataclasses.is_dataclass(base):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):
            continue
        body = cast(ast.ClassDef, ast.parse(source).body[0]).body
        for statement, following in itertools.pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                docs[statement.target.id] = " ".join(following.value.value.split())
    return docs

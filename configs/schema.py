"""A config class as JSON Schema, for editors: what may be written, what it means, what it is if left out.

It says what `load` takes, without the checks that a class makes of its own values, and without the numbers that `load`
would take for text.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from configs.bounds import Bounds, bounds_of
from configs.load import to_mapping
from configs.options import (
    default_of,
    documentation,
    example_of,
    is_required,
    is_union,
    names_of,
    section_of,
    takes_one_text,
)

__all__ = ["json_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SCALARS: Mapping[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    types.NoneType: "null",
}


def json_schema(cls: type[Any], *, title: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a file that `load` reads into `cls`."""
    definitions: dict[str, Any] = {}
    top = _class_schema(cls, definitions)
    return {"$schema": _DIALECT, "title": title, **top, "$defs": definitions}


def _class_schema(cls: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    docs = documentation(cls)
    fields = [field for field in dataclasses.fields(cls) if field.init]
    required = [field.name for field in fields if is_required(field)]
    properties: dict[str, Any] = {}
    for field in fields:
        schema = _schema(hints[field.name], definitions)
        if says := _says(hints[field.name], docs.get(field.name, "")):
            schema["description"] = says
        if not is_required(field):
            schema["default"] = to_mapping(default_of(field))
        properties[field.name] = schema
    return {
        "description": " ".join((cls.__doc__ or "").split()),
        # A section without a word under it is read as an empty one.
        "type": "object" if required else ["object", "null"],
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _says(kind: Any, text: str) -> str:
    """What an option means, and what each of its names does."""
    names = [f"{name}: {says}" for name, says in names_of(kind).items() if says]
    return "\n".join([text, *names] if text else names)


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if is_union(kind):
        return {"anyOf": [_schema(member, definitions) for member in arguments]}
    if (section := section_of(kind)) is not None:
        if section.__name__ not in definitions:
            definitions[section.__name__] = {}  # its place, before those of its own sections
            definitions[section.__name__] = _class_schema(section, definitions)
        return {"$ref": f"#/$defs/{section.__name__}"}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is Annotated:
        if names := names_of(kind):
            return {"enum": list(names)}
        example, bounds = example_of(kind), bounds_of(kind)
        schema = _schema(arguments[0], definitions) | ({"examples": [example]} if example else {})
        return schema | (_limits(bounds) if bounds else {})
    if origin is tuple:
        return _list_schema(kind, definitions)
    if origin is not None:
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    return {} if kind is Any else {"type": _SCALARS[cast("type[Any]", kind)]}


def _limits(bounds: Bounds) -> dict[str, float]:
    found = {
        "minimum": bounds.least,
        "exclusiveMinimum": bounds.above,
        "maximum": bounds.most,
        "exclusiveMaximum": bounds.below,
    }
    return {word: limit for word, limit in found.items() if limit is not None}


def _list_schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    arguments = get_args(kind)
    if len(arguments) != 2 or arguments[1] is not Ellipsis:
        items = [_schema(item, definitions) for item in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    item = _schema(arguments[0], definitions)
    many = {"type": "array", "items": item}
    return {"anyOf": [many, item]} if takes_one_text(kind) else many

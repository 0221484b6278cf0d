"""The JSON Schema of a config class takes what `load` takes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
import yaml
from jsonschema import Draft202012Validator

from configs.load import ConfigError, from_mapping, to_mapping
from configs.options import Example, OneOf, options_of
from configs.presets import KINDS, presets
from configs.schema import json_schema
from tests.configs.test_presets import CLASSES


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A section."""

    mode: Annotated[str, OneOf({"quota": "as in CLIP", "none": ""})] = "quota"
    """How to choose."""
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Needing:
    agent: Annotated[str, Example("me/1.0")]


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A file."""

    output: str
    """Where to."""
    names: tuple[str, ...] = ("a",)
    pair: tuple[int, str] = (1, "a")
    kinds: tuple[Literal["x", "y"], ...] = ()
    sections: tuple[Inner, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    limit: int | None = None
    flag: bool = False
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    needing: Needing = field(default_factory=lambda: Needing(agent="you/1.0"))


def test_schema_says_what_the_class_says() -> None:
    schema = json_schema(Outer, title="a file")
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert (schema["title"], schema["description"]) == ("a file", "A file.")
    assert schema["required"] == ["output"]
    assert schema["properties"]["output"] == {"type": "string", "description": "Where to."}
    assert schema["properties"]["names"]["default"] == ["a"]
    assert schema["properties"]["inner"] == {"$ref": "#/$defs/Inner", "default": {"mode": "quota", "rate": 0.5}}
    assert schema["$defs"]["Inner"]["properties"]["mode"] == {
        "enum": ["quota", "none"],
        "description": "How to choose.\nquota: as in CLIP",
        "default": "quota",
    }
    assert schema["$defs"]["Needing"]["properties"]["agent"]["examples"] == ["me/1.0"]


@pytest.mark.parametrize(
    "mapping",
    [
        {"output": "x"},
        {"output": "x", "names": ["a", "b"], "pair": [2, "b"], "kinds": ["x"], "sizes": {"a": 1}, "limit": 3},
        {"output": "x", "names": "a", "kinds": "y", "limit": None, "inner": None, "maybe": {"rate": 1}},
        {"output": "x", "sections": [{"mode": "none"}, None]},
        {},
        {"output": None},
        {"output": "x", "nmaes": ["a"]},
        {"output": "x", "names": [[]]},
        {"output": "x", "pair": [1]},
        {"output": "x", "pair": ["a", "b"]},
        {"output": "x", "kinds": ["z"]},
        {"output": "x", "kinds": "z"},
        {"output": "x", "sections": "none"},
        {"output": "x", "sizes": {"a": "b"}},
        {"output": "x", "limit": "many"},
        {"output": "x", "flag": 1},
        {"output": "x", "inner": {"mode": "quotas"}},
        {"output": "x", "inner": {"rate": "fast"}},
        {"output": "x", "needing": {}},
        {"output": "x", "needing": None},
    ],
    ids=json.dumps,
)
def test_schema_and_load_take_the_same(mapping: dict[str, Any]) -> None:
    try:
        from_mapping(Outer, mapping)
        loads = True
    except ConfigError:
        loads = False
    assert Draft202012Validator(json_schema(Outer, title="")).is_valid(mapping) is loads


@pytest.mark.parametrize("kind", KINDS)
def test_configs_of_the_repository_and_all_defaults_fit(kind: str) -> None:
    schema = json_schema(CLASSES[kind], title=kind)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for file in presets(kind).values():  # type: ignore[arg-type]  # a parameter is no Literal
        mapping = yaml.safe_load(file.read_text())
        assert not list(validator.iter_errors(mapping)), file
        assert not list(validator.iter_errors(to_mapping(from_mapping(CLASSES[kind], mapping)))), file
        assert not validator.is_valid({**mapping, "no_such_option": 1})


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_is_in_the_schema(kind: str) -> None:
    schema = json_schema(CLASSES[kind], title=kind)

    def at(node: dict[str, Any], name: str) -> dict[str, Any]:
        for member in (node, *node.get("anyOf", ())):
            if "$ref" in member:
                node = schema["$defs"][member["$ref"].rpartition("/")[2]]
        found: dict[str, Any] = node["properties"][name]
        return found

    for option in options_of(CLASSES[kind]):
        node: dict[str, Any] = schema
        for name in option.name.split("."):
            node = at(node, name)
        assert node

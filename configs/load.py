"""Strict YAML into frozen dataclasses, with command-line overrides.

    YAML file --\\
                 >-- merge --> check every key and type --> frozen dataclass --> dump / fingerprint
    --a.b value -/

A config class is a frozen, keyword-only dataclass. A field without a default is required. `options.py` says what a
class asks for; `help.py` and `schema.py` tell it to people and to editors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar, cast, get_args, get_origin

import yaml

from configs.bounds import mistake_in
from configs.near import near
from configs.options import example_of, is_required, is_union, names_of, section_of, takes_one_text

__all__ = [
    "ConfigError",
    "check_bounds",
    "dump",
    "fingerprint",
    "from_mapping",
    "load",
    "parse_overrides",
    "read_mapping",
    "to_mapping",
]

T = TypeVar("T")


class ConfigError(Exception):
    """A mistake in a config file or on the command line: what, where, and what to do next."""


def check_bounds(config: Any) -> None:
    """For a config's own `__post_init__`: raise ConfigError where one of its numbers is out of its `Bounds`."""
    if (mistake := mistake_in(config)) is not None:
        raise ConfigError(mistake)


class _Readable(Protocol):
    """A file, wherever it is: a `Path` is one."""

    def read_text(self, encoding: str) -> str:
        """Raises OSError, or UnicodeDecodeError."""


def load(cls: type[T], path: str | _Readable | None, overrides: Sequence[str] = ()) -> T:
    """Read `path` (YAML; None for an empty file) into `cls`, then apply `overrides`.

    `overrides` are command-line words: `--section.key value` or `--section.key=value`; values are
    read as YAML. Raises ConfigError for a missing file, an unknown key (with the nearest valid
    one), a missing required key or a value of the wrong type.
    """
    mapping = {} if path is None else read_mapping(path)
    where = "the command line" if path is None else str(path)
    for dotted, value in parse_overrides(overrides):
        _set_dotted(mapping, dotted, value)
    return from_mapping(cls, mapping, where=where)


def read_mapping(path: str | _Readable) -> dict[str, Any]:
    """What the YAML file at `path` says, unchecked but for its form. Raises ConfigError."""
    try:
        text = (Path(path) if isinstance(path, str) else path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config ({error.strerror}); give the path of a YAML file") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line} is not UTF-8; save the file in that encoding") from error
    try:
        loaded = _load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_one_line(error)}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: the top level must be a mapping of sections")
    return cast("dict[str, Any]", loaded)


def parse_overrides(words: Sequence[str]) -> list[tuple[str, Any]]:
    """Turn `--a.b 1 --c=x` into `[("a.b", 1), ("c", "x")]`. Raises ConfigError on other words."""
    pairs: list[tuple[str, Any]] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise ConfigError(f"unexpected argument {word!r}; options look like --section.key value")
        name, equals, raw = word[2:].partition("=")
        if not equals:
            if not rest:
                raise ConfigError(f"--{name} needs a value: --{name} VALUE")
            raw = rest.pop(0)
        try:
            value = _load_yaml(raw)
        except yaml.YAMLError as error:
            raise ConfigError(f"--{name}: cannot read the value {_shown(raw)}: {_one_line(error)}") from error
        pairs.append((name.replace("-", "_"), value))
    return pairs


def from_mapping(cls: type[T], mapping: Mapping[str, Any], *, where: str = "config") -> T:
    """Build `cls` from plain data, checking every key and type. Raises ConfigError.

    A class whose options have moved says with `of_earlier` where: a function of the mapping that returns another.
    """
    of_earlier = getattr(cls, "of_earlier", None)
    if of_earlier is not None and isinstance(mapping, Mapping):
        mapping = of_earlier(mapping)
    return cast(T, _build(cls, mapping, path="", where=where))


def to_mapping(config: Any) -> Any:
    """Plain data (dicts, lists, scalars) of a config dataclass, in field order."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_mapping(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_mapping(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_mapping(value) for value in config]
    return config


def dump(config: Any) -> str:
    """The resolved config as YAML; `load` reads it back to an equal config."""
    text: str = yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)
    return text


def fingerprint(*parts: Any) -> str:
    """32 hex digits over configs and plain data: equal exactly when their content is equal."""
    text = json.dumps(to_mapping(parts), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


# --- building ---------------------------------------------------------------------------------


_MAX_DEPTH = 50
"""Sections and lists inside one another. PyYAML goes into each by a call of its own, and Python ends at a thousand."""
_MAX_NODES = 100_000
"""Values of a config, those that an alias repeats counted each time: nine lines of aliases can stand for 10^9."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, reads 1e-3 as a number, and takes no more than a config can mean."""


def _load_yaml(text: str) -> Any:
    """What `text` says. Raises yaml.YAMLError for what is not YAML, and for more than a config holds."""
    _check_depth(text)
    loader = _StrictLoader(text)
    node = loader.get_single_node()
    _count_nodes(node, {})
    try:
        return None if node is None else loader.construct_document(node)
    except (ValueError, OverflowError) as error:  # 2026-99-99 looks like a date
        raise yaml.YAMLError(str(error)) from error


def _check_depth(text: str) -> None:
    """Raise yaml.YAMLError where `text` is nested deeper than a config can be. Readers of events call themselves at no
    depth. libyaml's is the faster one, and leaves it to ours to say what is no YAML."""
    try:
        too_deep = _is_too_deep(yaml.parse(text, yaml.CSafeLoader if yaml.__with_libyaml__ else _StrictLoader))
    except yaml.YAMLError:
        too_deep = _is_too_deep(yaml.parse(text, _StrictLoader))
    if too_deep:
        raise yaml.YAMLError(f"more than {_MAX_DEPTH} levels deep")


def _is_too_deep(events: Iterable[yaml.Event]) -> bool:
    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            return True
    return False


def _count_nodes(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Nodes in and under `node`, aliases followed. `known`: the counts of those that were seen; 0 inside the node."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if (count := known.get(id(node))) is not None:
        if not count:
            raise yaml.constructor.ConstructorError(
                None, None, "an alias stands inside what it stands for", node.start_mark
            )
        return count
    known[id(node)] = 0
    parts = itertools.chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
    count = 1 + sum(_count_nodes(part, known) for part in parts)
    if count > _MAX_NODES:
        raise yaml.constructor.ConstructorError(
            None, None, f"more than {_MAX_NODES:,} values, aliases followed", node.start_mark
        )
    known[id(node)] = count
    return count


def _construct_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key is a list or a section", key_node.start_mark)
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def _build(kind: Any, value: Any, *, path: str, where: str) -> Any:
    """Check `value` against the type `kind` and convert it. `path` is the dotted key, for errors."""
    origin = get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(cast("type[Any]", kind), value, path=path, where=where)
    if is_union(kind):
        return _build_union(kind, value, path=path, where=where)
    if origin is Literal:
        return _choose(get_args(kind), value, path=path, where=where)
    if origin is Annotated:
        if names := names_of(kind):
            return _choose(tuple(names), value, path=path, where=where)
        try:
            return _build(get_args(kind)[0], value, path=path, where=where)
        except ConfigError as error:
            raise ConfigError(f"{error}{_like(kind)}") from error
    if origin is tuple:
        return _build_tuple(kind, value, path=path, where=where)
    if origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, Any]):
        if not isinstance(value, Mapping):
            raise _wrong(path, where, "a mapping", value)
        _, item = get_args(kind)
        return {str(k): _build(item, v, path=f"{path}.{k}", where=where) for k, v in value.items()}
    return _build_scalar(kind, value, path=path, where=where)


_BOOLEAN_WORDS = {False: ("off", "no", "false"), True: ("on", "yes", "true")}


def _choose(choices: tuple[Any, ...], value: Any, *, path: str, where: str) -> Any:
    if value in choices and type(value) in {type(choice) for choice in choices}:
        return value
    if isinstance(value, bool):  # YAML 1.1 reads off as false, on as true
        value = next((word for word in _BOOLEAN_WORDS[value] if word in choices), value)
        if not isinstance(value, bool):
            return value
    meant = near(str(value), map(str, choices))
    hint = f"; did you mean {meant!r}?" if meant else ""
    raise ConfigError(f"{where}: {path}: {_shown(value)} is not one of {_join(choices)}{hint}")


def _build_dataclass(cls: type[Any], value: Any, *, path: str, where: str) -> Any:
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        raise _wrong(path or "the top level", where, "a mapping of options", value)
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in value:
        if key not in fields:
            dotted = f"{path}.{key}" if path else str(key)
            meant = near(str(key), fields, cutoff=0.5)
            prefix = f"{path}." if path else ""
            hint = f"did you mean '{prefix}{meant}'?" if meant else f"valid keys: {_join(fields)}"
            raise ConfigError(f"{where}: unknown key '{dotted}'; {hint}")
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        dotted = f"{path}.{name}" if path else name
        if name in value:
            arguments[name] = _build(hints[name], value[name], path=dotted, where=where)
        elif is_required(field) and section_of(hints[name]) is None:
            remedy = f"set it in the file or with --{dotted}"
            raise ConfigError(f"{where}: '{dotted}' is required and missing; {remedy}{_like(hints[name])}")
        elif is_required(field):  # says which of its options is missing
            arguments[name] = _build(hints[name], {}, path=dotted, where=where)
    try:
        made = cls(**arguments)
        check_bounds(made)
        return made
    except ConfigError as error:  # raised by a config's own __post_init__ checks
        prefix = f"{path}: " if path else ""
        raise ConfigError(f"{where}: {prefix}{error}") from error


def _build_union(kind: Any, value: Any, *, path: str, where: str) -> Any:
    members = get_args(kind)
    if value is None and type(None) in members:
        return None
    errors: list[ConfigError] = []
    members = tuple(m for m in members if m is not type(None))
    # An exact type first, so that `int | float` keeps 1 an int and `str | int` keeps "1" a str.
    for member in sorted(members, key=lambda m: not (isinstance(m, type) and type(value) is m)):
        try:
            return _build(member, value, path=path, where=where)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _build_tuple(kind: Any, value: Any, *, path: str, where: str) -> tuple[Any, ...]:
    arguments = get_args(kind)
    if isinstance(value, str) and value and takes_one_text(kind):
        value = [value]
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _wrong(path, where, "a list", value)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        kinds = [arguments[0]] * len(value)
    elif len(arguments) == len(value):
        kinds = list(arguments)
    else:
        raise _wrong(path, where, f"a list of {len(arguments)}", value)
    return tuple(
        _build(item, v, path=f"{path}[{i}]", where=where) for i, (item, v) in enumerate(zip(kinds, value, strict=True))
    )


def _build_scalar(kind: Any, value: Any, *, path: str, where: str) -> Any:
    if kind is Any:
        return value
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)  # YAML 1.1 reads 1e-3, without a dot, as a string
        except (ValueError, OverflowError):
            raise _wrong(path, where, "a number", value) from None
        if not math.isfinite(number):
            raise _wrong(path, where, "a finite number", value)
        return number
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str):
        return value
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    raise _wrong(path, where, names.get(kind, str(kind)), value)


def _like(kind: Any) -> str:
    """The end of a line about a value that is missing or wrong: how one looks."""
    example = example_of(kind)
    return f"; write one like {example}" if example else ""


def _wrong(path: str, where: str, expected: str, value: Any) -> ConfigError:
    return ConfigError(f"{where}: {path}: expected {expected}, got {'nothing' if value is None else _shown(value)}")


def _set_dotted(mapping: dict[str, Any], dotted: str, value: Any) -> None:
    node = mapping
    *parents, last = dotted.split(".")
    for depth, name in enumerate(parents):
        child = node.get(name)
        if child is None:
            child = node[name] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--{dotted}: '{'.'.join(parents[: depth + 1])}' is not a section")
        node = child
    node[last] = value


def _join(names: Any) -> str:
    return ", ".join(str(name) for name in names)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

"""What `--help` says of a config class: page by page, since nobody reads 121 options in a list.

--help            the options that everyone needs, the sections with a line each
--help SECTION    the options of one section; or one option, by its dotted name
--help all        all of them
"""

from __future__ import annotations

import json
import textwrap
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast, get_args, get_origin

from configs.bounds import bounds_of
from configs.load import ConfigError, to_mapping
from configs.near import near
from configs.options import Option, default_of, documentation, is_union, names_of, options_of, section_of

__all__ = ["ask_for_help", "describe", "help_page"]

_WIDTH = 80
_GENERAL = "What belongs to no section."


def ask_for_help(words: Sequence[str]) -> tuple[bool, str | None]:
    """Whether `words` ask for help, and for which page: the word behind `--help`, or None."""
    for number, word in enumerate(words):
        if word in ("-h", "--help"):
            topic = words[number + 1] if number + 1 < len(words) else None
            return True, None if topic is None or topic.startswith("-") else topic
    return False, None


def help_page(cls: type[Any], topic: str | None, *, needed: Sequence[str] = ()) -> str:
    """One page about the options of `cls`; `needed` are those that the first one shows, by their dotted names.

    Raises ConfigError where there is no such topic.
    """
    options, sections = list(options_of(cls)), _sections(cls)
    if topic is None:
        return _first_page(options, sections, needed)
    topic = topic.lstrip("-").rstrip(".")
    if topic == "all":
        return describe(cls)
    found = [option for option in options if _is_about(option, topic)]
    if not found:
        meant = near(topic, [*sections, "all", *(option.name for option in options)])
        hint = f"did you mean {meant!r}?" if meant else f"there are {', '.join([*sections, 'all'])}"
        raise ConfigError(f"--help: no section or option {topic!r}; {hint}")
    heading = sections.get(topic)
    return (f"{topic}: {heading}\n\n" if heading else "") + _list(found)


def describe(cls: type[Any]) -> str:
    """Help text: every option with its type, default and documentation."""
    return _list(options_of(cls))


def _is_about(option: Option, topic: str) -> bool:
    if topic == "general":
        return "." not in option.name
    return option.name == topic or option.name.startswith(f"{topic}.")


def _first_page(options: Sequence[Option], sections: Mapping[str, str], needed: Sequence[str]) -> str:
    known = {option.name: option for option in options}
    widest = max(map(len, sections), default=0)
    lines = []
    for name, says in sections.items():
        count = sum(_is_about(option, name) for option in options)
        lines += _wrapped(f"{name:<{widest}}  {count:>2}  {says}", "  ", " " * (widest + 8))
    return "\n".join(
        [
            "Options that most need, in CONFIG.yaml or here as --section.key value:\n",
            _list([known[name] for name in needed]),
            *("", "All options, by section; `--help SECTION` shows one, `--help all` all:\n"),
            *lines,
            *("", "CONFIG.yaml may be a preset's name; `openwit presets` lists them."),
            "Paths are relative to the directory in which the command is run.",
        ]
    )


def _sections(cls: type[Any]) -> dict[str, str]:
    """Section -> the first sentence about it, in order; `general` first."""
    sections = {option.name.partition(".")[0]: option for option in options_of(cls) if "." in option.name}
    hints = typing.get_type_hints(cls, include_extras=True)
    return {"general": _GENERAL, **{name: _first_sentence(section_of(hints[name])) for name in sections}}


def _first_sentence(cls: type[Any] | None) -> str:
    return f"{' '.join((cls.__doc__ or '').split()).partition('. ')[0].rstrip('.')}."


def _list(options: Iterable[Option]) -> str:
    lines: list[str] = []
    docs: dict[type[Any], Mapping[str, str]] = {}
    for option in options:
        if option.owner not in docs:
            docs[option.owner] = documentation(option.owner)
        says = docs[option.owner].get(option.field.name)
        default = "(required)" if option.required else f"[{_default(option)}]"
        lines += _wrapped(f"--{option.name}  {_kind_name(option.kind)}  {default}", "  ", " " * 8)
        if says:
            lines += _wrapped(says, " " * 6, " " * 6)
        for name, meaning in names_of(option.kind).items():
            if meaning:
                lines += _wrapped(f"{name}: {meaning}", " " * 8, " " * 10)
    return "\n".join(lines)


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def _default(option: Option) -> str:
    return json.dumps(to_mapping(default_of(option.field)), ensure_ascii=False)


def _kind_name(kind: Any) -> str:
    origin = get_origin(kind)
    if kind is type(None):
        return "null"
    if section_of(kind) is not None and not is_union(kind):
        return "{" + ", ".join(option.name for option in options_of(kind)) + "}"
    if is_union(kind):
        return " | ".join(_kind_name(member) for member in get_args(kind))
    if origin is Literal:
        return " | ".join(str(choice) for choice in get_args(kind))
    if names := names_of(kind):
        return " | ".join(names)
    if hasattr(kind, "__metadata__"):
        bounds = bounds_of(kind)
        return f"{_kind_name(get_args(kind)[0])} {bounds.interval if bounds else ''}".rstrip()
    if origin is tuple:
        return "[" + ", ".join("..." if a is Ellipsis else _kind_name(a) for a in get_args(kind)) + "]"
    if origin is not None:
        return "{" + ": ".join(_kind_name(a) for a in get_args(kind)) + "}"
    return cast(str, getattr(kind, "__name__", str(kind)))

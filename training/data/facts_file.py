"""The file that stands last in what is made by the part: without it nothing there is finished, and nothing reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from configs.load import ConfigError
from pipeline.errors import PipelineError, one_line
from pipeline.storage.place import Place, place_of
from training.errors import FeaturesError

__all__ = ["read_facts"]

T = TypeVar("T")


def read_facts(
    path: str | Place,
    name: str,
    parse: Callable[[Mapping[str, Any]], T],
    *,
    version: int,
    what: str,
    make: str,
    again: str,
) -> tuple[Place, T]:
    """(place, facts) of the JSON `name` in `path`, a directory or a bucket's URL; `parse` makes facts of its content.

    `version`: the last format that is understood. For messages: `what` lies there, how to `make` some, and how to go on
    (`again`). Raises FeaturesError, in one line, where there is none, none that is finished, or a damaged one.
    """
    try:
        place = place_of(path)
        facts = place / name
        try:
            text = facts.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            if (place / "done").is_dir():
                raise FeaturesError(f"{path}: unfinished; {again}, it goes on from here") from None
            raise FeaturesError(f"{path}: no {what} here (no {name}); make some with `{make}`") from None
    except (OSError, PipelineError) as error:
        raise FeaturesError(f"{path}: cannot be read ({one_line(error)})") from error
    try:
        content = json.loads(text)
        if content["format"] > version:
            raise FeaturesError(f"{path}: written by a newer version (format {content['format']}); update openwit")
        return place, parse(content)
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise FeaturesError(f"{facts}: damaged ({one_line(error)}); {again}") from error

"""The words of a command line: `TARGET [MORE] [--name value ...]`.

A command takes the options that it knows; what is left over are overrides of the config that TARGET names, or
a mistake where TARGET is a directory.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from configs.load import ConfigError, load
from pipeline.config import WitConfig
from pipeline.storage.place import Place, place_of

__all__ = ["Words"]

_OPTION = re.compile(r"--([A-Za-z][\w.-]*)(?:=(.*))?", re.DOTALL)
_FLAGS = ("allow-files", "extend", "repair", "retry-failed", "work")
"""Options without a value."""


class Words:
    """The words after the command's name. `take` what the command knows, then ask for the rest."""

    def __init__(self, words: Sequence[str]) -> None:
        self._positional: list[str] = []
        self._options: list[tuple[str, str]] = []
        flags = [word for word in words if word.startswith("--") and word[2:].replace("_", "-") in _FLAGS]
        self._flags = {word[2:].replace("_", "-") for word in flags}
        rest = [word for word in words if word not in flags]
        while rest:
            word = rest.pop(0)
            option = _OPTION.fullmatch(word)
            if option is None:
                self._positional.append(word)
                continue
            name, value = option.groups()
            if value is None:
                if not rest:
                    raise ConfigError(f"--{name} needs a value")
                value = rest.pop(0)
            self._options.append((name, value))

    def take(self, name: str) -> str | None:
        """The value of `--name` (the last, where it is given more than once), or None."""
        found = [value for option, value in self._options if option.replace("_", "-") == name]
        self._options = [pair for pair in self._options if pair[0].replace("_", "-") != name]
        return found[-1] if found else None

    def take_flag(self, name: str) -> bool:
        """Whether `--name`, one of the options without a value, is there."""
        there = name in self._flags
        self._flags.discard(name)
        return there

    def take_count(self, name: str) -> int | None:
        """The same as a whole number."""
        text = self.take(name)
        if text is None:
            return None
        try:
            return int(text.replace("_", ""))
        except ValueError:
            raise ConfigError(f"--{name}: expected a whole number, got {text!r}") from None

    def take_required(self, name: str) -> str:
        """The value of an option that the command cannot do without."""
        value = self.take(name)
        if value is None:
            raise ConfigError(f"--{name} is required")
        return value

    def positional(self, count: int, usage: str) -> list[str]:
        """Exactly `count` words that are no options; `usage` names them."""
        if len(self._positional) < count:
            raise ConfigError(f"expected {usage}")
        if len(self._positional) > count:
            raise ConfigError(f"unexpected argument {self._positional[count]!r}; expected {usage}")
        return self._positional

    def overrides(self) -> list[str]:
        """What was not taken, as words for `configs.load.load`."""
        if self._flags:
            raise ConfigError(f"unknown option --{min(self._flags)}")
        return [f"--{name}={value}" for name, value in self._options]

    def output(self, target: str) -> Place:
        """The data set's directory: `target` itself, or what the config says. Takes all that is left."""
        place = place_of(target)
        if _is_set(place):
            if self.overrides():
                raise ConfigError(f"unknown option --{self._options[0][0]}")
            return place
        return place_of(self.config(target).output)

    def config(self, target: str) -> WitConfig:
        """The config in the file `target`, or that of the data set in the directory `target`, overridden."""
        path = place_of(target)
        if not _is_set(path):
            return load(WitConfig, path, self.overrides())
        if not (path / "config.yaml").exists() and (path / "subset.json").exists():
            raise ConfigError(f"{path}: a subset, which no run makes; name the data set that it was taken from")
        # A directory may have been moved since.
        return dataclasses.replace(load(WitConfig, path / "config.yaml", self.overrides()), output=target)


def _is_set(place: Place) -> bool:
    """Whether it is a data set's place rather than a config: a bucket is not asked."""
    return place.is_dir() if isinstance(place, Path) else place.suffix not in (".yaml", ".yml")

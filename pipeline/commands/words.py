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
from configs.presets import no_preset, preset
from pipeline.config import WitConfig
from pipeline.storage.output import is_output
from pipeline.storage.place import Place, place_of

__all__ = ["Words", "new_output"]

_OPTION = re.compile(r"--([A-Za-z][\w.-]*)(?:=(.*))?", re.DOTALL)
_FLAGS = ("allow-files", "dry-run", "extend", "force", "pictures", "repair", "replace", "retry-failed", "work", "yes")
"""Options without a value."""
_CONFIG_ENDINGS = (".yaml", ".yml")


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
        place = self._place(target, "data set")
        if not _is_set(place):
            return place_of(self._load(place).output)
        if self.overrides():
            raise ConfigError(f"unknown option --{self._options[0][0]}")
        if isinstance(place, Path):
            _refuse_no_set(place)
        return place

    def config(self, target: str) -> WitConfig:
        """The config in the file `target`, or that of the data set in the directory `target`, overridden."""
        path = self._place(target, "config")
        if not _is_set(path):
            config = self._load(path)
            new_output(config.output)
            return config
        if isinstance(path, Path):
            _refuse_no_set(path)
        if not (path / "config.yaml").exists() and (path / "subset.json").exists():
            raise ConfigError(f"{path}: a subset, which no run makes; name the data set that it was taken from")
        # A directory may have been moved since.
        return dataclasses.replace(self._load(path / "config.yaml"), output=target)

    def _load(self, place: Place) -> WitConfig:
        return load(WitConfig, place, self.overrides())

    def _place(self, target: str, what: str) -> Place:
        """Where `target` is: the file of a preset, unless a data set of that name is there. Raises ConfigError for what
        is neither a path nor a preset; `what` it was to be."""
        place = place_of(target)
        if not isinstance(place, Path) or is_output(place) or place.suffix in _CONFIG_ENDINGS:
            return place
        if (file := preset("shards", target)) is not None:
            return file
        if not place.exists():
            raise ConfigError(f"{target}: no {what} here; {no_preset('shards', target)}")
        return place


def new_output(output: str) -> Place:
    """The place of a data set to make, or go on with. Raises ConfigError inside another; no bucket is asked."""
    place = place_of(output)
    if isinstance(place, Path) and not is_output(place) and (around := _set_around(place)) is not None:
        raise ConfigError(f"{output}: inside a data set; did you mean {around}?")
    return place


def _is_set(place: Place) -> bool:
    """Whether it is a data set's place rather than a config: a bucket is not asked."""
    return place.is_dir() if isinstance(place, Path) else place.suffix not in _CONFIG_ENDINGS


def _refuse_no_set(place: Path) -> None:
    """Raise ConfigError where the directory `place` was never a data set. Who opens it tells one that lost its mark."""
    if is_output(place) or any((place / name).exists() for name in ("config.yaml", "subset.json", "work")):
        return
    around = _set_around(place)
    hint = f"inside a data set; did you mean {around}?" if around else "no data set here; name the `output` of a config"
    raise ConfigError(f"{place}: {hint}")


def _set_around(place: Path) -> Path | None:
    """The data set's directory in which `place` lies."""
    return next((parent for parent in (*place.parents, *place.absolute().parents) if is_output(parent)), None)

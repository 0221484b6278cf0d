"""A policy file: what a set should not hold, as named rules of prompts.

rules:
  weapons:
    prompts: ["a photo of a gun", "a photo of a rifle"]
    contrast: ["a photo of a drill", "a photo of a toy"]
    threshold: 0.6
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds, load

__all__ = ["PolicyConfig", "Rule", "load_policy"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing to look for."""

    prompts: tuple[str, ...]
    """Texts that tell of it, whole captions such as the model has learnt from."""
    contrast: tuple[str, ...] = ()
    """Texts that tell of what is near and harmless. With them the score is a share of 1, without them a cosine."""
    threshold: Annotated[float, Bounds(above=-1, below=1)]
    """A sample is flagged where the score is at least this."""
    looks_at: Literal["image", "text", "either"] = "image"
    """What is judged: the picture, its text, or the one that scores higher."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.prompts:
            raise ConfigError("prompts: give at least one text that tells of what to look for")
        if any(not text.strip() for text in (*self.prompts, *self.contrast)):
            raise ConfigError("a prompt is empty; give texts, or take it away")
        if self.contrast and self.threshold <= 0:
            raise ConfigError(f"threshold: with contrast a score is a share, above 0 and below 1, got {self.threshold}")


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """A policy file."""

    rules: dict[str, Rule]
    """By name: `weapons` gives the column policy_weapons."""

    def __post_init__(self) -> None:
        if not self.rules:
            raise ConfigError("rules: a policy needs at least one; each has a name, prompts and a threshold")
        for name in self.rules:
            if not _NAME.fullmatch(name) or name == "flags":
                raise ConfigError(f"rules: {name!r} cannot name a column; use a-z, 0-9 and _, a letter first")


def load_policy(file: str) -> PolicyConfig:
    """The policy in `file`. Raises ConfigError for a mistake in it."""
    return load(PolicyConfig, Path(file))

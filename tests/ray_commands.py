"""Ray's command line, asked whether it would take some words; nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["parse_ray"]


def parse_ray(words: Sequence[str]) -> None:
    """Raises what `ray` would say of the words, of which the first is its own name."""
    from ray.scripts.scripts import cli

    command: Any = cli
    rest = [word.replace("$RAY_HEAD_IP", "127.0.0.1") for word in words[1:]]
    while hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context("ray", rest)

"""The command `openwit`: one word for what `python -m pipeline`, `query_list` and `training` do.

    openwit COMMAND words -- table.py --> the main of a room of the house, or a file here

Each room is imported when a command of it is run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence

from openwit.command.table import COMMANDS, GROUPS, Command

__all__ = ["main"]

_FORMER = {"run": "shards", "build": "queries", "training": "train", "lint": "queries lint", "stats": "queries stats"}
"""What a command is called elsewhere -> here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, of the process's words if none are given; the exit status of what does it, 2 for a mistake."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return 0
    except KeyboardInterrupt:
        return 130


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"openwit {version('openwit')}")
        return 0
    if words[0] == "__complete":
        from openwit.command.completion import candidates

        print("\n".join(candidates(words[1:])))
        return 0
    for command in COMMANDS:
        if command.name == words[0]:
            return _ROOMS[command.room](command, words[1:])
    from configs.near import did_you_mean
    from pipeline.terminal.printable import say

    names = [command.name for command in COMMANDS]
    former = _FORMER.get(words[0])
    hint = f"here it is `openwit {former}`" if former else did_you_mean(words[0], names)
    say(f"error: no command {words[0]!r}; {hint}", to=sys.stderr)
    return 2


def _overview() -> str:
    lines = [
        "openwit COMMAND ...: from web crawls and tables of links to a balanced set of",
        "image-text pairs, and from there to a trained CLIP.",
    ]
    for group, heading in GROUPS.items():
        lines += ["", heading]
        for command in COMMANDS:
            if command.group == group:
                lines.append(f"  {f'{command.name} {command.usage}':<30} {command.says}")
    return "\n".join(
        [
            *lines,
            "",
            "CONFIG is a .yaml file, or a preset's word (`openwit presets`); DIR a data set.",
            "Paths are relative to the directory in which the command is run.",
            "`openwit COMMAND --help` says more. A first data set: openwit shards sample",
        ]
    )


def _pipeline(command: Command, words: list[str]) -> int:
    from pipeline.commands import main

    if command.name in ("shards", "plan"):
        from openwit.command.sample import before_plan, before_shards

        if status := (before_shards if command.name == "shards" else before_plan)(words):
            return status
    return main([*command.words, *words], called=f"openwit {command.name}")


def _query_list(command: Command, words: list[str]) -> int:
    from query_list.commands import VERBS, main

    verb = words.pop(0) if words and words[0] in VERBS else "build"
    if verb != "build":
        return main([verb, *words], called=f"openwit {command.name} {verb}")
    from openwit.command.sample import before_queries

    if status := before_queries(words):
        return status
    return main(["build", *words], called=f"openwit {command.name}")


def _training(command: Command, words: list[str]) -> int:
    from training.__main__ import main

    if command.name == "train":
        from openwit.command.sample import before_training

        if status := before_training(words):
            return status
    return main([*command.words, *words], called=f"openwit {command.name}")


def _sample_web(command: Command, words: list[str]) -> int:
    from pipeline.sample_web.__main__ import main

    return main(words)


def _own(command: Command, words: list[str]) -> int:
    from openwit.command.own import run

    return run(command.name, words)


_ROOMS: Mapping[str, Callable[[Command, list[str]], int]] = {
    "pipeline": _pipeline,
    "query_list": _query_list,
    "training": _training,
    "sample_web": _sample_web,
    "openwit": _own,
}

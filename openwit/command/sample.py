"""What the presets called `sample` need before they can be run, made where it is missing: as `make shards` and
`make train` do.

    sample web --> query list --> shards --> training
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from configs.help import ask_for_help
from pipeline.terminal.printable import say

__all__ = ["before_plan", "before_queries", "before_shards", "before_training"]

_WEB = "data/sample_web"
_SET = "data/sample"
"""As the sample's configs have them; a test holds them to it. What other options name is not made."""


def before_shards(words: Sequence[str]) -> int:
    """Make the sample web and its query list, if `words` are of a run of the sample; the exit status."""
    if not _is_sample(words):
        return 0
    _say(f"the sample: a miniature web in {_WEB}, its query list, the data set in {_SET}, all below this directory")
    return before_queries(["sample"]) or _query_list()


def before_plan(words: Sequence[str]) -> int:
    """Say what is missing, if `words` are of the sample: nothing is made; the exit status."""
    if not _is_sample(words) or _has_sample_web():
        return 0
    _say(f"error: {_WEB}: no sample web here yet; `openwit shards sample` makes it, and the data set")
    return 2


def before_queries(words: Sequence[str]) -> int:
    """Make the sample web, whose encyclopedia the sample's query list is made from; the exit status."""
    if not _is_sample(words):
        return 0
    from pipeline.sample_web.__main__ import main

    return 0 if _has_sample_web() else main(["build"])


def before_training(words: Sequence[str]) -> int:
    """Make the sample's data set where there is none, if `words` are of a training on it; the exit status."""
    if not _is_sample(words) or Path(_SET, "shards", "manifest.json").exists():
        return 0
    if importlib.util.find_spec("torch") is None:  # the trainer says so itself, before anything is made
        return 0
    from openwit.command import main

    _say("the sample's data set comes first: openwit shards sample")
    return main(["shards", "sample"])


def _query_list() -> int:
    from query_list.commands import main

    return main(["build", "sample"])


def _is_sample(words: Sequence[str]) -> bool:
    return bool(words) and words[0] == "sample" and not ask_for_help(words)[0]


def _has_sample_web() -> bool:
    """Whether there is a sample web, of whatever size and port, that this version wrote."""
    from pipeline.sample_web.build import read_settings

    return read_settings(Path(_WEB)) is not None


def _say(text: str) -> None:
    say(text, to=sys.stderr)

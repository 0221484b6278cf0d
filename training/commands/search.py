"""`search INDEX "a red circle"`: the pictures that are nearest to words, or to a picture."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipeline.terminal.printable import say
from training.commands.installed import check_installed
from training.commands.words import options_with_places
from training.search.config import SearchConfig

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = SearchConfig
NEEDED = ("image", "k", "where", "format", "to", "model", "source")


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError, PipelineError."""
    config = options_with_places(SearchConfig, words, ("index", "text"))
    check_installed()
    from training.search.search import search
    from training.search.show import show

    answer = search(config)
    show(answer)
    if answer.problem is not None:
        say(f"warning: {answer.problem}", to=sys.stderr)
    if config.to is not None:
        say(f"{config.to}: {len(answer.hits)} of {answer.searched:,}")
    return 0

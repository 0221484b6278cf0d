"""`index FEATURES`: what `search` finds its answers with."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.terminal.printable import say
from training.commands.installed import check_installed
from training.commands.words import options_with_places
from training.search.config import IndexConfig

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = IndexConfig
NEEDED = ("to", "of", "neighbours", "effort", "threads")


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError, PipelineError."""
    config = options_with_places(IndexConfig, words, ("features",))
    check_installed()
    from training.search.build import build_index
    from training.search.progress import graph_progress

    with graph_progress() as tell:
        index = build_index(config, tell=tell)
    about = index.about
    size = sum(about.num_bytes.values())
    how = "a graph" if "graph" in about.files else "all of them compared"
    say(f"{index.place}: {about.rows:,} {about.of}s of width {about.width}, {how}, {size / 1e6:,.1f} MB")
    return 0

"""`score FEATURES...`: scores by uid, for `pipeline` to filter and to subset by."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.terminal.printable import say
from training.commands.installed import check_installed
from training.commands.words import options_with_places
from training.scores.config import ScoreConfig

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = ScoreConfig
NEEDED = ("features", "scores", "to", "name", "aesthetic.head", "policy.file", "duplicates.eps")


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError, PipelineError."""
    config = options_with_places(ScoreConfig, words, ["features..."])
    check_installed()
    from pipeline.terminal.console import PrintableConsole
    from pipeline.terminal.progress import Progress
    from training.scores.score import score

    result = score(config, progress=Progress(PrintableConsole(stderr=True)))
    if result.made_before:
        say(f"{result.to}: is there already, {result.rows:,} rows by these options")
        return 0
    for name, facts in result.columns.items():
        range_of = f", mean {facts.mean:.4f}, {facts.least:.4f} to {facts.greatest:.4f}" if facts.sum else ""
        say(f"{name}: {facts.values:,} of {result.rows:,} rows{range_of}")
    say(f"wrote {result.rows:,} rows to {result.to}")
    return 0

"""`score-captions CAPTIONS MODEL`: how well a set's texts and captions fit its pictures, for `subset` to choose by."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.terminal.printable import say
from training.captions.config import ScoreCaptionsConfig
from training.commands.installed import check_installed
from training.commands.launched import launched
from training.commands.words import options_with_places

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = ScoreCaptionsConfig
NEEDED = ("by", "data", "to", "batch_size", "device")


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError, PipelineError."""
    config = options_with_places(ScoreCaptionsConfig, words, ("captions", "model"))
    check_installed()
    from training.distributed import is_first_process

    work, output = "training.captions.score_captions:score_captions", config.to or config.captions
    made = launched(work, config, output=output, doing="scores")
    if is_first_process():
        about = made.about
        broken = f", {about.broken:,} pictures not whole" if about.broken else ""
        say(f"{made.place}: rows {about.rows:,}, captions {about.captions:,}{broken}; by {about.judge.by}")
    return 0

"""`plan CONFIG.yaml`: what a run will take."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.terminal.printable import say
from training.commands.installed import check_installed
from training.commands.words import NEEDED_TO_TRAIN, train_config
from training.config import TrainConfig

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = TrainConfig
NEEDED = NEEDED_TO_TRAIN


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError."""
    config = train_config(words)
    check_installed()
    from training.plan import plan

    for line in plan(config):
        say(line)
    return 0

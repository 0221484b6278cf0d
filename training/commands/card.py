"""`card RUN`: a run's model card."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.terminal.printable import say
from training.cards.config import CardConfig
from training.commands.words import options_with_places

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = CardConfig
NEEDED = ("run", "to")


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError, PipelineError."""
    asked = options_with_places(CardConfig, words, ["run"])
    from training.cards.card import write_card

    say(f"wrote {write_card(asked.run, asked.to)}")
    return 0

"""`caption MODEL DATA`: what a model writes of a data set's pictures, by uid, as Parquet."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.terminal.printable import say
from training.captions.config import CaptionConfig
from training.commands.installed import check_installed
from training.commands.launched import launched
from training.commands.words import options_with_places

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = CaptionConfig
NEEDED = ("to", "name", "captions", "top_p", "min_tokens", "max_tokens", "seed", "batch_size", "device")


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError, PipelineError."""
    config = options_with_places(CaptionConfig, words, ("model", "data"))
    check_installed()
    from training.distributed import is_first_process

    made = launched("training.captions.caption:caption", config, output=config.to or config.data, doing="captions")
    if is_first_process():
        about = made.about
        broken = f", {about.broken:,} pictures not whole" if about.broken else ""
        say(f"{made.place}: rows {about.rows:,}, captions {about.captions:,}{broken}; called {about.name}")
    return 0

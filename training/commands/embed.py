"""`embed MODEL DATA`: the features of a data set, folder or list, by uid, as Parquet."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.terminal.printable import say
from training.commands.installed import check_installed
from training.commands.words import options_with_places
from training.embedding.config import EmbedConfig

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = EmbedConfig
NEEDED = ("to", "name", "what", "batch_size", "device", "image_column", "text_column")


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError, PipelineError."""
    config = options_with_places(EmbedConfig, words, ("model", "data"))
    check_installed()
    from training.distributed import is_first_process
    from training.embedding.embed import embed

    features = embed(config)
    if is_first_process():
        about = features.about
        broken = f", {about.broken:,} pictures not whole" if about.broken else ""
        counts = f"rows {about.rows:,}, with a picture {about.images:,}, with a text {about.texts:,}"
        say(f"{features.place}: {counts}{broken}; width {about.width}")
    return 0

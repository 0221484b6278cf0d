"""`embed MODEL DATA`: the features of a data set, folder or list, by uid, as Parquet."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.terminal.printable import say
from training.commands.installed import check_installed
from training.commands.launched import launched
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

    output = config.to or config.data
    features = launched("training.embedding.embed:embed", config, output=output, doing="embedding")
    if is_first_process():
        about = features.about
        broken = f", {about.broken:,} pictures not whole" if about.broken else ""
        if about.left_out:
            broken += f", {about.left_out:,} pictures left out that are no sample's (docs/search.md#embed)"
        counts = f"rows {about.rows:,}, with a picture {about.images:,}, with a text {about.texts:,}"
        say(f"{features.place}: {counts}{broken}; width {about.width}")
    return 0

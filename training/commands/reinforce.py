"""`reinforce DATA TEACHER...`: what teachers say of a data set's augmentations and captions, by uid."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.terminal.printable import say
from training.commands.installed import check_installed
from training.commands.launched import launched
from training.commands.words import options_with_places
from training.reinforcement.config import ReinforceConfig

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = ReinforceConfig
NEEDED = ("to", "name", "captions", "max_captions", "augmentations", "seed", "plan", "batch_size", "device")


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError, PipelineError."""
    config = options_with_places(ReinforceConfig, words, ("data", "teachers..."))
    check_installed()
    from training.distributed import is_first_process
    from training.reinforcement.reinforce import shown_bytes

    output = config.to or config.data
    found = launched("training.reinforcement.reinforce:reinforce", config, output=output, doing="reinforcing")
    if found is not None and is_first_process():
        about = found.about
        whole, broken = (sum(getattr(part, what) for part in about.parts) for what in ("whole", "broken"))
        counts = f"rows {about.rows:,}, with a picture {whole:,}, synthetic captions {about.captions:,}"
        told = f", {broken:,} pictures not whole" if broken else ""
        say(f"{found.place}: {counts}{told}; {shown_bytes(about.num_bytes)}")
    return 0

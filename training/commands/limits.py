"""`limits MODEL`: what a model cannot do, on generated pictures."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.storage.place import Place, place_of
from training.cards.config import LimitsConfig
from training.commands.installed import check_installed
from training.commands.words import last_checkpoint, options_with_places

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = LimitsConfig
NEEDED = ("model", "to", "questions", "seed")


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError, PipelineError."""
    asked = options_with_places(LimitsConfig, words, ["model"])
    check_installed()
    place = None if asked.model.startswith(("hf-hub:", "local-dir:")) else place_of(asked.model)
    is_run = place is not None and (place / "config.yaml").is_file()
    target: Place | None = place_of(asked.to) if asked.to else place / "limits" if is_run and place else None
    seen: int | None = None
    if is_run:
        with last_checkpoint(asked.model) as last:  # told before torch is loaded
            seen = int(last.name)
    from training.cards.limits import measure_limits, write_limits
    from training.cards.limits_table import show_limits
    from training.learning.pretrained import load_model

    model = load_model(asked.model, device=asked.device, precision=asked.precision, tokenizer=asked.tokenizer)
    limits = measure_limits(
        model, questions=asked.questions, seed=asked.seed, batch_size=asked.batch_size, samples_seen=seen
    )
    if target is not None:
        write_limits(limits, target)
    show_limits(limits, title=f"{asked.model}, of {asked.questions} drawn pictures each")
    return 0

"""`evaluation-set SET --to DIR`: an evaluation set of any form, written as tars in CLIP_benchmark's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.storage.place import place_of
from pipeline.terminal.printable import say
from training.commands.installed import check_installed
from training.commands.words import options_with_places
from training.errors import OutputError
from training.evaluation.config import SetOptions

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = SetOptions
NEEDED = ("source", "to")


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError, PipelineError."""
    options = options_with_places(SetOptions, words, ["source"])
    check_installed()
    from training.evaluation.sets.open import open_set
    from training.evaluation.sets.write import write_tars

    to = place_of(options.to)
    if not isinstance(to, Path):
        raise OutputError(f"{to}: is written on a disk first; give a directory, and copy it into the bucket")
    data = open_set(options.source)
    written = write_tars(data, to, examples_per_tar=options.examples_per_tar)
    parts = [f"{written.examples:,} pictures", *([f"{written.train:,} to learn from"] if written.train else [])]
    parts += [f"{len(data.classes):,} classes"] if data.classes else []
    parts += [f"{written.recoded:,} made PNGs"] if written.recoded else []
    say(f"wrote {to}: {', '.join(parts)}")
    return 0

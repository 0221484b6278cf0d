"""`faces MODEL DATA`: boxes of faces by uid, for `pipeline` to filter and to subset by."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.terminal.printable import say
from training.commands.words import options_with_places
from training.faces.config import FacesConfig

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = FacesConfig
NEEDED = ("to", "min_score", "longest_side", "engine")


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError, PipelineError."""
    config = options_with_places(FacesConfig, words, ("model", "data"))
    from pipeline.terminal.console import PrintableConsole
    from pipeline.terminal.progress import Progress
    from training.faces.faces import find_faces

    result = find_faces(config, progress=Progress(PrintableConsole(stderr=True)))
    broken = f", {result.broken:,} without a whole picture" if result.broken else ""
    there = "is there already" if result.made_before else "written"
    say(f"{result.to}: {there}; rows {result.rows:,}, with a face {result.with_faces:,}{broken}")
    return 0

"""What stands behind a command: a config, or the places that a command takes, and options."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from configs.load import ConfigError, load
from configs.presets import no_preset, preset
from pipeline.storage.place import place_of
from pipeline.terminal.printable import say
from training.config import TrainConfig
from training.errors import CheckpointError

__all__ = ["NEEDED_TO_TRAIN", "config_path", "is_config", "last_checkpoint", "options_with_places", "train_config"]

T = TypeVar("T")

NEEDED_TO_TRAIN = (
    *("output", "data.path", "model.name", "epochs", "samples", "global_batch_size"),
    *("optimiser.learning_rate", "evaluation.path"),
)
"""Options of TrainConfig on the first page of help."""


def train_config(words: Sequence[str]) -> TrainConfig:
    """The config of `words`, CONFIG.yaml or a preset's word, then options. Raises ConfigError."""
    rest = list(words)
    path = config_path(rest.pop(0)) if rest and not rest[0].startswith("--") else None
    return load(TrainConfig, path, rest)


def is_config(word: str) -> bool:
    """Whether `word` names a training config: a YAML file, or a preset."""
    return Path(word).suffix in (".yaml", ".yml") or preset("train", word) is not None


def config_path(word: str) -> str:
    """The file that `word` names: a path, or a preset. Raises ConfigError."""
    if Path(word).suffix in (".yaml", ".yml"):
        return word
    if (file := preset("train", word)) is not None:
        return str(file)
    if not Path(word).exists():
        raise ConfigError(f"{word}: no config here; {no_preset('train', word)}")
    return word


def options_with_places(cls: type[T], words: Sequence[str], places: Sequence[str]) -> T:
    """`cls` of `words`: first the values of the options `places`, in order, as they are; then `--option value`.

    The last of `places` may end in `...`: it takes all words up to the options, as a list. Raises ConfigError.
    """
    first_option = next((number for number, word in enumerate(words) if word.startswith("--")), len(words))
    here, rest = list(words[:first_option]), list(words[first_option:])
    values: dict[str, object] = {}
    for place in places:
        if place.endswith("...") and here:
            values[place.removesuffix("...")], here = here, []
        elif here:
            values[place] = here.pop(0)
    if here:
        raise ConfigError(f"unexpected argument {here[0]!r}; options look like --section.key value")
    return load(cls, _Given(values), rest)


class _Given:
    """Words in their places, where `load` expects a file."""

    def __init__(self, values: dict[str, object]) -> None:
        self._values = values

    def __str__(self) -> str:
        return "the command line"

    def read_text(self, encoding: str) -> str:
        """The values as YAML, which is read as it was written."""
        import json

        return json.dumps(self._values)


@contextlib.contextmanager
def last_checkpoint(output: str) -> Iterator[Path]:
    """The last whole checkpoint of the run at `output`, of one in a bucket as a copy for the moment.

    Says on standard error which damaged ones were passed over. Raises CheckpointError, OSError.
    """
    import sys

    from pipeline.storage.copies import scratch_files
    from training.checkpoints.in_bucket import last_here

    with contextlib.ExitStack() as stack:
        root = place_of(output)
        copies = root if isinstance(root, Path) else stack.enter_context(scratch_files())
        last, problems = last_here(root / "checkpoints", copies)
        for problem in problems:
            say(f"warning: {problem}", to=sys.stderr)
        if last is None:
            raise CheckpointError(f"{output}: no whole checkpoint there; train first, or set --output")
        yield last

"""Many models on many sets, each pair once.

sets --open, survey--> what is there  \
                                       >-- pair by pair: measure, or what an earlier command found --> results.py
models --load, fingerprint-----------> /

A pair is told by what decides its result: the model's weights, the set's content, the options that matter. Its record
stands in TO/pairs/KEY.json and holds no time, so that a command that goes on gives the bytes of one that never stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch

from configs.load import fingerprint
from pipeline.errors import PipelineError
from pipeline.storage.atomic import read_sealed, write_sealed
from pipeline.storage.place import Place, place_of
from pipeline.terminal.console import PrintableConsole
from pipeline.terminal.printable import say
from training.distributed import World, distributed
from training.errors import EvaluationError
from training.evaluation.config import EvaluateOptions
from training.evaluation.measure import Measured, Prompts, measure
from training.evaluation.progress import Progress
from training.evaluation.sets.form import EvaluationSet
from training.evaluation.sets.open import open_set
from training.evaluation.sets.survey import Survey, survey
from training.learning.model import Model
from training.learning.pretrained import fingerprint_of, load_model

__all__ = ["Pair", "compare"]

T = TypeVar("T")

_VERSION = 1
"""Of what is measured: with another one, nothing that was found before is believed."""
_SENTENCE = "A photo of two Gänse, 3.5 m from the café's door!"
"""Its tokens tell tokenizers apart."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A model on a set, and what was found."""

    model: str
    """As the user named it."""
    set: str
    found: Mapping[str, Any]
    """Its record, plain values: `model`, `set`, `options`, `metrics`, `classes`, `confusions`, `templates`,
    `probe_l2`."""
    is_known: bool
    """Whether an earlier command found it."""

    @property
    def metrics(self) -> Mapping[str, Mapping[str, float]]:
        """`value` and `chance` by the metric's name, in the order in which they are shown."""
        return {each["name"]: {"value": each["value"], "chance": each["chance"]} for each in self.found["metrics"]}


def compare(options: EvaluateOptions) -> list[Pair]:
    """Every model on every set, in their order; the same list on every rank. Rank 0 says on standard error what is
    left out.

    Raises EvaluationError for a set before a model is looked at; ModelError, DistributedError.
    """
    with distributed(device=options.device) as world:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        sets = [open_set(path) for path in options.sets]
        surveys = [survey(data, train=options.probe, world=world) for data in sets]
        if options.probe:
            _check_train(sets, surveys, world)
        directory = None if options.to is None else place_of(options.to)
        pictures = sum(found.examples + found.train for found in surveys) * len(options.models)
        console = PrintableConsole(stderr=True) if world.is_first else None
        pairs: list[Pair] = []
        with Progress(pictures=pictures, console=console) as progress:
            for source in options.models:
                model = load_model(
                    source, device=options.device, precision=options.precision, tokenizer=options.tokenizer
                )
                about = world.on_first(lambda made=model: _about(made))  # type: ignore[misc]  # a lambda's default
                prompts = Prompts(model=model, batch_size=options.batch_size, world=world)
                for data, seen in zip(sets, surveys, strict=True):
                    asked = {"flips": options.flips, "probe": options.probe and seen.train > 0}
                    record = directory / "pairs" / f"{_key(about, seen, asked)}.json" if directory is not None else None
                    found = _known(record, world)
                    is_known = found is not None
                    if found is None:
                        progress.begin(f"{source} on {data.root}")
                        measured = measure(
                            data, prompts, options, world, lambda own: progress.advance(own * world.size)
                        )
                        found = _plain(about, data, seen, asked, measured)
                        _keep(record, found, world)
                    else:
                        progress.leave_out(seen.examples + seen.train)
                    pairs.append(Pair(model=source, set=str(data.root), found=found, is_known=is_known))
        return pairs


def _check_train(sets: Sequence[EvaluationSet], surveys: Sequence[Survey], world: World) -> None:
    without = [data for data, found in zip(sets, surveys, strict=True) if not (found.train and found.labelled)]
    if len(without) == len(sets):
        raise EvaluationError(
            f"{without[0].root}: has no labelled train part to learn a linear probe from (train/ beside test/); add "
            "one, or leave --probe out"
        )
    for data in without if world.is_first else ():
        say(f"{data.root}: has no labelled train part, so no linear probe is measured on it", to=sys.stderr)


def _about(model: Model) -> dict[str, Any]:
    """What tells a model from others, as far as its results hang on it."""
    tokens = model.tokenizer([_SENTENCE]).tolist()
    return {
        "architecture": model.name,
        "weights": fingerprint_of(model),
        "precision": model.precision,
        "image_size": model.image_size,
        "resize_mode": model.resize_mode,
        "interpolation": model.interpolation,
        "mean": [round(value, 6) for value in model.mean_C11.flatten().tolist()],
        "std": [round(value, 6) for value in model.std_C11.flatten().tolist()],
        "tokenizer": fingerprint(tokens),
    }


def _key(about: Mapping[str, Any], seen: Survey, asked: Mapping[str, Any]) -> str:
    # An export has the name of its JSON, a run that of its config: the weights tell them all.
    model = {name: value for name, value in about.items() if name != "architecture"}
    return fingerprint(_VERSION, model, seen.fingerprint, dict(asked))


def _known(record: Place | None, world: World) -> dict[str, Any] | None:
    return None if record is None else world.on_first(lambda: _tried(lambda: read_sealed(record)))


def _keep(record: Place | None, found: Mapping[str, Any], world: World) -> None:
    if record is not None:
        world.on_first(lambda: _tried(lambda: write_sealed(record, found)))


def _tried(action: Callable[[], T]) -> T:
    """What `action` returns; what a disk or a bucket is in its way with as an error that all ranks are told of."""
    try:
        return action()
    except PipelineError as error:
        raise EvaluationError(str(error)) from error


def _plain(
    about: Mapping[str, Any], data: EvaluationSet, seen: Survey, asked: Mapping[str, Any], measured: Measured
) -> dict[str, Any]:
    return {
        "model": dict(about),
        "set": {
            "form": data.form,
            **asdict(seen),
            "classes": len(data.classes),
            "templates": len(data.templates),
        },
        "options": dict(asked),
        "metrics": [asdict(metric) for metric in measured.metrics],
        "classes": [asdict(each) for each in measured.classes],
        "confusions": [asdict(each) for each in measured.confusions],
        "templates": [{"template": template, "top1": top1} for template, top1 in measured.templates],
        "probe_l2": measured.probe_l2,
    }

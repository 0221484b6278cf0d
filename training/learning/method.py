"""What a model learns: one interface for every system that grew from CLIP.

    batch --forward--> rows (they couple the samples of the global batch)    sums (each sample by itself)
                         |                                                     |
    constants ------> coupled: terms over the whole batch, found          divided by `counts` over the whole batch
                         |                                  |
                    gradient of the own rows             second: what goes by other samples, such as hard negatives

`gradient.py` makes of it the exact gradient of the global batch for any number of ranks and micro-batches: rows are cut
out of the graph (GradCache, arXiv 2101.06983), and sums add up by themselves once they are divided by the counts of the
whole batch. A method holds no weights: those that it adds to open_clip's model are its `heads`, and are trained,
sharded and saved with it.

A new method is one file: a subclass of `Method` with a dataclass of `Options`, named in a config as
`method: {name: MODULE:CLASS, options: {...}}`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from configs.load import ConfigError, from_mapping
from training.config import LossConfig, MethodConfig
from training.data.batch import OWN_FIELDS, Batch
from training.distributed import World
from training.errors import ModelError
from training.learning.model import Model

__all__ = ["Coupled", "Method", "Output", "Rows", "Terms", "make_method"]

Rows = Mapping[str, Tensor]
"""By name: [B, ...], a row for each sample."""
Terms = Mapping[str, Tensor]
"""By name: a scalar each, which add up to the loss."""

METHODS = {
    "contrastive": "training.learning.methods.contrastive:Contrastive",
    "distillation": "training.learning.methods.distillation.distillation:Distillation",
    "coca": "training.learning.methods.coca:Coca",
    "blip": "training.learning.methods.blip.blip:Blip",
    "siglip2": "training.learning.methods.siglip2.siglip2:Siglip2",
    "qformer": "training.learning.methods.blip2.first_stage:QFormerStage",
    "qformer_lm": "training.learning.methods.blip2.second_stage:LanguageStage",
}
"""Those that come with the trainer, by their names in a config."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What the model says of B samples."""

    rows: Rows
    """What couples the samples of the global batch, such as features [B, D]."""
    sums: Terms = field(default_factory=dict)
    """Losses of single samples, summed over the B; each is divided by the count of its name."""


@dataclass(frozen=True, kw_only=True)
class Coupled:
    """What comes of the rows of the global batch, for one rank with n samples of it."""

    terms: Terms
    """This rank's share; those of all ranks add up."""
    found: Rows = field(default_factory=dict)
    """[n, ...], without gradient: what `second` needs of other samples, such as the tokens of hard negatives."""


class Method(ABC):
    """What to minimise, and over which outputs of the model. All of it is called on every rank."""

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Those of the method, under `method.options` in a config."""

    options: Any
    """Of its `Options`."""
    loss: LossConfig
    fields: ClassVar[tuple[str, ...]] = ()
    """What it needs of a batch beyond pictures, tokens and keys: columns of the shards' Parquet, a number or a list of
    numbers of one length in each row, by any name but `batch.OWN_FIELDS`. A data set that lacks one is refused."""
    not_in_towers: ClassVar[str | None] = None
    """Why the towers by themselves are not what was learnt, so that neither an export nor an embedding takes them;
    None where they are."""
    embeds: ClassVar[bool] = True
    """Whether the model has features to evaluate."""
    inherits: ClassVar[tuple[str, ...]] = ()
    """Those of its `heads` that `model.init_from` must have, and that begin as they are there."""
    init_logit_scale: float
    """Logarithm of the scale that a model begins with."""
    init_logit_bias: float | None = None
    """Bias of the logits that a model begins with; None where it shall have none."""

    def __init__(self, options: Any, loss: LossConfig) -> None:
        self.options, self.loss = options, loss

    @property
    def needs_reinforcements(self) -> bool:
        """Whether batches must hold what `data.reinforced` adds to them (`data/taught.py`)."""
        return False

    def check_reinforced(self, teachers: int | None) -> None:  # noqa: B027 - most take any data
        """Before anything is made: raise ConfigError where the method cannot learn from reinforcements of so many
        teachers, or without any (None)."""

    def heads(self, clip: nn.Module) -> Mapping[str, nn.Module]:
        """Modules to train beside open_clip's, by name; `Model.head` gives them back."""
        return {}

    def check(self, model: Model) -> None:
        """Raise ModelError or ConfigError where `model` is none to learn so, before anything is written; here, where it
        has a decoder that would stay as it was drawn."""
        if model.has_decoder:
            raise ModelError(
                f"{model.name}: has a decoder that writes captions, which this method does not train; set "
                "--method.name coca, or take a model without one (ViT-B-32, ViT-L-14)"
            )

    @abstractmethod
    def forward(self, model: Model, batch: Batch, *, rows_only: bool = False, known: Rows | None = None) -> Output:
        """What the model says of `batch`.

        With several micro-batches it is called twice with the same random numbers: with `rows_only` and without a
        graph, then with one, and with what it said before as `known`, of which it may take rows that need no graph.
        """

    def constants(self, model: Model, batch: Batch) -> Rows:
        """What `coupled` needs and nobody learns, such as the features of a teacher; once a step, without a graph."""
        return {}

    def coupled(self, model: Model, rows: Rows, constants: Rows, *, world: World, total: int) -> Coupled:
        """The terms over the whole batch of `total` samples, of which `rows` are this rank's n, leaves of the graph.

        Rows of other ranks come from `coupling.everyone`. Weights of the model that are used here, such as the scale,
        get this rank's part of their gradient.
        """
        return Coupled(terms={})

    def second(self, model: Model, batch: Batch, output: Output, found: Rows) -> Terms:
        """Losses summed over the samples of `batch`, that go by what `coupled` has `found` for these samples."""
        return {}

    def counts(self, batch: Batch) -> Terms:
        """For each name of `Output.sums` and `second`: what `batch` adds to its divisor, such as its captions' tokens.
        A divisor of 0 makes no loss of that name."""
        return {}

    def rehearse(self, model: Model, batch: Batch) -> None:
        """All that a micro-batch computes with a graph, for `plan` to see what is kept of it; on tensors of any
        content."""
        self.forward(model, batch)

    def before_step(self, model: Model, *, samples_seen: int, total: int) -> None:  # noqa: B027 - as `after_step`
        """Before the step that begins after `samples_seen` of the run's `total` samples, without a graph: what ramps,
        or begins late, is told here where the run is. A method that was never told is at the end of its run."""

    def after_step(self, model: Model, *, samples_seen: int) -> None:  # noqa: B027 - most have nothing to do
        """After the optimiser's step, without a graph: clamp, follow with a moving average. Also after one that was
        left out, which changed nothing: only the device knows."""


def make_method(config: MethodConfig, loss: LossConfig) -> Method:
    """The method that a config names. Raises ConfigError."""
    module, colon, name = METHODS.get(config.name, config.name).partition(":")
    if not colon:
        raise ConfigError(f"method.name: {config.name!r} is none of {', '.join(METHODS)}, and no MODULE:CLASS")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"method.name: {config.name}: cannot be imported ({error}); is it on PYTHONPATH?") from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigError(f"method.name: {config.name} is no subclass of training.learning.method.Method")
    if taken := [name for name in found.fields if name in OWN_FIELDS]:
        raise ConfigError(
            f"method.name: {config.name} asks for columns named {', '.join(taken)}, as batches call what they have "
            "anyway; rename them in the shards and in its fields"
        )
    if missing := sorted(found.__abstractmethods__):
        raise ConfigError(
            f"method.name: {config.name} has no {', '.join(missing)}; write it as training.learning.method.Method says"
        )
    if not dataclasses.is_dataclass(found.Options):
        raise ConfigError(
            f"method.name: {config.name}: its Options are no dataclass; put @dataclass(frozen=True, kw_only=True) there"
        )
    options = from_mapping(found.Options, config.options, where="method.options")
    method = found(options, loss)
    _check_whole(method, config.name)
    return method


def _check_whole(method: Method, name: str) -> None:
    """Raise ConfigError where a method lacks what the trainer takes from it, or has it for other arguments."""
    try:
        is_scale = math.isfinite(float(method.init_logit_scale))
    except (AttributeError, TypeError, ValueError):
        is_scale = False
    if not is_scale:
        raise ConfigError(
            f"method.name: {name} has no init_logit_scale, the logarithm of the scale that a model begins with; set it "
            "in the class, such as init_logit_scale = math.log(1 / 0.07), or 0.0 where nothing is scaled"
        )
    kind = type(method)
    for part, ours in inspect.getmembers(Method, inspect.isfunction):
        if part.startswith("_") or getattr(kind, part) is ours:
            continue
        own = inspect.signature(getattr(method, part))
        _, *asked = inspect.signature(ours).parameters.values()
        by_name = {each.name: None for each in asked if each.kind is each.KEYWORD_ONLY}
        try:
            own.bind(*[None] * (len(asked) - len(by_name)), **by_name)
        except TypeError as error:
            raise ConfigError(
                f"method.name: {name}: {part}{own} cannot be called as Method.{part} is ({error}); take the arguments "
                "that it has"
            ) from error
    if kind.second is not Method.second and kind.counts is Method.counts:
        raise ConfigError(
            f"method.name: {name} has second and no counts, which says what to divide its losses by; write both"
        )

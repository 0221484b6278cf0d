"""Zero-shot classification and retrieval while a model is trained: the model on the sets of its config.

set --encode.py--> unit features of pictures, captions and classes --metrics.py--> metrics
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from training.checkpoints.layout import Progress, read_progress
from training.checkpoints.loading import load_checkpoint
from training.config import EvaluationConfig, LossConfig, MethodConfig, ModelConfig, Precision
from training.distributed import World, place_of
from training.errors import EvaluationError
from training.evaluation.captions import caption_metrics
from training.evaluation.encode import class_embeddings, encode_parts
from training.evaluation.metrics import Metric, retrieval, zero_shot
from training.evaluation.sets.form import EvaluationSet
from training.evaluation.sets.open import open_set
from training.learning.method import make_method
from training.learning.model import Model, create_model, resolve_precision

__all__ = ["check_sets", "evaluate", "evaluate_checkpoint"]


def check_sets(config: EvaluationConfig) -> None:
    """Raise EvaluationError where there is no evaluation set at one of the config's paths; before there is a model."""
    for path in (*([] if config.path is None else [config.path]), *config.sets):
        open_set(path)


def evaluate(model: Model, config: EvaluationConfig, world: World | None = None) -> list[Metric]:
    """Every metric that the sets of `config` allow; the same list on every rank.

    Those of `config.path` have their plain names, those of `config.sets` stand behind their set's name and a slash.
    Ranks share the pictures, captions and classes. Raises EvaluationError.
    """
    world = world or World(device=model.device)
    if not config.measures:
        raise EvaluationError("evaluation.path is not set; give the directory of an evaluation set")
    metrics = [] if config.path is None else _on_set(open_set(config.path), model, config, world)
    names: dict[str, int] = {}
    for path in config.sets:
        data = open_set(path)
        names[data.name] = names.get(data.name, 0) + 1
        name = data.name if names[data.name] == 1 else f"{data.name}-{names[data.name]}"
        metrics += [
            Metric(name=f"{name}/{found.name}", value=found.value, chance=found.chance)
            for found in _on_set(data, model, config, world)
        ]
    return metrics


def evaluate_checkpoint(
    config: EvaluationConfig,
    checkpoint: Path,
    model: ModelConfig,
    method: MethodConfig,
    loss: LossConfig,
    precision: Precision,
    device_name: Literal["auto", "cpu", "cuda"] = "auto",
) -> tuple[list[Metric], Progress]:
    """Metrics of a saved checkpoint, in this one process, and how far it was trained.

    Raises DistributedError where there is no such device, EvaluationError, CheckpointError, ModelError.
    """
    made_by = make_method(method, loss)
    device = place_of(device_name)
    made = create_model(
        model,
        device=device,
        precision=resolve_precision(precision, device),
        init_logit_scale=made_by.init_logit_scale,
        init_logit_bias=made_by.init_logit_bias,
        seed=0,
        heads=made_by.heads,
        image_size=read_progress(checkpoint).image_size,
    )
    made_by.check(made)
    progress = load_checkpoint(checkpoint, made.clip)
    return evaluate(made, config), progress


def _on_set(data: EvaluationSet, model: Model, config: EvaluationConfig, world: World) -> list[Metric]:
    try:
        found = encode_parts(data.parts, model, batch_size=config.batch_size, world=world)
    except EvaluationError as error:
        raise EvaluationError(str(error) if str(data.root) in str(error) else f"{data.root}: {error}") from error
    metrics: list[Metric] = []
    labelled = found.labels >= 0
    if labelled.any():
        classes_CD = class_embeddings(model, data.classes, data.templates, batch_size=config.batch_size, world=world)
        metrics += zero_shot(found.images[labelled], classes_CD, found.labels[labelled])
    if len(found.owners):
        metrics += retrieval(found.images, found.texts, found.owners)
        if model.has_decoder:
            metrics += caption_metrics(data.parts, model, batch_size=config.batch_size, world=world)
    return metrics

"""Zero-shot classification and retrieval: a model on an evaluation set.

examples --each rank its share--> unit features of pictures, captions and classes --gather--> metrics
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from training.checkpoints.layout import Progress, read_progress
from training.checkpoints.loading import load_checkpoint
from training.config import EvaluationConfig, LossConfig, MethodConfig, ModelConfig, Precision
from training.data.batch import trim
from training.data.decode import centre_crop, decode
from training.distributed import World, place_of
from training.errors import EvaluationError
from training.evaluation.examples import EvaluationSet
from training.evaluation.metrics import Metric, retrieval, zero_shot
from training.learning.method import make_method
from training.learning.model import Model, create_model, resolve_precision

__all__ = [
    "class_embeddings",
    "evaluate",
    "evaluate_checkpoint",
    "prepare",
]


T = TypeVar("T")


def prepare(data: bytes, size: int) -> npt.NDArray[np.uint8]:
    """RGB uint8[size, size, 3]: every pixel decoded, then `centre_crop`. EvaluationError for what is no picture."""
    pixels = decode(data)
    if pixels is None:
        raise EvaluationError("a picture cannot be decoded")
    return centre_crop(pixels, size)


def class_embeddings(model: Model, classes: list[str], templates: list[str], *, batch_size: int = 256) -> Tensor:
    """Unit [C, D]: mean of each class's normalised template embeddings, normalised (CLIP, section 3.1.4)."""
    texts = [template.replace("{c}", name) for name in classes for template in templates]
    text_TD = _embed_texts(model, texts, batch_size, World(device=model.device))
    mean_CD = text_TD.view(len(classes), len(templates), -1).mean(dim=1)
    return F.normalize(mean_CD, dim=-1)


def evaluate(model: Model, config: EvaluationConfig, world: World | None = None) -> list[Metric]:
    """Every metric that the set at `config.path` allows; the same list on every rank.

    Ranks share the pictures and captions. Raises EvaluationError.
    """
    world = world or World(device=model.device)
    if config.path is None:
        raise EvaluationError("evaluation.path is not set; give the directory of an evaluation set")
    data = EvaluationSet(config.path)
    embed = partial(_embed_share, data, model, config, world)
    # The ranks of a sharded model wait for each other inside, and find an error of one by the time-out.
    share = embed() if model.is_sharded else world.together(embed)
    shares: list[_Share] = world.gather_objects(share)
    if not any(part.numbers for part in shares):
        raise EvaluationError(f"{data.root}: the tars hold no example")
    order = torch.tensor([number for part in shares for number in part.numbers]).argsort()
    image_ND = torch.cat([part.images for part in shares if part.numbers])[order]
    labels_N = torch.tensor([label for part in shares for label in part.labels])[order]
    metrics: list[Metric] = []
    labelled = labels_N >= 0
    if labelled.any():
        metrics += zero_shot(image_ND[labelled], share.classes, labels_N[labelled])
    owners_M = torch.tensor([number for part in shares for number in part.owners])
    if len(owners_M):
        by_image = owners_M.argsort(stable=True)
        text_MD = torch.cat([part.texts for part in shares if part.owners])
        metrics += retrieval(image_ND, text_MD[by_image], owners_M[by_image])
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
    progress = load_checkpoint(checkpoint, made.clip)
    return evaluate(made, config), progress


@dataclass(frozen=True, kw_only=True)
class _Share:
    """What one rank embedded: n of the pictures, m of the captions, all C classes; on the CPU."""

    numbers: list[int]
    """Of the pictures, in the set."""
    labels: list[int]
    """Their classes, -1 for none."""
    owners: list[int]
    """The picture of each caption, by its number."""
    images: Tensor
    """Unit features [n, D]."""
    texts: Tensor
    """Unit features [m, D]."""
    classes: Tensor
    """Unit features [C, D], the same on every rank."""


def _embed_share(data: EvaluationSet, model: Model, config: EvaluationConfig, world: World) -> _Share:
    """This rank's share of `data`. Raises EvaluationError."""
    numbers: list[int] = []
    labels: list[int] = []
    captions: list[str] = []
    owners: list[int] = []
    parts = [torch.zeros(0)]
    blank = np.zeros((model.image_size, model.image_size, 3), np.uint8)
    mine = islice(enumerate(data.examples()), world.rank, None, world.size)
    with model.evaluating(), ThreadPoolExecutor(4) as pool:
        for batch in _in_step(mine, config.batch_size, model, world):
            try:
                pixels = list(pool.map(lambda item: prepare(item[1].image, model.image_size), batch))
            except EvaluationError as error:
                raise EvaluationError(f"{data.root}: {error}; make the set again") from error
            images_BHWC = torch.from_numpy(np.stack(pixels or [blank])).to(model.device)
            parts.append(model.encode_image(images_BHWC)[: len(batch)].cpu())
            for number, example in batch:
                numbers.append(number)
                labels.append(-1 if example.label is None else example.label)
                captions.extend(example.captions)
                owners.extend([number] * len(example.captions))
        return _Share(
            numbers=numbers,
            labels=labels,
            owners=owners,
            images=torch.cat(parts),
            texts=_embed_texts(model, captions, config.batch_size, world).cpu(),
            classes=class_embeddings(model, data.classes, data.templates, batch_size=config.batch_size).cpu(),
        )


def _embed_texts(model: Model, texts: list[str], batch_size: int, world: World) -> Tensor:
    parts = [torch.zeros(0, device=model.device)]
    with model.evaluating():
        for batch in _in_step(iter(texts), batch_size, model, world):
            tokens_BL = model.tokenizer(batch or [""])
            tokens_BL = trim(tokens_BL) if model.can_trim else tokens_BL
            parts.append(model.encode_text(tokens_BL.to(model.device))[: len(batch)])
    return torch.cat(parts)


def _in_step(things: Iterator[T], size: int, model: Model, world: World) -> Iterator[list[T]]:
    """Lists of up to `size` things; of a sharded model empty ones at the end, until every rank is through.

    A rank that has nothing left must still take part in the gathering of the weights.
    """
    while True:
        batch = list(islice(things, size))
        together = world.sum_(torch.tensor(len(batch), device=model.device)) if model.is_sharded else len(batch)
        if not together:
            return
        yield batch

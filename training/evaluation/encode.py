"""The features of a set's pictures, captions and classes, with the work shared among the ranks.

parts --each rank its own--> read, decode (threads, a batch ahead) --> image tower --\
captions of its own pictures ---------------------------------------> text tower ----> gathered, in the set's order
classes --each rank its share--> every template filled in -----------> text tower --/
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.batch import trim
from training.distributed import World
from training.errors import EvaluationError
from training.evaluation.sets.form import Example, Part
from training.learning.features import prepare
from training.learning.model import Model

__all__ = [
    "Encoded",
    "class_embeddings",
    "encode_parts",
    "in_step",
    "pictures_of",
    "share_of_parts",
    "template_embeddings",
]

T = TypeVar("T")

_THREADS = 4
"""That decode. Reading and the towers have their own."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Features on the CPU, the same on every rank: N pictures, M captions."""

    images: Tensor
    """Unit [N, D]."""
    labels: Tensor
    """int64[N], -1 for none."""
    texts: Tensor
    """Unit [M, D], in the order of the pictures."""
    owners: Tensor
    """int64[M]: the picture of each caption."""


@dataclass(frozen=True, kw_only=True)
class _Share:
    """What one rank encoded: n pictures, m captions."""

    places: list[tuple[int, int]]
    """Of the pictures: part, and number in it."""
    labels: list[int]
    owners: list[int]
    """The picture of each caption, by its number in this share."""
    images: Tensor
    texts: Tensor


def encode_parts(
    parts: Sequence[Part],
    model: Model,
    *,
    batch_size: int,
    world: World | None = None,
    flips: bool = False,
    advance: Callable[[int], None] = lambda _: None,
) -> Encoded:
    """Features of all examples, in the set's order. `advance` is told how many more pictures this rank is through.

    `flips`: of a picture and its mirror, the mean of their unit features, made unit. Raises EvaluationError, on every
    rank, for a picture that cannot be decoded, and where there is no example.
    """
    world = world or World(device=model.device)

    def encode() -> _Share:
        return _encode_share(parts, model, batch_size=batch_size, world=world, flips=flips, advance=advance)

    # The ranks of a sharded model wait for each other inside, and find an error of one by the time-out.
    shares: list[_Share] = world.gather_objects(encode() if model.is_sharded else world.together(encode))
    shares = [share for share in shares if share.places]
    if not shares:
        raise EvaluationError("the set holds no example")
    places = [place for share in shares for place in share.places]
    order = sorted(range(len(places)), key=lambda number: places[number])
    images_ND = torch.cat([share.images for share in shares])[order]
    labels_N = torch.tensor([label for share in shares for label in share.labels])[order]
    now_at = torch.empty(len(order), dtype=torch.int64)
    now_at[order] = torch.arange(len(order))
    owners, first = [], 0
    for share in shares:
        owners += [first + owner for owner in share.owners]
        first += len(share.places)
    owners_M = now_at[owners] if owners else torch.zeros(0, dtype=torch.int64)
    by_image = owners_M.argsort(stable=True)
    texts_MD = torch.cat([share.texts for share in shares if share.owners] or [images_ND[:0]])
    return Encoded(images=images_ND, labels=labels_N, texts=texts_MD[by_image], owners=owners_M[by_image])


def class_embeddings(
    model: Model, classes: Sequence[str], templates: Sequence[str], *, batch_size: int = 256, world: World | None = None
) -> Tensor:
    """Unit [C, D]: mean of each class's normalised template embeddings, normalised (CLIP, section 3.1.4)."""
    world = world or World(device=model.device)
    own_cTD = _prompts_of_share(model, classes, templates, batch_size, world)
    return F.normalize(torch.cat(world.gather_objects(own_cTD.mean(dim=1))), dim=-1)


def template_embeddings(
    model: Model, classes: Sequence[str], templates: Sequence[str], *, batch_size: int = 256, world: World | None = None
) -> Tensor:
    """Unit [C, T, D], on the CPU: every class in every template. ImageNet's 80,000 of width 512 take 164 MB."""
    world = world or World(device=model.device)
    return torch.cat(world.gather_objects(_prompts_of_share(model, classes, templates, batch_size, world)))


def _prompts_of_share(
    model: Model, classes: Sequence[str], templates: Sequence[str], batch_size: int, world: World
) -> Tensor:
    """Unit [c, T, D] of this rank's c classes, on the CPU."""
    first, last = world.share(len(classes))
    texts = [template.replace("{c}", name) for name in classes[first:last] for template in templates]
    text_TD = _encode_texts(model, texts, batch_size, world)
    return text_TD.reshape(last - first, len(templates), -1) if texts else text_TD.new_zeros(0, len(templates), 0)


def _encode_share(
    parts: Sequence[Part],
    model: Model,
    *,
    batch_size: int,
    world: World,
    flips: bool,
    advance: Callable[[int], None],
) -> _Share:
    places: list[tuple[int, int]] = []
    labels: list[int] = []
    captions: list[str] = []
    owners: list[int] = []
    found = [torch.zeros(0)]
    with model.evaluating():
        for batch, images_BHWC in pictures_of(parts, model, batch_size=batch_size, world=world):
            features_BD = model.encode_image(images_BHWC)
            if flips:
                features_BD = F.normalize(features_BD + model.encode_image(images_BHWC.flip(2)), dim=-1)
            found.append(features_BD[: len(batch)].cpu())
            for place, example in batch:
                owners += [len(places)] * len(example.captions)
                places.append(place)
                labels.append(-1 if example.label is None else example.label)
                captions += example.captions
            advance(len(batch))
        texts = _encode_texts(model, captions, batch_size, world)
    return _Share(places=places, labels=labels, owners=owners, images=torch.cat(found), texts=texts)


def pictures_of(
    parts: Sequence[Part], model: Model, *, batch_size: int, world: World
) -> Iterator[tuple[_Batch, Tensor]]:
    """This rank's examples, up to `batch_size` at a time, and their pictures, uint8[B, S, S, 3] on the model's device;
    of a sharded model also none at the end, as `in_step` has it, for which there is a blank one. Raises
    EvaluationError."""
    blank = np.zeros((model.image_size, model.image_size, 3), np.uint8)
    with ThreadPoolExecutor(_THREADS) as pool:
        batches = in_step(_examples_of(parts, world), batch_size, model, world)
        for batch, prepared in _ahead(batches, pool, model):
            pixels = [_whole(future.result(), example) for (_, example), future in zip(batch, prepared, strict=True)]
            yield batch, torch.from_numpy(np.stack(pixels or [blank])).to(model.device)


def _whole(pixels: npt.NDArray[np.uint8] | None, example: Example) -> npt.NDArray[np.uint8]:
    if pixels is None:
        raise EvaluationError(
            f"{example.name}: a picture that cannot be decoded; replace it, or take it out of the set"
        )
    return pixels


def share_of_parts(count: int, world: World) -> list[tuple[int, int, int]]:
    """Which of `count` parts a rank reads: (part, first example, step).

    Whole parts in turn, as long as every rank gets one; the parts that are left are each read by several ranks, of
    which each takes its share of the examples.
    """
    whole = count - count % world.size
    mine = [(part, 0, 1) for part in range(world.rank, whole, world.size)]
    left = count - whole
    if left:
        own = world.rank % left
        mine.append((whole + own, world.rank // left, -(-(world.size - own) // left)))
    return mine


def _examples_of(parts: Sequence[Part], world: World) -> Iterator[tuple[tuple[int, int], Example]]:
    """Those of this rank, each with its part and its number there."""
    for part, first, step in share_of_parts(len(parts), world):
        for number, example in islice(enumerate(parts[part].examples()), first, None, step):
            yield (part, number), example


_Batch = list[tuple[tuple[int, int], Example]]
_Prepared = list["Future[npt.NDArray[np.uint8] | None]"]


def _ahead(batches: Iterator[_Batch], pool: ThreadPoolExecutor, model: Model) -> Iterator[tuple[_Batch, _Prepared]]:
    """Each batch with its pictures, which are prepared while the one before it goes through the tower."""
    waiting: deque[tuple[_Batch, _Prepared]] = deque()
    for batch in batches:
        waiting.append((batch, [pool.submit(prepare, example.image, model) for _, example in batch]))
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def _encode_texts(model: Model, texts: Sequence[str], batch_size: int, world: World) -> Tensor:
    """Unit [m, D], on the CPU.

    Equal texts are encoded once, and short ones together, since a batch is as wide as its longest.
    """
    unique = sorted(dict.fromkeys(texts), key=len)
    parts = [torch.zeros(0)]
    with model.evaluating():
        for batch in in_step(iter(unique), batch_size, model, world):
            tokens_BL = model.tokenizer(batch or [""])
            tokens_BL = trim(tokens_BL) if model.can_trim else tokens_BL
            parts.append(model.encode_text(tokens_BL.to(model.device))[: len(batch)].cpu())
    row = {text: number for number, text in enumerate(unique)}
    return torch.cat(parts)[[row[text] for text in texts]]


def in_step(things: Iterator[T], size: int, model: Model, world: World) -> Iterator[list[T]]:
    """Lists of up to `size` things; of a sharded model empty ones at the end, until every rank is through.

    A rank that has nothing left must still take part in the gathering of the weights.
    """
    while True:
        batch = list(islice(things, size))
        together = world.sum_(torch.tensor(len(batch), device=model.device)) if model.is_sharded else len(batch)
        if not together:
            return
        yield batch

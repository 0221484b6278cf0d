"""One part of a data set as its teachers see it.

    rows --pictures decoded and augmented ahead in threads--> K crops of each size --each teacher--> bf16
         --own and synthetic captions ------------------------------------------------------------> bf16

Batches never reach over the end of a part, so its bytes follow from the part, the captions and the teachers alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor

from pipeline.records.identity import first_64_bits
from pipeline.storage.atomic import sha256_of
from pipeline.storage.place import Place
from pipeline.storage.written import written
from training.data.augmentations import augmentation_keys, augmented
from training.data.augmentations_config import StrongAugmentConfig
from training.data.decode import decode
from training.data.reinforcements import ReinforcementPart, part_file
from training.embedding.parts import Rows
from training.learning.features import image_features, text_features
from training.learning.model import Model

__all__ = ["PartSource", "TaughtPart", "taught_part", "write_part"]

_PICTURES = 8
"""That a thread decodes and augments at a time."""

_Views = dict[int, npt.NDArray[np.uint8]]
"""uint8[K, S, S, 3] of one picture, by the size S."""
_Coming = Future[list[_Views | None]]
"""The views of some rows; None where there is no whole picture."""


@dataclass(frozen=True, kw_only=True)
class PartSource:
    """What one part is made of."""

    name: str
    rows: Rows
    captions: Sequence[Sequence[str]]
    """Synthetic ones of each row; none where there is no picture."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TaughtPart:
    """The tensors of a part, and what was found on the way."""

    tensors: dict[str, Tensor]
    broken: int


def taught_part(
    source: PartSource,
    teachers: Sequence[Model],
    *,
    seed: int,
    augmentations: int,
    augment: StrongAugmentConfig,
    batch_size: int,
    workers: ThreadPoolExecutor,
    ahead: int,
) -> Iterator[TaughtPart | float]:
    """The share of the part that is done, from 0 to 1, again and again; in the end the part.

    `ahead`: groups of pictures that are prepared at a time. Raises DataError, and PipelineError for what is not what
    was written.
    """
    rows = source.rows
    uids = b"".join(rows.uids)
    wanted = np.flatnonzero(rows.has_picture).tolist()
    is_whole = np.zeros(len(rows.uids), np.uint8)
    sizes = sorted({teacher.image_size for teacher in teachers})
    image: list[Tensor] = []
    groups = _ahead(
        wanted,
        lambda few: workers.submit(
            _views, rows, few, first_64_bits(uids), sizes, seed=seed, augmentations=augmentations, augment=augment
        ),
        ahead,
    )
    waiting: list[_Views] = []
    a_batch = max(1, batch_size // augmentations)
    """Pictures whose augmentations go through the teachers at a time."""
    done = 0
    for few, views in groups:
        for row, view in zip(few, views.result(), strict=True):
            if view is not None:
                is_whole[row] = 1
                waiting.append(view)
            if len(waiting) == a_batch:
                image.append(_seen(waiting, teachers, batch_size))
                waiting = []
        done += len(few)
        yield done / len(wanted)
    if waiting:
        image.append(_seen(waiting, teachers, batch_size))
    width = sum(_width(teacher) for teacher in teachers)
    images_nKE = torch.zeros(len(rows.uids), augmentations, width, dtype=torch.bfloat16)
    if image:
        images_nKE[torch.from_numpy(is_whole) == 1] = torch.cat(image)
    texts_nE = torch.zeros(len(rows.uids), width, dtype=torch.bfloat16)
    with_text = [row for row, text in enumerate(rows.texts) if text]
    if with_text:
        texts_nE[with_text] = _read([str(rows.texts[row]) for row in with_text], teachers, batch_size)
    captions = [text for texts in source.captions for text in texts]
    encoded = [text.encode("utf-8", "replace") for text in captions]
    synthetic = _read(captions, teachers, batch_size) if captions else torch.zeros(0, width, dtype=torch.bfloat16)
    tensors = {
        "uid": torch.frombuffer(bytearray(uids), dtype=torch.uint8).reshape(-1, 16),
        "is_whole": torch.from_numpy(is_whole),
        "image": images_nKE,
        "text": texts_nE,
        "first": torch.tensor(np.cumsum([0, *map(len, source.captions)]), dtype=torch.int64),
        "synthetic": synthetic,
        "caption_ends": torch.tensor(np.cumsum([len(text) for text in encoded]), dtype=torch.int64),
        "captions": torch.frombuffer(bytearray(b"".join(encoded)) or bytearray(1), dtype=torch.uint8)[
            : sum(map(len, encoded))
        ],
    }
    yield TaughtPart(tensors=tensors, broken=len(wanted) - int(is_whole.sum()))


def write_part(place: Place, name: str, found: TaughtPart, *, key: str) -> ReinforcementPart:
    """Write one part into the reinforcements at `place`, whole or not at all. Raises OutputError."""
    with written(part_file(place, name)) as path:
        # Its own way to write a file lets nobody else read it.
        path.write_bytes(save({name: tensor.contiguous() for name, tensor in found.tensors.items()}))
        sha256, num_bytes = sha256_of(path), path.stat().st_size
    return ReinforcementPart(
        name=name,
        rows=len(found.tensors["uid"]),
        key=key,
        sha256=sha256,
        num_bytes=num_bytes,
        whole=int(found.tensors["is_whole"].sum()),
        broken=found.broken,
        captions=len(found.tensors["synthetic"]),
    )


def _ahead(
    wanted: Sequence[int], submit: Callable[[Sequence[int]], _Coming], ahead: int
) -> Iterator[tuple[Sequence[int], _Coming]]:
    """Groups of rows with their views, in order, of which some are on their way."""
    waiting: deque[tuple[Sequence[int], _Coming]] = deque()
    for first in range(0, len(wanted), _PICTURES):
        few = wanted[first : first + _PICTURES]
        waiting.append((few, submit(few)))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def _views(
    rows: Rows,
    which: Sequence[int],
    uids: npt.NDArray[np.uint64],
    sizes: Sequence[int],
    *,
    seed: int,
    augmentations: int,
    augment: StrongAugmentConfig,
) -> list[_Views | None]:
    """Of each of some rows uint8[K, S, S, 3] by size S; None where there is no whole picture."""
    found: list[_Views | None] = []
    numbers = np.arange(augmentations)
    for row, data in zip(which, rows.pictures(which), strict=True):
        picture = None if data is None else decode(data)
        if picture is None:
            found.append(None)
            continue
        keys = augmentation_keys(np.full(augmentations, uids[row]), numbers, seed=seed)
        views = {size: np.empty((augmentations, size, size, 3), np.uint8) for size in sizes}
        for size, out in views.items():
            for number, key in enumerate(keys):
                augmented(picture, key, size=size, config=augment, out=out[number])
        found.append(views)
    return found


def _seen(views: Sequence[_Views], teachers: Sequence[Model], batch_size: int) -> Tensor:
    """bfloat16[B, K, E] of the augmentations of B pictures."""
    parts = []
    for teacher in teachers:
        pixels = np.stack([view[teacher.image_size] for view in views])
        flat = pixels.reshape(-1, *pixels.shape[2:])
        features = [image_features(teacher, flat[at : at + batch_size]) for at in range(0, len(flat), batch_size)]
        parts.append(torch.cat(features).reshape(*pixels.shape[:2], -1).bfloat16().cpu())
    return torch.cat(parts, dim=2)


def _read(texts: Sequence[str], teachers: Sequence[Model], batch_size: int) -> Tensor:
    """bfloat16[T, E]."""
    return torch.cat(
        [text_features(teacher, texts, batch_size=batch_size).bfloat16().cpu() for teacher in teachers], dim=1
    )


def _width(teacher: Model) -> int:
    return text_features(teacher, ["a"]).shape[1]

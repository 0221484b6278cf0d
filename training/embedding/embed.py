"""Features of whatever can be embedded, part by part.

    source --cut--> parts --those that are not there yet, by turns--> ranks
    part --rows, pictures decoded ahead in threads--> model --> PART.parquet, done/PART.json
    all parts --> features.json

The bytes of a part follow from the model, the options and the source, whichever process makes it and whatever came
before: batches never reach over the end of a part.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from configs.load import fingerprint
from pipeline.storage.place import Place, place_of
from pipeline.terminal.printable import say
from training.distributed import World, distributed
from training.embedding.config import EmbedConfig
from training.embedding.feature_files import (
    FeatureFacts,
    FeaturePart,
    FeatureSet,
    feature_column,
    feature_schema,
    write_part,
)
from training.embedding.kept_parts import FEATURES, finish, kept_parts, note_part
from training.embedding.parts import Rows, SourcePart
from training.embedding.progress import EmbedProgress, console_of
from training.embedding.sources import Source, find_source
from training.embedding.trainers_errors import trainers_errors
from training.learning.features import image_features, prepare, text_features
from training.learning.model import Model
from training.learning.pretrained import fingerprint_of, load_model

__all__ = ["embed"]

_VERSION = 1
"""Of what is done to pictures and texts: another one makes all features anew."""
_CHUNK = 16
"""Pictures that a thread reads and decodes at a time: in a bucket neighbours are one request."""
_PARTS_AHEAD = 2
"""Whose rows are read, and that wait to be written."""
_TIMEOUT_S = 86_400.0
"""Ranks meet at the end alone, where one may have hours more to do than another."""


def embed(config: EmbedConfig, *, quiet: bool = False) -> FeatureSet:
    """Make the features that `config` asks for, or those of them that are not there. On every rank the same.

    Raises TrainingError, PipelineError; what was made until then is used when it is called again.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with distributed(device=config.device, timeout_s=_TIMEOUT_S) as world:
        source = world.on_first(lambda: _source(config))
        model = world.together(lambda: _model(config))
        whose = fingerprint_of(model)
        place = _place(config, source, whose)
        keys = {part.name: _key(part, config, model, whose) for part in source.parts}
        kept = world.on_first(lambda: _kept(place, keys, whose))
        missing = [part for part in source.parts if part.name not in kept]
        if world.is_first and not quiet:
            say(_begins(place, source, kept), to=sys.stderr)
        made = world.together(
            lambda: _made(config, model, place, missing[world.rank :: world.size], keys, world, quiet)
        )
        by_name = kept | {part.name: part for parts in world.gather_objects(made) for part in parts}
        about = _facts(config, model, whose, source, [by_name[part.name] for part in source.parts])
        world.on_first(lambda: _finished(place, about))
    return FeatureSet(place=place, about=about)


def _model(config: EmbedConfig) -> Model:
    return load_model(config.model, device=config.device, precision=config.precision, tokenizer=config.tokenizer)


def _source(config: EmbedConfig) -> Source:
    return find_source(config.data, **_columns(config))


def _columns(config: EmbedConfig) -> dict[str, str | None]:
    return {name: getattr(config, name) for name in ("image_column", "text_column", "uid_column")}


def _place(config: EmbedConfig, source: Source, whose: str) -> Place:
    return source.beside / (config.name or whose[:12]) if config.to is None else place_of(config.to)


def _key(part: SourcePart, config: EmbedConfig, model: Model, whose: str) -> str:
    return fingerprint(_VERSION, part.content, whose, model.precision, config.what, config.batch_size)


def _kept(place: Place, keys: dict[str, str], whose: str) -> dict[str, FeaturePart]:
    with trainers_errors():
        return kept_parts(place, keys, model_fingerprint=whose, kind=FEATURES)


def _begins(place: Place, source: Source, kept: dict[str, FeaturePart]) -> str:
    total = len(source.parts)
    told = f"; {len(kept):,} are there" if kept else ""
    told += f"; {source.passed_over:,} other files are passed over" if source.passed_over else ""
    return f"{place}: features of {total:,} {'part' if total == 1 else 'parts'} ({source.kind}){told}"


def _finished(place: Place, about: FeatureFacts) -> None:
    with trainers_errors():
        finish(place, about)


def _facts(config: EmbedConfig, model: Model, whose: str, source: Source, parts: Sequence[FeaturePart]) -> FeatureFacts:
    clip: Any = model.clip
    bias = getattr(clip, "logit_bias", None)
    return FeatureFacts(
        model=config.model,
        model_fingerprint=whose,
        model_name=model.name,
        width=_width(model),
        logit_scale=float(clip.logit_scale.detach().exp()),
        logit_bias=None if bias is None else float(bias.detach()),
        image_size=model.image_size,
        precision=model.precision,
        what=config.what,
        source=config.data,
        kind=source.kind,
        rows=sum(part.rows for part in parts),
        parts=tuple(parts),
        columns={name: value for name, value in _columns(config).items() if value is not None},
    )


def _width(model: Model) -> int:
    return text_features(model, ["a"]).shape[1]


# --- the parts of this process --------------------------------------------------------------------


def _made(
    config: EmbedConfig,
    model: Model,
    place: Place,
    parts: Sequence[SourcePart],
    keys: dict[str, str],
    world: World,
    quiet: bool,
) -> list[FeaturePart]:
    """Make `parts`, one after the other. Raises TrainingError."""
    if not parts:
        return []
    width = _width(model)
    made: list[FeaturePart] = []
    writes: deque[Future[FeaturePart]] = deque()

    def write(features: _PartFeatures) -> FeaturePart:
        name = features.part.name
        counted = {"broken": features.broken, "left_out": features.rows.left_out}
        part = write_part(place, name, features.table(width), key=keys[name], **counted)
        note_part(place, part)
        return part

    workers = ThreadPoolExecutor(_threads(config), thread_name_prefix="decode")
    writer = ThreadPoolExecutor(1, thread_name_prefix="write")
    progress = EmbedProgress(
        parts=len(parts), of_ranks=world.size, console=console_of(shown=world.is_first and not quiet)
    )
    try:
        with trainers_errors(), progress:
            for part, chunks in groupby(_decoded(config, model, parts, workers), key=lambda chunk: chunk.part):
                writes.append(writer.submit(write, _features_of(config, model, part, chunks, progress)))
                progress.end_part()
                while len(writes) > _PARTS_AHEAD:
                    made.append(writes.popleft().result())
            made += [write.result() for write in writes]
    finally:
        workers.shutdown(cancel_futures=True)
        writer.shutdown()  # what is made already is worth the moment
    return made


@dataclass(frozen=True, kw_only=True, eq=False)
class _Chunk:
    """Some rows of a part, whose pictures are being read."""

    part: SourcePart
    rows: Rows
    which: Sequence[int] = ()
    pictures: Future[list[npt.NDArray[np.uint8] | None]] | None = None


def _decoded(
    config: EmbedConfig, model: Model, parts: Sequence[SourcePart], workers: ThreadPoolExecutor
) -> Iterator[_Chunk]:
    """The chunks of all parts, in order, as many ahead as threads and the model have to do meanwhile."""
    most = 2 * _threads(config) + -(-2 * config.batch_size // _CHUNK)
    waiting: deque[_Chunk] = deque()
    for chunk in _chunks(config, model, parts, workers):
        waiting.append(chunk)
        if len(waiting) > most:
            yield waiting.popleft()
    yield from waiting


def _chunks(
    config: EmbedConfig, model: Model, parts: Sequence[SourcePart], workers: ThreadPoolExecutor
) -> Iterator[_Chunk]:
    for part, read in _rows_ahead(parts, workers):
        rows = read.result()
        yield _Chunk(part=part, rows=rows)  # of a part without pictures the only one
        wanted = np.flatnonzero(rows.has_picture).tolist() if config.what != "text" else []
        for first in range(0, len(wanted), _CHUNK):
            which = wanted[first : first + _CHUNK]
            yield _Chunk(part=part, rows=rows, which=which, pictures=workers.submit(_prepared, rows, which, model))


def _threads(config: EmbedConfig) -> int:
    return config.decode_threads or os.cpu_count() or 1


def _rows_ahead(parts: Sequence[SourcePart], workers: ThreadPoolExecutor) -> Iterator[tuple[SourcePart, Future[Rows]]]:
    waiting: deque[tuple[SourcePart, Future[Rows]]] = deque()
    for part in parts:
        waiting.append((part, workers.submit(part.rows)))
        if len(waiting) == _PARTS_AHEAD:
            yield waiting.popleft()
    yield from waiting


def _prepared(rows: Rows, which: Sequence[int], model: Model) -> list[npt.NDArray[np.uint8] | None]:
    return [None if data is None else prepare(data, model) for data in rows.pictures(which)]


@dataclass(eq=False)
class _PartFeatures:
    """What is known of a part's rows; the features wait on the model's device."""

    part: SourcePart
    rows: Rows
    has_image: npt.NDArray[np.bool_]
    has_text: npt.NDArray[np.bool_]
    broken: int = 0
    images: list[Tensor] = field(default_factory=list)
    texts: list[Tensor] = field(default_factory=list)

    def table(self, width: int) -> pa.Table:
        """Of `feature_schema`."""
        columns = [
            pa.array(self.rows.uids, pa.binary(16)),
            pa.array(self.rows.names, pa.string()),
            feature_column(_on_host(self.images, width), self.has_image),
            feature_column(_on_host(self.texts, width), self.has_text),
        ]
        return pa.Table.from_arrays(columns, schema=feature_schema(width))


def _on_host(features: Sequence[Tensor], width: int) -> npt.NDArray[np.floating[Any]]:
    if not features:
        return np.empty((0, width), np.float16)
    found: npt.NDArray[np.float16] = torch.cat(list(features)).cpu().numpy()
    return found


def _features_of(
    config: EmbedConfig, model: Model, part: SourcePart, chunks: Iterator[_Chunk], progress: EmbedProgress
) -> _PartFeatures:
    rows = next(chunks).rows
    count = len(rows.uids)
    found = _PartFeatures(part, rows, np.zeros(count, np.bool_), np.zeros(count, np.bool_))
    if config.what != "image":
        found.has_text[:] = [bool(text) for text in rows.texts]
        texts = [text for text in rows.texts if text]
        for first in range(0, len(texts), config.batch_size):
            few = texts[first : first + config.batch_size]
            found.texts.append(text_features(model, few, batch_size=config.batch_size).half())
    if config.what == "text" or not rows.has_picture.any():
        progress.advance(count, share=1.0)
    batch: list[npt.NDArray[np.uint8]] = []
    through, wanted = 0, max(1, int(rows.has_picture.sum()))
    for chunk in chunks:
        assert chunk.pictures is not None
        for row, pixels in zip(chunk.which, chunk.pictures.result(), strict=True):
            if pixels is None:
                found.broken += 1
                continue
            found.has_image[row] = True
            batch.append(pixels)
            if len(batch) == config.batch_size:
                found.images.append(image_features(model, np.stack(batch)).half())
                batch = []
        through += len(chunk.which)
        progress.advance(
            count * through // wanted - count * (through - len(chunk.which)) // wanted, share=through / wanted
        )
    if batch:
        found.images.append(image_features(model, np.stack(batch)).half())
    return found

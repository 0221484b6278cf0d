"""Captions of a data set's pictures, by a model, part by part (`made_parts.py`)."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import torch

from configs.load import fingerprint
from pipeline.records.schema import CAPTIONS
from pipeline.storage.place import Place, place_of
from training.captions.caption_files import CaptionFacts, CaptionPart, CaptionSet, write_facts, write_part
from training.captions.captioner import captioner_of, keys_of
from training.captions.config import CaptionConfig
from training.captions.load import load_with_heads
from training.captions.made_parts import Pictures, make_parts
from training.distributed import distributed
from training.embedding.kept_parts import remove_others
from training.embedding.parts import Rows, SourcePart
from training.embedding.sources import find_source
from training.embedding.trainers_errors import trainers_errors
from training.learning.model import Captioner
from training.learning.pretrained import fingerprint_of

__all__ = ["caption", "finish"]

_VERSION = 1
"""Of how captions are drawn: another one writes all anew."""
_TIMEOUT_S = 86_400.0
"""Ranks meet at the end alone, where one may have hours more to do than another."""
_OPTIONS = ("captions", "top_p", "temperature", "min_tokens", "max_tokens", "seed")


def caption(config: CaptionConfig, *, quiet: bool = False) -> CaptionSet:
    """Write the captions that `config` asks for, or those of them that are not there. On every rank the same.

    Raises TrainingError, PipelineError; what was written until then is used when it is called again.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with distributed(device=config.device, timeout_s=_TIMEOUT_S) as world:
        source = world.on_first(lambda: find_source(config.data))
        model = world.together(
            lambda: load_with_heads(
                config.model, device=config.device, precision=config.precision, tokenizer=config.tokenizer
            )
        )
        captioner = captioner_of(model, config)
        whose = fingerprint_of(model)
        if captioner.beside:
            whose = fingerprint(whose, captioner.beside)
        name = config.name or f"{model.name}-{whose[:12]}"
        place = _of_set(source.beside) / name if config.to is None else place_of(config.to)
        options = {option: getattr(config, option) for option in _OPTIONS}
        keys = {
            part.name: fingerprint(_VERSION, part.content, whose, model.precision, config.batch_size, options, name)
            for part in source.parts
        }

        def work(part: SourcePart, rows: Rows, pictures: Iterator[Pictures]) -> CaptionPart:
            table, broken = _written(captioner, rows, pictures, seed=config.seed)
            return write_part(place, part.name, table, key=keys[part.name], broken=broken, source=name, judge=None)

        parts = make_parts(
            source, place, keys, made_by=whose, world=world, model=model, batch_size=config.batch_size,
            threads=config.decode_threads, work=work, doing="captioning", quiet=quiet,
        )  # fmt: skip
        about = CaptionFacts(
            name=name,
            model=config.model,
            model_fingerprint=whose,
            captioner_fingerprint=whose,
            model_name=model.name,
            precision=model.precision,
            options=options,
            source=config.data,
            kind=source.kind,
            rows=sum(part.rows for part in parts),
            parts=tuple(parts),
        )
        world.on_first(lambda: finish(place, about))
    return CaptionSet(place=place, about=about)


def finish(place: Place, about: CaptionFacts) -> None:
    """Write the facts; parts that they do not name go. Raises TrainingError."""
    with trainers_errors():
        write_facts(place, about)
        remove_others(place, about.parts)


def _of_set(features: Place) -> Place:
    """Captions lie beside a set's features."""
    return features.parent / "captions"


def _written(captioner: Captioner, rows: Rows, pictures: Iterator[Pictures], *, seed: int) -> tuple[pa.Table, int]:
    """(CAPTIONS of a part, rows whose picture is not whole)."""
    found: list[list[str]] = [[] for _ in rows.uids]
    whole = 0
    for batch in pictures:
        keys = keys_of([rows.uids[row] for row in batch.which], seed=seed)
        for row, texts in zip(batch.which, captioner.captions(batch.images, keys), strict=True):
            found[row] = [text for text in dict.fromkeys(texts) if text]
        whole += len(batch.which)
    columns = [pa.array(rows.uids, pa.binary(16)), pa.array(found, pa.list_(pa.string()))]
    return pa.Table.from_arrays(columns, schema=CAPTIONS), int(rows.has_picture.sum()) - whole

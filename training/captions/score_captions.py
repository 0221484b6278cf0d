"""How well the texts of a data set and the captions written of its pictures fit these, by one judge.

DATA's pictures and texts, CAPTIONS by uid --judge (`judges.py`), part by part--> the same captions with scores
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import torch

from configs.load import fingerprint
from pipeline.records.schema import SCORED_CAPTIONS
from pipeline.storage.place import place_of
from training.captions.caption import finish
from training.captions.caption_files import CaptionPart, CaptionSet, Judge, open_captions, write_part
from training.captions.config import ScoreCaptionsConfig
from training.captions.judges import TextJudge, judge_of
from training.captions.load import load_with_heads
from training.captions.made_parts import Pictures, make_parts
from training.distributed import distributed
from training.embedding.parts import Rows, SourcePart
from training.embedding.sources import find_source
from training.errors import DataError
from training.learning.pretrained import fingerprint_of

__all__ = ["score_captions"]

_VERSION = 1
"""Of how texts are scored: another one scores all anew."""
_TIMEOUT_S = 86_400.0


def score_captions(config: ScoreCaptionsConfig, *, quiet: bool = False) -> CaptionSet:
    """Write the scored captions, or those of them that are not there. On every rank the same.

    Raises TrainingError, PipelineError; what was written until then is used when it is called again.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with distributed(device=config.device, timeout_s=_TIMEOUT_S) as world:
        captions = world.on_first(lambda: open_captions(config.captions))
        source = world.on_first(lambda: find_source(config.data or captions.about.source))
        model = world.together(
            lambda: load_with_heads(
                config.model, device=config.device, precision=config.precision, tokenizer=config.tokenizer
            )
        )
        texts_judge = judge_of(model, config.by, what=config.model)
        whose = fingerprint(_VERSION, fingerprint_of(model), texts_judge.by, model.precision)
        judge = Judge(model=config.model, fingerprint=whose, by=texts_judge.by)
        here = f"{config.captions.rstrip('/')}-by-{whose[:12]}"
        place = place_of(config.to or here)
        written = {part.name: part.sha256 for part in captions.about.parts}
        if unknown := [part.name for part in source.parts if part.name not in written]:
            raise DataError(
                f"{config.captions}: has no captions of part {unknown[0]} of {config.data or captions.about.source}; "
                "give the data set that they were written of, or run the same `python -m training caption` again"
            )
        keys = {
            part.name: fingerprint(part.content, written[part.name], whose, config.batch_size) for part in source.parts
        }
        name = captions.about.name

        def work(part: SourcePart, rows: Rows, pictures: Iterator[Pictures]) -> CaptionPart:
            table = captions.read(part.name)
            if table["uid"].to_pylist() != list(rows.uids):
                raise DataError(f"{config.captions}: part {part.name} is of other samples; {_ANOTHER}")
            scored, broken = _scored(texts_judge, table, rows, pictures)
            return write_part(place, part.name, scored, key=keys[part.name], broken=broken, source=name, judge=judge)

        parts = make_parts(
            source, place, keys, made_by=whose, world=world, model=model, batch_size=config.batch_size,
            threads=config.decode_threads, work=work, doing="scoring captions of", quiet=quiet,
        )  # fmt: skip
        rows = sum(part.rows for part in parts)
        about = replace(
            captions.about,
            model_fingerprint=whose,
            precision=model.precision,
            rows=rows,
            parts=tuple(parts),
            judge=judge,
        )
        world.on_first(lambda: finish(place, about))
    return CaptionSet(place=place, about=about)


_ANOTHER = "give the data set that the captions were written of"


def _scored(judge: TextJudge, captions: pa.Table, rows: Rows, pictures: Iterator[Pictures]) -> tuple[pa.Table, int]:
    """(SCORED_CAPTIONS of a part, rows whose picture is not whole)."""
    written: list[list[str]] = captions["captions"].to_pylist()
    own: list[float | None] = [None] * len(written)
    scores: list[list[float | None]] = [[None] * len(texts) for texts in written]
    whole = 0
    for batch in pictures:
        asked = [([text] if (text := rows.texts[row]) else []) + written[row] for row in batch.which]
        for row, found in zip(batch.which, judge.scores(batch.images, asked), strict=True):
            if rows.texts[row]:
                own[row], found = found[0], found[1:]
            scores[row] = list(found)
        whole += len(batch.which)
    columns = [
        captions["uid"],
        captions["captions"],
        pa.array(scores, pa.list_(pa.float32())),
        pa.array(own, pa.float32()),
    ]
    return pa.Table.from_arrays(columns, schema=SCORED_CAPTIONS), int(rows.has_picture.sum()) - whole

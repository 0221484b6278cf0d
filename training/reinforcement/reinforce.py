"""Reinforce a data set: what teachers say of its augmentations, captions and synthetic captions, part by part.

    source --cut--> parts --those that are not there yet, by turns--> ranks
    part, captions by uid --> teachers (teaching_parts.py) --> PART.safetensors, done/PART.json
    all parts --> reinforced.json

What it will take, in storage and time, is said before any of it is made. The bytes of a part follow from the teachers,
the options and the source, whichever process makes it and whatever came before.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.load import fingerprint
from pipeline.records.identity import first_64_bits
from pipeline.storage.place import Place, place_of
from pipeline.terminal.printable import say
from pipeline.terminal.step_line import clock_of
from training.data.caption_tables import CaptionTable
from training.data.reinforcements import ReinforcementFacts, ReinforcementPart, Reinforcements, Teacher
from training.distributed import World, distributed
from training.embedding.parts import Rows, SourcePart
from training.embedding.progress import EmbedProgress, console_of
from training.embedding.sources import Source, find_source
from training.embedding.trainers_errors import trainers_errors
from training.errors import DataError
from training.learning.features import text_features
from training.learning.model import Model
from training.learning.pretrained import fingerprint_of, load_model
from training.reinforcement.config import ReinforceConfig
from training.reinforcement.kept_parts import begin, finish, kept_parts, note_part
from training.reinforcement.teaching_parts import PartSource, TaughtPart, taught_part, write_part

__all__ = ["reinforce", "shown_bytes"]

_VERSION = 1
"""Of what is done to pictures and texts: another one makes all parts anew."""
_TRIED = 32
"""Pictures of the first part by which the time is reckoned."""
_TIMEOUT_S = 86_400.0
"""Ranks meet at the end alone, where one may have hours more to do than another."""


def reinforce(config: ReinforceConfig, *, quiet: bool = False) -> Reinforcements | None:
    """Make the reinforcements that `config` asks for, or those of them that are not there; None where it asks for the
    plan alone. On every rank the same.

    Raises TrainingError, PipelineError; what was made until then is used when it is called again.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with distributed(device=config.device, timeout_s=_TIMEOUT_S) as world:
        source = world.on_first(lambda: _source(config))
        teachers = world.together(lambda: _teachers(config))
        about = _facts(config, teachers)
        work = _Work(config=config, source=source, teachers=teachers, about=about)
        keys, counts = world.on_first(lambda: _looked(work))
        kept = world.on_first(lambda: _kept(work.place, keys, about))
        missing = [part for part in source.parts if part.name not in kept]
        if not quiet:
            for line in world.on_first(lambda: list(_plan(work, kept, counts, missing, world))):
                if world.is_first:
                    say(line, to=sys.stderr)
        if config.plan:
            return None
        if missing:
            world.on_first(lambda: _begun(work.place))
        made = world.together(lambda: _made(work, missing[world.rank :: world.size], keys, world, quiet))
        by_name = kept | {part.name: part for parts in world.gather_objects(made) for part in parts}
        parts = tuple(by_name[part.name] for part in source.parts)
        about = replace(about, parts=parts, rows=sum(part.rows for part in parts))
        world.on_first(lambda: _finished(work.place, about))
    return Reinforcements(place=work.place, about=about)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What is to be done."""

    config: ReinforceConfig
    source: Source
    teachers: tuple[Model, ...]
    about: ReinforcementFacts
    """Without its parts."""

    @cached_property
    def place(self) -> Place:
        """Where it goes."""
        if self.config.to is not None:
            return place_of(self.config.to)
        about = self.about
        whose = [teacher.fingerprint for teacher in about.teachers]
        name = self.config.name or fingerprint(whose, about.seed, about.augmentations, about.augment)[:12]
        return self.source.beside.parent / "reinforced" / name

    @cached_property
    def captions(self) -> CaptionTable | None:
        """The synthetic ones."""
        return None if self.config.captions is None else CaptionTable(self.config.captions)

    def part(self, part: SourcePart) -> PartSource:
        """What a part is made of."""
        rows = part.rows()
        return PartSource(name=part.name, rows=rows, captions=self._captions_of(part, rows))

    def key(self, part: PartSource, content: str) -> str:
        """Of a part that is made of this."""
        about, config = self.about, self.config
        whose = [teacher.fingerprint for teacher in about.teachers]
        return fingerprint(
            _VERSION, content, whose, about.seed, about.augmentations, about.augment, about.precision,
            config.batch_size, part.captions,
        )  # fmt: skip

    def _captions_of(self, part: SourcePart, rows: Rows) -> list[list[str]]:
        if self.captions is None:
            return [[] for _ in rows.uids]
        found = self.captions.of(part.name, first_64_bits(b"".join(rows.uids)))
        most = self.config.max_captions
        return [texts[:most] if there else [] for texts, there in zip(found, rows.has_picture, strict=True)]


def _source(config: ReinforceConfig) -> Source:
    source = find_source(config.data)
    if source.kind not in ("set", "tars"):
        raise DataError(f"{config.data}: a {source.kind}, and only shards are trained on; give a data set or tars")
    return source


def _teachers(config: ReinforceConfig) -> tuple[Model, ...]:
    return tuple(load_model(word, device=config.device, precision=config.precision) for word in config.teachers)


def _facts(config: ReinforceConfig, teachers: Sequence[Model]) -> ReinforcementFacts:
    return ReinforcementFacts(
        teachers=tuple(_about(word, teacher) for word, teacher in zip(config.teachers, teachers, strict=True)),
        seed=config.seed,
        augmentations=config.augmentations,
        augment=config.augment,
        max_captions=config.max_captions,
        precision=teachers[0].precision,
        source=config.data,
        captions_from=config.captions,
        rows=0,
        parts=(),
    )


def _about(word: str, teacher: Model) -> Teacher:
    clip: Any = teacher.clip
    return Teacher(
        model=word,
        fingerprint=fingerprint_of(teacher),
        model_name=teacher.name,
        width=text_features(teacher, ["a"]).shape[1],
        image_size=teacher.image_size,
        logit_scale=float(clip.logit_scale.detach().exp()),
    )


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """What a part will hold."""

    rows: int
    pictures: int
    captions: int


def _looked(work: _Work) -> tuple[dict[str, str], dict[str, _Counts]]:
    """(keys, counts) of all parts by name: the tables beside pictures are read, and the captions."""
    keys, counts = {}, {}
    with trainers_errors():
        for part in work.source.parts:
            found = work.part(part)
            keys[part.name] = work.key(found, part.content)
            counts[part.name] = _Counts(
                rows=len(found.rows.uids),
                pictures=int(found.rows.has_picture.sum()),
                captions=sum(map(len, found.captions)),
            )
    return keys, counts


def _kept(place: Place, keys: dict[str, str], about: ReinforcementFacts) -> dict[str, ReinforcementPart]:
    with trainers_errors():
        return kept_parts(place, keys, about)


def _begun(place: Place) -> None:
    with trainers_errors():
        begin(place)


def _finished(place: Place, about: ReinforcementFacts) -> None:
    with trainers_errors():
        finish(place, about)


# --- what it will take ----------------------------------------------------------------------------


def _plan(
    work: _Work,
    kept: dict[str, ReinforcementPart],
    counts: dict[str, _Counts],
    missing: Sequence[SourcePart],
    world: World,
) -> Iterator[str]:
    """The lines to print."""
    about, place = work.about, work.place
    width, most = sum(about.widths), about.augmentations
    rows, captions = (sum(getattr(count, what) for count in counts.values()) for what in ("rows", "captions"))
    yield f"{place}: {rows:,} samples, {most} augmentations and {captions:,} synthetic captions of them"
    for teacher in about.teachers:
        size, scale = teacher.image_size, teacher.logit_scale
        yield f"  teacher    {teacher.model}: {size} px, width {teacher.width}, scale {scale:.4g}"
    a_sample = 2 * width * (most + 1 + captions / max(1, rows))
    wanted = sum(2 * width * (c.rows * (most + 1) + c.captions) for n, c in counts.items() if n not in kept)
    free = f", {shown_bytes(shutil.disk_usage(_existing(place)).free)} are free" if isinstance(place, Path) else ""
    yield f"  storage    {shown_bytes(a_sample * rows)}, {a_sample:,.0f} bytes a sample{free}"
    if not missing:
        yield "  there is nothing to be done"
        return
    pictures = sum(counts[part.name].pictures for part in missing)
    there = f", {len(kept):,} of {len(counts):,} parts are there" if kept else ""
    seconds = pictures * _seconds_a_picture(work, missing, counts)
    yield f"  to be made {shown_bytes(wanted)}{there}"
    processes = "process" if world.size == 1 else "processes"
    yield f"  time       about {clock_of(seconds / world.size)} with {world.size} {processes}"


def shown_bytes(count: float) -> str:
    """For people, by powers of ten."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def _existing(place: Path) -> Path:
    return next(path for path in (place, *place.absolute().parents) if path.exists())


def _seconds_a_picture(work: _Work, missing: Sequence[SourcePart], counts: dict[str, _Counts]) -> float:
    """As a few pictures of the first part take."""
    with trainers_errors():
        part = next((part for part in missing if counts[part.name].pictures), None)
        if part is None:
            return 0.0
        found = work.part(part)
        few = np.flatnonzero(found.rows.has_picture)[:_TRIED]
        tried = PartSource(
            name=found.name, rows=_Some(found.rows, few.tolist()), captions=[found.captions[row] for row in few]
        )
        for _ in range(2):  # the first time everything is warmed up
            begun = time.monotonic()
            with ThreadPoolExecutor(_threads(work.config)) as workers:
                for _ in _taught(work, tried, workers):
                    pass
            passed = time.monotonic() - begun
        return passed / len(few)


class _Some:
    """A few rows of a part."""

    def __init__(self, rows: Rows, which: Sequence[int]) -> None:
        self._rows, self._which = rows, which
        self.uids = [rows.uids[row] for row in which]
        self.names = [rows.names[row] for row in which]
        self.texts = [rows.texts[row] for row in which]
        self.has_picture = rows.has_picture[list(which)]
        self.left_out = 0

    def pictures(self, rows: Sequence[int]) -> list[bytes | None]:
        """See `Rows`."""
        return self._rows.pictures([self._which[row] for row in rows])


# --- the parts of this process --------------------------------------------------------------------


def _threads(config: ReinforceConfig) -> int:
    return config.decode_threads or os.cpu_count() or 1


def _taught(work: _Work, part: PartSource, workers: ThreadPoolExecutor) -> Iterator[TaughtPart | float]:
    config = work.config
    return taught_part(
        part,
        work.teachers,
        seed=config.seed,
        augmentations=config.augmentations,
        augment=config.augment,
        batch_size=config.batch_size,
        workers=workers,
        ahead=2 * _threads(config),
    )


def _made(
    work: _Work, parts: Sequence[SourcePart], keys: dict[str, str], world: World, quiet: bool
) -> list[ReinforcementPart]:
    """Make `parts`, one after the other. Raises TrainingError."""
    made: list[ReinforcementPart] = []
    shown = console_of(shown=world.is_first and not quiet and bool(parts))
    progress = EmbedProgress(parts=len(parts), of_ranks=world.size, console=shown, doing="reinforcing")
    workers = ThreadPoolExecutor(_threads(work.config), thread_name_prefix="decode")
    try:
        with trainers_errors(), progress:
            for part in parts:
                source = work.part(part)
                rows, told = len(source.rows.uids), 0
                for found in _taught(work, source, workers):
                    if isinstance(found, TaughtPart):
                        written = write_part(work.place, part.name, found, key=keys[part.name])
                        note_part(work.place, written)
                        made.append(written)
                        found = 1.0
                    progress.advance(int(rows * found) - told, share=found)
                    told = int(rows * found)
                progress.end_part()
    finally:
        workers.shutdown(cancel_futures=True)
    return made

"""What is in a set, found by reading it once: nothing is missing, and a fingerprint of all that is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

from training.distributed import World
from training.errors import EvaluationError
from training.evaluation.sets.form import EvaluationSet, Part

__all__ = ["Survey", "survey"]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The size of a set, and what tells it from others."""

    fingerprint: str
    """32 hex digits (xxh3) over pictures, labels and captions in order, class names and templates. The form that a set
    is kept in plays no part: a converted set has the same."""
    examples: int
    labelled: int
    captions: int
    train: int
    """Labelled examples to learn a probe from; 0 where that was not looked at."""


def survey(data: EvaluationSet, *, train: bool, world: World | None = None) -> Survey:
    """Read `data`, its train part too where `train` says so; ranks share the parts.

    Raises EvaluationError, on every rank, for what is missing or damaged, where there is no example, and where none
    has a label or a caption.
    """
    world = world or World()
    tested = _all_of(data.parts, world)
    learnt = _all_of(data.train, world) if train else _Found()
    if not tested.examples:
        raise EvaluationError(f"{data.root}: holds no example; make the set again")
    if not tested.labelled and not tested.captions:
        raise EvaluationError(f"{data.root}: no picture has a label or a caption; there is nothing to measure")
    digest = xxhash.xxh3_128()
    for text in (*data.classes, "", *data.templates, "", *tested.digests, "", *learnt.digests):
        digest.update(f"{text}\n".encode())
    return Survey(
        fingerprint=digest.hexdigest(),
        examples=tested.examples,
        labelled=tested.labelled,
        captions=tested.captions,
        train=learnt.labelled,
    )


@dataclass(frozen=True, kw_only=True)
class _Found:
    digests: tuple[str, ...] = ()
    examples: int = 0
    labelled: int = 0
    captions: int = 0


def _all_of(parts: Sequence[Part], world: World) -> _Found:
    own = world.together(lambda: {n: _look(parts[n]) for n in range(world.rank, len(parts), world.size)})
    found = {number: part for each in world.gather_objects(own) for number, part in each.items()}
    ordered = [found[number] for number in sorted(found)]
    return _Found(
        digests=tuple(digest for part in ordered for digest in part.digests),
        examples=sum(part.examples for part in ordered),
        labelled=sum(part.labelled for part in ordered),
        captions=sum(part.captions for part in ordered),
    )


def _look(part: Part) -> _Found:
    digests, labelled, captions = [], 0, 0
    for example in part.examples():
        digest = xxhash.xxh3_128(example.image)
        digest.update("\n".join(["", str(example.label), *example.captions]).encode())
        digests.append(digest.hexdigest())
        labelled += example.label is not None
        captions += len(example.captions)
    return _Found(digests=tuple(digests), examples=len(digests), labelled=labelled, captions=captions)

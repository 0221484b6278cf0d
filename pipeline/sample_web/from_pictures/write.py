"""Write every file of a web of pictures.

read -> keep apart (held out, retrieval) -> plan -> pictures/ (two processes) , pages and all of them , words.txt ,
     classes.parquet , eval/ , retrieval/
"""

from __future__ import annotations

import io
import multiprocessing
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from pipeline.errors import InputError
from pipeline.sample_web.classes import write_classes
from pipeline.sample_web.dice import Dice
from pipeline.sample_web.encode import encode_drawn
from pipeline.sample_web.evaluation import write_set
from pipeline.sample_web.from_pictures.build import PicturesConfig
from pipeline.sample_web.from_pictures.captions import TEMPLATES, words_of
from pipeline.sample_web.from_pictures.draw import drawn, drawn_for_evaluation
from pipeline.sample_web.from_pictures.plan import View, plan_pictures
from pipeline.sample_web.from_pictures.read import Picture, read_pictures
from pipeline.sample_web.vocabulary import BACKGROUNDS
from pipeline.sample_web.write import write_pages

__all__ = ["write_pictures_web"]

_NUM_WORKERS = 2
_VIEWS_PER_TASK = 200
_INLINE_VIEWS = 2000
"""Fewer are drawn in this process: starting workers would take longer."""
_VIEWS_PER_CLASS = 4
"""Of an evaluated picture: on white, and on grounds of a colour."""
_RETRIEVAL_SHARE = 0.2
"""The most of the pictures with texts of their own that is kept apart."""
_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """Which pictures stand on pages, and which are kept for the evaluation."""

    on_pages: list[Picture]
    classified: list[Picture]
    """One a class, in label order."""
    retrieved: list[tuple[Picture, list[str]]]
    """With their captions."""


def write_pictures_web(directory: Path, config: PicturesConfig) -> None:
    """Write all files but the marker into an empty `directory`."""
    source = Path(config.directory).resolve()
    pictures = read_pictures(source)
    parts = _parted(pictures, config)
    classes = tuple(picture.title for picture in parts.classified)
    words = words_of(pictures)
    planned = plan_pictures(
        parts.on_pages, classes=classes, words=words, links=config.links, seed=config.seed, port=config.port
    )
    (directory / "pictures").mkdir()
    for name in sorted({view.key[:3] for view in planned.views}):
        (directory / "pictures" / name).mkdir()
    tasks = [planned.views[i : i + _VIEWS_PER_TASK] for i in range(0, len(planned.views), _VIEWS_PER_TASK)]
    if len(planned.views) <= _INLINE_VIEWS:
        for task in tasks:
            _draw_views(config.seed, task, source, directory)
    else:
        # Spawned, not forked: the caller may hold threads and locks.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(_NUM_WORKERS, mp_context=context) as pool:
            for future in [pool.submit(_draw_views, config.seed, task, source, directory) for task in tasks]:
                future.result()
    truth = write_pages(planned.plan, directory, concepts=frozenset())
    (directory / "words.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    if classes:
        write_classes(truth, classes, directory / "classes.parquet")
        write_set(directory / "eval", _classified(source, parts.classified), classes=classes, templates=TEMPLATES)
    if parts.retrieved:
        samples = [
            {"jpg": _saved(drawn_for_evaluation(source, picture.path)), "txt": "\n".join(texts).encode()}
            for picture, texts in parts.retrieved
        ]
        # Without labels: the classes are there because the form of the set asks for some.
        write_set(directory / "retrieval", samples, classes=classes or ("picture",), templates=TEMPLATES)


def _parted(pictures: Sequence[Picture], config: PicturesConfig) -> _Parts:
    """Raises InputError where the held-out set is not there, or shares no name with the others."""
    held_out = [picture for picture in pictures if picture.style == config.held_out]
    others = [picture for picture in pictures if picture.style != config.held_out]
    known = {picture.name for picture in others}
    classes = {picture.label: picture for picture in reversed(held_out) if picture.label and picture.name in known}
    if config.held_out is not None and not classes:
        raise InputError(
            f"{config.directory}: no picture of the set {config.held_out!r} has an English label and a name that "
            "another set has; give another --held_out, or null"
        )
    chosen = Dice(config.seed, "classes").shuffled(sorted(label for label in classes if label))[: config.classes]
    kept = {classes[label].name for label in chosen}
    left_out = {picture.name for picture in held_out} - kept if config.classes is not None else set()
    others = [picture for picture in others if picture.name not in left_out]
    nameless = _nameless(others)
    number = min(config.retrieval, int(_RETRIEVAL_SHARE * len(nameless)))
    retrieved = Dice(config.seed, "retrieval").shuffled(nameless)[:number]
    apart = {picture.path for picture, _ in retrieved}
    return _Parts(
        on_pages=[picture for picture in others if picture.path not in apart],
        classified=[classes[label] for label in sorted(chosen)],
        retrieved=retrieved,
    )


def _nameless(pictures: Sequence[Picture]) -> list[tuple[Picture, list[str]]]:
    """Pictures of no class, with the texts of several words that are theirs alone."""
    seen = Counter(text for picture in pictures for text in _told(picture))
    own = ((picture, [text for text in _told(picture) if seen[text] == 1]) for picture in pictures)
    return [(picture, texts) for picture, texts in own if texts and not picture.label]


def _classified(source: Path, pictures: Sequence[Picture]) -> list[dict[str, bytes]]:
    """Several views of each: on white, and on coloured grounds."""
    grounds = list(BACKGROUNDS.values())
    samples = []
    for label, picture in enumerate(pictures):
        coloured = [grounds[(label + i) % len(grounds)] for i in range(_VIEWS_PER_CLASS - 1)]
        images = [drawn_for_evaluation(source, picture.path)]
        images += [drawn_for_evaluation(source, picture.path, ground) for ground in coloured]
        samples += [{"jpg": _saved(image), "cls": str(label).encode()} for image in images]
    return samples


def _told(picture: Picture) -> list[str]:
    """Names and descriptions of several words."""
    return [text for text in dict.fromkeys((*picture.names, *picture.descriptions)) if len(_WORD.findall(text)) > 1]


def _draw_views(seed: int, views: Sequence[View], source: Path, directory: Path) -> None:
    for view in views:
        data = encode_drawn(seed, view.key, view.form, partial(drawn, seed, view.drawing, source, view.picture))
        (directory / "pictures" / view.key[:3] / view.key).write_bytes(data)


def _saved(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()

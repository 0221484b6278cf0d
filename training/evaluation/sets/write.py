"""Any set as tars in CLIP_benchmark's form, for programs that read no other.

set --parts, in order--> TO/test/{0..}.tar, TO/train/{0..}.tar, class names, templates, dataset_type.txt
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipeline.pictures.identify import identify
from pipeline.storage.atomic import temporary_name
from training.data.decode import decode
from training.errors import EvaluationError, OutputError
from training.evaluation.sets.form import EvaluationSet, Example, Part
from training.evaluation.sets.prompts import CLASSES_FILE, TEMPLATES_FILE
from training.evaluation.sets.tars import COUNT_FILE

__all__ = ["Written", "write_tars"]

_AS_THEY_ARE = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
"""What CLIP_benchmark reads; other pictures become PNGs of the same pixels."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written."""

    examples: int
    train: int
    recoded: int
    """Pictures in a format that had to be exchanged for PNG."""


def write_tars(data: EvaluationSet, to: Path, *, examples_per_tar: int) -> Written:
    """Write `data` to the directory `to`, which appears whole or not at all; the same set gives the same bytes.

    Pictures keep their bytes. Raises OutputError where `to` is there already, EvaluationError for what is damaged.
    """
    if to.exists():
        raise OutputError(f"{to}: is there already; remove it, or give another directory")
    to.parent.mkdir(parents=True, exist_ok=True)
    made = temporary_name(to)
    try:
        made.mkdir()
        tested = _write_part(data.parts, made / "test", examples_per_tar)
        learnt = _write_part(data.train, made / "train", examples_per_tar) if data.train else _Counts()
        if not tested.examples:
            raise EvaluationError(f"{data.root}: holds no example; there is nothing to write")
        if data.classes:
            _write_lines(made / CLASSES_FILE, data.classes)
            _write_lines(made / TEMPLATES_FILE, data.templates)
        else:
            _write_lines(made / "dataset_type.txt", ["retrieval"])
        made.rename(to)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return Written(examples=tested.examples, train=learnt.examples, recoded=tested.recoded + learnt.recoded)


@dataclass
class _Counts:
    examples: int = 0
    recoded: int = 0


def _write_part(parts: Sequence[Part], directory: Path, examples_per_tar: int) -> _Counts:
    directory.mkdir()
    counts, tars = _Counts(), 0
    examples = (example for part in parts for example in part.examples())
    for chunk in _chunks(examples, examples_per_tar):
        with tarfile.open(directory / f"{tars}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for example in chunk:
                suffix, image = _readable(example)
                counts.recoded += image is not example.image
                key = f"{counts.examples:09d}"
                _add(tar, f"{key}.{suffix}", image)
                if example.label is not None:
                    _add(tar, f"{key}.cls", str(example.label).encode())
                if example.captions:
                    lines = (" ".join(caption.splitlines()) for caption in example.captions)
                    _add(tar, f"{key}.txt", "\n".join(lines).encode())
                counts.examples += 1
        tars += 1
    _write_lines(directory / COUNT_FILE, [str(tars)])
    return counts


def _chunks(examples: Iterator[Example], size: int) -> Iterator[Iterator[Example]]:
    """The examples, so many at a time, none of them held."""
    for first in examples:

        def chunk(first: Example = first) -> Iterator[Example]:
            yield first
            for _, example in zip(range(size - 1), examples, strict=False):
                yield example

        yield chunk()


def _readable(example: Example) -> tuple[str, bytes]:
    """The picture's suffix, and its bytes or those of a PNG. Raises EvaluationError."""
    suffix = _AS_THEY_ARE.get(identify(example.image).format or "")
    if suffix is not None:
        return suffix, example.image
    pixels = decode(example.image)
    if pixels is None:
        raise EvaluationError(f"{example.name}: cannot be decoded; replace the picture, or take it out of the set")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "png", buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(data)
    tar.addfile(about, io.BytesIO(data))


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

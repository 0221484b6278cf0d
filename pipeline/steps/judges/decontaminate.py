"""decontaminate: which pairs go because evaluation sets hold their picture or caption.

image folders, tars, lists --evaluation (one task per source)--> EVALUATION, which the stage goes by
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import xxhash

from pipeline.engine import Data, Info, Task, output
from pipeline.errors import InputError
from pipeline.stages.check_image.config import ImageConfig, Picture
from pipeline.stages.check_image.isolate import IsolatedChecker
from pipeline.stages.decontaminate import EVALUATION, Decontaminate, normal_form, prompts
from pipeline.stages.decontaminate_config import DecontaminateConfig
from pipeline.stages.extract.files import open_binary
from pipeline.stages.stage import Stage
from pipeline.steps.judges.judge_pairs import PairStage
from pipeline.steps.sources import Stamp, named_files, stamp_of
from pipeline.steps.step import Page, Run, StageToBe, step
from pipeline.storage.lines import read_lines
from pipeline.storage.location import Location
from pipeline.storage.parquet import write_parquet

__all__ = [
    "EvaluationSet",
    "ReadCaptions",
    "ReadFolder",
    "ReadHashes",
    "ReadPrompts",
    "ReadSource",
    "ReadTar",
    "decontaminate",
    "read_evaluation",
]

_NO_PICTURE = (".txt", ".json", ".cls", ".tsv", ".csv", ".md", ".parquet", ".yaml", ".npy")
_MAX_BODY = 256 * 2**20
_Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """What a folder, a tar or a list holds."""

    evaluation: Location = output("evaluation.parquet", EVALUATION)


# --- reading a source -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ReadSource(Task[EvaluationSet]):
    """Read one source. Its key holds the stamps of the files, not their content."""

    stamps: tuple[Stamp, ...]

    version = 2

    def work(self, out: EvaluationSet) -> Info:
        table = pa.Table.from_pylist(list(self.rows()), schema=EVALUATION)
        return {"rows": write_parquet(out.evaluation.local, table, EVALUATION)}

    @abstractmethod
    def rows(self) -> _Rows:
        """Rows of EVALUATION; what is absent is null."""


@dataclass(frozen=True, kw_only=True)
class ReadHashes(ReadSource):
    """A list of hashes, one a line."""

    path: str

    def rows(self) -> _Rows:
        for number, line in enumerate(_lines(self.path), 1):
            word = line.lower()
            if re.fullmatch(r"[0-9a-f]{64}", word):
                yield {"name": word, "sha256": word}
            elif re.fullmatch(r"[0-9a-f]{16}", word):
                yield {"name": word, "phash": int(word, 16)}
            else:
                told = f"{self.path}, line {number}: {line[:40]!r} is neither 64 nor 16 hex digits"
                raise InputError(f"{told}; correct the list")


@dataclass(frozen=True, kw_only=True)
class ReadCaptions(ReadSource):
    """A list of captions, one a line."""

    path: str

    def rows(self) -> _Rows:
        return _captions(_lines(self.path))


@dataclass(frozen=True, kw_only=True)
class ReadPrompts(ReadSource):
    """Lists of class names and of templates, each with each."""

    class_names: tuple[str, ...]
    templates: tuple[str, ...]

    def rows(self) -> _Rows:
        names = [line for path in self.class_names for line in _lines(path)]
        return _captions(prompts(names, [line for path in self.templates for line in _lines(path)]))


@dataclass(frozen=True, kw_only=True)
class ReadFolder(ReadSource):
    """The pictures of a folder."""

    path: str
    image: ImageConfig

    def rows(self) -> _Rows:
        with IsolatedChecker(self.image) as checker:
            for path in _pictures(self.path):
                if os.path.getsize(path) <= _MAX_BODY:
                    yield _hashes_of(os.path.relpath(path, self.path), Path(path).read_bytes(), checker)


@dataclass(frozen=True, kw_only=True)
class ReadTar(ReadSource):
    """The pictures of a tar, and the captions beside them if they count."""

    path: str
    image: ImageConfig
    captions: bool

    def rows(self) -> _Rows:
        with IsolatedChecker(self.image) as checker:
            for name, body in self._members():
                suffix = os.path.splitext(name)[1].lower()
                if suffix == ".txt" and self.captions:
                    yield from _captions(body.decode("utf-8", "replace").splitlines())
                if suffix not in _NO_PICTURE:
                    yield _hashes_of(name, body, checker)

    def _members(self) -> Iterator[tuple[str, bytes]]:
        try:
            with open_binary(self.path) as file, tarfile.open(fileobj=file) as tar:
                for member in tar:
                    body = tar.extractfile(member) if member.isfile() and member.size <= _MAX_BODY else None
                    if body is not None:
                        yield member.name, body.read()
        except tarfile.TarError as error:
            raise InputError(f"{self.path}: not a whole tar ({error}); correct `decontaminate.images`") from error


def _hashes_of(name: str, body: bytes, checker: IsolatedChecker) -> dict[str, Any]:
    """A file that does not decode still has its SHA-256."""
    (checked,) = checker.check([body])
    phash = checked.phash if isinstance(checked, Picture) else None
    return {"name": name, "sha256": hashlib.sha256(body).hexdigest(), "phash": phash}


def _lines(path: str) -> list[str]:
    return [line.strip() for line in read_lines(path) if line.strip()]


def _captions(lines: Sequence[str]) -> _Rows:
    for line in lines:
        form = normal_form(line)
        if form:  # a caption of signs alone would equal every other such
            yield {"name": line[:200], "caption": form}


# --- evaluation: every source that the config names -----------------------------------------------


@step(
    "evaluation",
    ReadSource,  # type: ignore[type-abstract]  # each task is one of its kinds
    title="read evaluation sets",
    per="tar, folder, list",
)
def read_evaluation(run: Run, config: DecontaminateConfig, image: ImageConfig) -> Iterator[ReadSource]:
    """One task per tar, folder and list.

    Pictures are hashed as the run's own are (`image`), but whatever their size.
    """
    named = _Named.by(config)
    image = replace(image, min_side=1, max_aspect_ratio=0.0)
    for path in named.tars:
        yield ReadTar(
            partition=_partition("tar", path),
            path=path,
            stamps=(stamp_of(path),),
            image=image,
            captions=config.tar_captions,
        )
    for path in named.folders:
        stamps = tuple([picture, *stamp_of(picture)] for picture in _pictures(path))
        yield ReadFolder(partition=_partition("folder", path), path=path, stamps=stamps, image=image)
    for path in named.hashes:
        yield ReadHashes(partition=_partition("hashes", path), path=path, stamps=(stamp_of(path),))
    for path in named.captions:
        yield ReadCaptions(partition=_partition("captions", path), path=path, stamps=(stamp_of(path),))
    if named.class_names:
        yield ReadPrompts(
            partition=_partition("prompts", "prompts"),
            stamps=tuple(stamp_of(path) for path in (*named.class_names, *named.templates)),
            class_names=named.class_names,
            templates=named.templates,
        )


@read_evaluation.checked_by
def _check(run: Run, config: DecontaminateConfig, image: ImageConfig) -> None:
    """Raises InputError for a source that is not there, or is not what it should be; no folder is read to its end."""
    for path in named_files(config.images, "decontaminate.images"):
        if os.path.isdir(path):
            files = (p for p in Path(path).rglob("*") if p.is_file())
            if not any(p.suffix.lower() == ".tar" or _is_picture(p) for p in files):
                raise InputError(f"{path}: neither pictures nor tars in this folder; correct `decontaminate.images`")
        elif not path.endswith(".tar"):
            raise InputError(f"{path}: neither a folder nor a .tar; correct `decontaminate.images` in the config")
    for name in ("hashes", "captions", "class_names", "templates"):
        named_files(getattr(config, name), f"decontaminate.{name}")


def _partition(kind: str, path: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", os.path.basename(path))[:60].strip("-")
    return f"{stem}-{xxhash.xxh3_64_hexdigest(f'{kind} {path}'.encode())[:8]}"


@dataclass(frozen=True, kw_only=True)
class _Named:
    """The files and folders that a config names, each list sorted."""

    tars: tuple[str, ...]
    folders: tuple[str, ...]
    hashes: tuple[str, ...]
    captions: tuple[str, ...]
    class_names: tuple[str, ...]
    templates: tuple[str, ...]

    @classmethod
    def by(cls, config: DecontaminateConfig) -> _Named:
        """Look for them. Raises InputError."""
        images = named_files(config.images, "decontaminate.images")
        return cls(
            tars=_tars(images),
            folders=_folders(images),
            hashes=tuple(named_files(config.hashes, "decontaminate.hashes")),
            captions=tuple(named_files(config.captions, "decontaminate.captions")),
            class_names=tuple(named_files(config.class_names, "decontaminate.class_names")),
            templates=tuple(named_files(config.templates, "decontaminate.templates")),
        )


def _tars(images: Sequence[str]) -> tuple[str, ...]:
    found: set[str] = set()
    for path in images:
        found.update(map(str, Path(path).rglob("*.tar")) if os.path.isdir(path) else [path])
    return tuple(sorted(found))


def _folders(images: Sequence[str]) -> tuple[str, ...]:
    return tuple(path for path in images if os.path.isdir(path) and _pictures(path))


def _pictures(folder: str) -> list[str]:
    return sorted(str(p) for p in Path(folder).rglob("*") if p.is_file() and _is_picture(p))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() not in (".tar", *_NO_PICTURE)


# --- the stage ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Decontaminating(StageToBe):
    """Decontaminate, by sets that are still to be read."""

    evaluation: Data[EvaluationSet]
    max_distance: int | None

    stage: ClassVar[type[Stage]] = Decontaminate

    def ready(self) -> Stage:
        files = self.evaluation.files(lambda out: out.evaluation)
        return Decontaminate(evaluation=files, max_distance=self.max_distance)


def decontaminate(page: Page, config: DecontaminateConfig, image: ImageConfig) -> list[PairStage]:
    """The stage, with the step before it that reads the evaluation sets; none where no set is named."""
    if not config.active:
        return []
    evaluation = page.add(read_evaluation(config, image))
    return [_Decontaminating(evaluation=evaluation, max_distance=config.max_distance)]

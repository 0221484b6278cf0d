"""decontaminate: FETCHED -> FETCHED without what the evaluation sets hold.

image folders, tars, lists --evaluation (one task per source)--> EVALUATION
FETCHED + EVALUATION --decontaminate (one task per staging shard)--> FETCHED
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from configs.load import fingerprint, from_mapping, to_mapping
from pipeline.checked import Vouched, read_table
from pipeline.engine import Done, Task
from pipeline.errors import InputError
from pipeline.ledger import LedgerConfig
from pipeline.lines import read_lines
from pipeline.stages.check_image.config import ImageConfig, Picture
from pipeline.stages.check_image.isolate import IsolatedChecker
from pipeline.stages.decontaminate import DecontaminateConfig, Evaluation, decontaminate, normal_form, prompts
from pipeline.steps.judge import Survivors, judge, named_files, stamp_of
from pipeline.steps.step import Step, key_of
from pipeline.storage import write_parquet

__all__ = ["EVALUATION", "VERSION", "plan", "plan_evaluation"]

VERSION = "decontaminate-2"
EVALUATION = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),  # of the picture or line in its source
        pa.field("sha256", pa.string()),
        pa.field("phash", pa.uint64()),
        pa.field("caption", pa.string()),  # in normal form
    ]
)
"""One hash, picture or caption of an evaluation set."""

_NO_PICTURE = (".txt", ".json", ".cls", ".tsv", ".csv", ".md", ".parquet", ".yaml", ".npy")
_MAX_BODY = 256 * 2**20


def plan_evaluation(config: DecontaminateConfig, image: ImageConfig) -> Step:
    """One task per tar, folder and list; none where no set is named. InputError for a source that is not there.

    Pictures are hashed as the run's own are (`image`), but whatever their size.
    """
    lists = [("hashes", p) for p in named_files(config.hashes, "decontaminate.hashes")]
    lists += [("captions", p) for p in named_files(config.captions, "decontaminate.captions")]
    sources = [("tar", p) for p in _tars(config)] + [("folder", p) for p in _folders(config)] + lists
    check = {**to_mapping(image), "min_side": 1, "max_aspect_ratio": 0.0}
    tasks = []
    for kind, path in sources:
        arguments = {"kind": kind, "path": path, "image": check, "captions": config.tar_captions}
        stamp = [stamp_of(p) for p in _pictures(path)] if kind == "folder" else stamp_of(path)
        tasks.append(_task(path, arguments, stamp))
    if config.class_names:
        names = named_files(config.class_names, "decontaminate.class_names")
        templates = named_files(config.templates, "decontaminate.templates")
        arguments = {"kind": "prompts", "path": "prompts", "class_names": names, "templates": templates}
        tasks.append(_task("prompts", arguments, [stamp_of(p) for p in (*names, *templates)]))
    return Step(name="evaluation", title="read evaluation sets", tasks=tasks)


def _task(path: str, arguments: dict[str, Any], stamp: Any) -> Task:
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", os.path.basename(path))[:60].strip("-")
    source = f"{arguments['kind']} {path}"
    name = f"{stem}-{xxhash.xxh3_64_hexdigest(source.encode())[:8]}"
    key = fingerprint(VERSION, arguments, stamp)
    return Task(partition=name, work=_read, arguments=arguments, outputs=(f"{name}.evaluation.parquet",), key=key)


def _tars(config: DecontaminateConfig) -> list[str]:
    found: set[str] = set()
    for path in named_files(config.images, "decontaminate.images"):
        if os.path.isdir(path):
            found.update(str(tar) for tar in Path(path).rglob("*.tar"))
        elif path.endswith(".tar"):
            found.add(path)
        else:
            raise InputError(f"{path}: neither a folder nor a .tar; correct `decontaminate.images` in the config")
    return sorted(found)


def _folders(config: DecontaminateConfig) -> list[str]:
    paths = [path for path in named_files(config.images, "decontaminate.images") if os.path.isdir(path)]
    for path in paths:
        if not _pictures(path) and not any(Path(path).rglob("*.tar")):
            raise InputError(f"{path}: neither pictures nor tars in this folder; correct `decontaminate.images`")
    return [path for path in paths if _pictures(path)]


def _pictures(folder: str) -> list[str]:
    files = (p for p in Path(folder).rglob("*") if p.is_file())
    return sorted(str(p) for p in files if p.suffix.lower() not in (".tar", *_NO_PICTURE))


def _read(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    (path,) = outputs.values()
    kind = arguments["kind"]
    if kind == "hashes":
        rows = list(_hashes(arguments["path"]))
    elif kind == "captions":
        rows = list(_captions(_lines(arguments["path"])))
    elif kind == "prompts":
        names = [line for p in arguments["class_names"] for line in _lines(p)]
        rows = list(_captions(prompts(names, [line for p in arguments["templates"] for line in _lines(p)])))
    else:
        rows = list(_bodies(arguments))
    return {"rows": write_parquet(path, pa.Table.from_pylist(rows, schema=EVALUATION), EVALUATION)}


def _lines(path: str) -> list[str]:
    return [line.strip() for line in read_lines(path) if line.strip()]


def _captions(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        form = normal_form(line)
        if form:  # a caption of signs alone would equal every other such
            yield {"name": line[:200], "caption": form}


def _hashes(path: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(path), 1):
        word = line.lower()
        if re.fullmatch(r"[0-9a-f]{64}", word):
            yield {"name": word, "sha256": word}
        elif re.fullmatch(r"[0-9a-f]{16}", word):
            yield {"name": word, "phash": int(word, 16)}
        else:
            raise InputError(f"{path}, line {number}: {line[:40]!r} is neither 64 nor 16 hex digits; correct the list")


def _bodies(arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every picture's hashes; a file that does not decode still has its SHA-256."""
    with IsolatedChecker(from_mapping(ImageConfig, arguments["image"])) as checker:
        members = _members(arguments["path"]) if arguments["kind"] == "tar" else _files(arguments["path"])
        for name, body in members:
            suffix = os.path.splitext(name)[1].lower()
            if suffix == ".txt" and arguments["captions"]:
                yield from _captions(body.decode("utf-8", "replace").splitlines())
            if suffix in _NO_PICTURE:
                continue
            (checked,) = checker.check([body])
            phash = checked.phash if isinstance(checked, Picture) else None
            yield {"name": name, "sha256": hashlib.sha256(body).hexdigest(), "phash": phash}


def _files(folder: str) -> Iterator[tuple[str, bytes]]:
    for path in _pictures(folder):
        if os.path.getsize(path) <= _MAX_BODY:
            yield os.path.relpath(path, folder), Path(path).read_bytes()


def _members(path: str) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() and member.size <= _MAX_BODY else None
                if file is not None:
                    yield member.name, file.read()
    except tarfile.TarError as error:
        raise InputError(f"{path}: not a whole tar ({error}); correct `decontaminate.images`") from error


def plan(
    survivors: Survivors, evaluation: tuple[Sequence[Done], Path], config: DecontaminateConfig, ledger: LedgerConfig
) -> Step:
    """One task per staging shard; none where no set is named."""
    tasks = []
    files = [record.file(evaluation[1], "evaluation") for record in evaluation[0]]
    for record in survivors[0] if config.active else ():
        name = record.partition
        arguments = {
            "fetched": record.file(survivors[1], "fetched"),
            "evaluation": files,
            "max_distance": config.max_distance,
            "ledger": to_mapping(ledger),
        }
        outputs = (f"{name}.fetched.parquet", f"{name}.rejections.parquet")
        key = key_of(VERSION, [record, *evaluation[0]], config.max_distance, ledger)
        tasks.append(Task(partition=name, work=_work, arguments=arguments, outputs=outputs, key=key))
    return Step(name="decontaminate", title="turn evaluation data away", tasks=tasks)


@functools.lru_cache(maxsize=1)
def _load(files: tuple[Vouched, ...]) -> Evaluation:
    """Read once a worker process."""
    table = pa.concat_tables([read_table(file).cast(EVALUATION) for file in files])
    phashes = np.unique(table["phash"].drop_null().to_numpy().astype(np.uint64))
    return Evaluation(
        sha256=frozenset(table["sha256"].drop_null().to_pylist()),
        phashes=phashes[phashes != 0],
        captions=frozenset(table["caption"].drop_null().to_pylist()),
    )


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    evaluation = _load(tuple(arguments["evaluation"]))
    limit = arguments["max_distance"]
    return judge("decontaminate", arguments, outputs, lambda batch: decontaminate(batch, evaluation, limit))

"""Checkpoints in a bucket: there is no rename, so state.json, which names all other files and their hashes, comes last.

    scratch/000000128000.tmp/*  --put, by the rank that wrote each-->  RUN/checkpoints/000000128000/*
                                                          then, by rank 0,  RUN/checkpoints/000000128000/state.json

What has no state.json is no checkpoint. To be read, one is copied to this machine and held against its hashes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import one_line
from pipeline.storage.bucket import BucketPath
from pipeline.storage.copies import download
from pipeline.storage.place import Place
from training.checkpoints.layout import (
    Progress,
    facts_of,
    files_of,
    find_last,
    listed_checkpoints,
    problem_of,
    state_of,
    too_old,
)

__all__ = ["begin_checkpoint", "commit_checkpoint", "copy_checkpoint", "last_here", "put_files", "sweep_unfinished"]

_STATE = "state.json"


def begin_checkpoint(final: BucketPath) -> None:
    """Before the first file is put: what lies there under this name is no checkpoint any more."""
    (final / _STATE).unlink()


def put_files(files: Iterable[Path], final: BucketPath) -> dict[str, dict[str, Any]]:
    """Put `files`, which are then removed here; returns the facts of each, for state.json."""
    found = {}
    for path in files:
        (final / path.name).put(path)
        found[path.name] = facts_of(path)
        path.unlink()
    return found


def commit_checkpoint(
    final: BucketPath, progress: Progress, files: Mapping[str, Mapping[str, Any]], *, keep: int
) -> None:
    """Make `files`, all of which are there, the checkpoint `final`, and keep no more than `keep` up to it."""
    (final / _STATE).put(state_of(progress, files))
    for old in too_old(final, keep=keep):
        _remove(old)


def sweep_unfinished(directory: BucketPath) -> None:
    """Remove what killed runs left in RUN/checkpoints."""
    for path in listed_checkpoints(directory):
        if not (path / _STATE).is_file():
            _remove(path)


def last_here(directory: Place, copies: Path) -> tuple[Path | None, list[str]]:
    """`find_last`, of a bucket as a copy in `copies`. Raises StoreError."""
    if isinstance(directory, Path):
        return find_last(directory)
    problems: list[str] = []
    for path in reversed([path for path in listed_checkpoints(directory) if (path / _STATE).is_file()]):
        problem = copy_checkpoint(path, copies)
        if problem is None:
            return copies / path.name, problems
        problems.append(f"{path}: damaged checkpoint skipped ({problem})")
    return None, problems


def copy_checkpoint(path: BucketPath, copies: Path) -> str | None:
    """Copy the checkpoint at `path` into `copies`; why it cannot be read, or None. Raises StoreError."""
    copy = copies / path.name
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    problem: str | None
    try:
        for name in files_of(path):
            if Path(name).name != name:
                raise ValueError(f"it names {name!r}, which is not beside it")
            download(path / name, copy / name)
        download(path / _STATE, copy / _STATE)
    except FileNotFoundError as error:
        problem = f"{Path(str(error.filename)).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = one_line(error) or type(error).__name__
    else:
        problem = problem_of(copy)
    if problem is not None:
        shutil.rmtree(copy, ignore_errors=True)
    return problem


def _remove(path: BucketPath) -> None:
    """Remove a checkpoint; while some of it is left, it is none."""
    (path / _STATE).unlink()
    BucketPath.remove([file for file, _ in path.walk()])

"""extract: each source file -> one file of CANDIDATES."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import xxhash

from configs.load import fingerprint, from_mapping, to_mapping
from pipeline.engine import Task
from pipeline.errors import InputError
from pipeline.ledger import Ledger, LedgerConfig
from pipeline.schema import CANDIDATES
from pipeline.stages.extract import ExtractConfig, extract
from pipeline.steps.step import Step
from pipeline.storage import parquet_writer

__all__ = ["VERSION", "find_sources", "plan", "stamp_of"]

VERSION = "extract-2"


def find_sources(patterns: Sequence[str]) -> list[str]:
    """The files that `patterns` (paths, globs, fsspec URLs) name, sorted, each once.

    Raises InputError for a pattern that names nothing.
    """
    found: set[str] = set()
    for pattern in patterns:
        if "://" in pattern:
            system, path = fsspec.core.url_to_fs(pattern)
            names = [system.unstrip_protocol(name) for name in system.glob(path)]
        elif glob.has_magic(pattern):
            names = [name for name in glob.glob(pattern, recursive=True) if not os.path.isdir(name)]
        else:
            names = [pattern] if os.path.isfile(pattern) else []
        if not names:
            raise InputError(f"{pattern}: no such source file; correct `sources` in the config")
        found.update(names)
    return sorted(found)


def plan(sources: Sequence[str], source_format: str, config: ExtractConfig, ledger: LedgerConfig) -> Step:
    """One task per source file (of `find_sources`); its key holds size and time of change, not the content."""
    tasks = []
    for source in sources:
        name = _partition_name(source)
        arguments = {
            "source": source,
            "format": source_format,
            "config": to_mapping(config),
            "ledger": to_mapping(ledger),
        }
        tasks.append(
            Task(
                partition=name,
                work=_work,
                arguments=arguments,
                outputs=(f"{name}.candidates.parquet", f"{name}.rejections.parquet"),
                key=fingerprint(VERSION, arguments, stamp_of(source)),
            )
        )
    return Step(name="extract", title="extract image links", tasks=tasks)


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    candidates_path, rejections_path = outputs.values()
    config = from_mapping(ExtractConfig, arguments["config"])
    ledger = Ledger(rejections_path, from_mapping(LedgerConfig, arguments["ledger"]))
    rows = 0
    with parquet_writer(candidates_path, CANDIDATES) as writer:
        for outcome in extract(arguments["source"], config, format=arguments["format"]):
            kept = ledger.add("extract", "link", outcome)
            if kept.num_rows:
                writer.write_batch(kept)
            rows += outcome.num_in
    return {"rows": rows, "lines": ledger.close()}


def _partition_name(source: str) -> str:
    """Readable, unique, and the same whatever other sources there are."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", os.path.basename(source))[:60].strip("-")
    return f"{stem}-{xxhash.xxh3_64_hexdigest(source.encode())[:8]}"


def stamp_of(source: str) -> list[Any]:
    """What tells that a file has changed: size and time (or ETag). Raises FileNotFoundError."""
    if "://" in source:
        system, path = fsspec.core.url_to_fs(source)
        info = system.info(path)
        return [info.get("size"), str(info.get("ETag") or info.get("etag") or info.get("mtime") or "")]
    status = os.stat(source)
    return [status.st_size, status.st_mtime_ns]

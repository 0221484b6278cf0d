"""extract: each source file -> one file of CANDIDATES."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from configs.load import fingerprint, from_mapping, to_mapping
from pipeline.engine import Task
from pipeline.ledger import Ledger, LedgerConfig
from pipeline.schema import CANDIDATES
from pipeline.stages.extract import ExtractConfig, extract
from pipeline.steps.sources import Stamp
from pipeline.steps.step import Step
from pipeline.storage import parquet_writer

__all__ = ["VERSION", "plan"]

VERSION = "extract-3"


def plan(sources: Mapping[str, Stamp], source_format: str, config: ExtractConfig, ledger: LedgerConfig) -> Step:
    """One task per source file (of `find_sources`); its key holds the file's stamp, not the content."""
    tasks = []
    for source, stamp in sources.items():
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
                key=fingerprint(VERSION, arguments, stamp),
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

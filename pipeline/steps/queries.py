"""queries: the query list, checked, with the matcher's tables ready to be memory-mapped by every worker."""

from __future__ import annotations

import shutil
import tempfile
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.load import fingerprint, from_mapping, to_mapping
from pipeline.engine import Task
from pipeline.matching.matcher import MATCH_VERSION
from pipeline.queries import read_queries, write_queries
from pipeline.stages.match import MatchConfig, Matcher
from pipeline.steps.step import Step
from pipeline.storage import save_vector

__all__ = ["VERSION", "plan"]

VERSION = "queries-1"


def plan(path: str, config: MatchConfig) -> Step:
    """One task. Raises QueryListError at once when the list is missing or damaged."""
    arguments = {"path": path, "config": to_mapping(config)}
    marks = (VERSION, MATCH_VERSION, unicodedata.unidata_version)
    key = fingerprint(*marks, read_queries(path).fingerprint, config)
    outputs = ("all.queries.parquet", "all.query_hashes.npy", *Matcher.FILES)
    task = Task(partition="all", work=_work, arguments=arguments, outputs=outputs, key=key)
    return Step(name="queries", title="prepare the query list", tasks=[task])


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    queries_path, hashes_path, *_ = outputs.values()
    queries = read_queries(arguments["path"])
    write_queries(queries.table, queries_path)
    save_vector(hashes_path, queries.query_hashes)
    with tempfile.TemporaryDirectory(dir=queries_path.parent, prefix="tables.tmp-") as scratch:
        Matcher.build(queries, from_mapping(MatchConfig, arguments["config"])).save(Path(scratch))
        for name in Matcher.FILES:
            shutil.move(Path(scratch) / name, outputs[name])
    return {"rows": len(queries.queries), "num_queries": len(queries.queries), "fingerprint": queries.fingerprint}

"""Match: which queries does each caption contain? A caption without one is rejected."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.load import ConfigError
from pipeline.matching.config import MatchConfig
from pipeline.matching.matcher import Matcher
from pipeline.records.outcome import Outcome, reject
from pipeline.stages.stage import Stage
from pipeline.storage.checked import check
from pipeline.storage.location import Files

__all__ = ["Match", "match"]


def match(batch: pa.RecordBatch, config: MatchConfig, matcher: Matcher, *, keep_unmatched: bool = False) -> Outcome:
    """Add `query_ids` (list<int32>, ascending, each once) to a batch with a `caption` column.

    Rows whose caption contains no query are rejected as no_query, or have an empty list. Raises ConfigError where
    `matcher` was built for another rule than `config` asks for.
    """
    if matcher.config != config:
        raise ConfigError(f"the matcher's tables are for {matcher.config}, not for {config}; build them again")
    captions = batch.column("caption")
    offsets, ids = matcher.find(captions)
    query_ids = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ids, pa.int32()))
    found = (np.diff(offsets) > 0) | keep_unmatched
    reasons = pc.if_else(pa.array(found), pa.scalar(None, pa.string()), "no_query")
    return reject(
        batch.append_column(pa.field("query_ids", pa.list_(pa.int32()), nullable=False), query_ids),
        stage="match",
        reasons=reasons,
        details=captions,
    )


@dataclass(frozen=True, kw_only=True)
class Match(Stage):
    """`match` as a stage of the page."""

    config: MatchConfig
    tables: Files
    """Of a matcher that was saved, in the order of `Matcher.FILES`."""
    keep_unmatched: bool = False

    name: ClassVar[str] = "match"
    reads: ClassVar[tuple[str, ...]] = ("caption",)
    adds: ClassVar[tuple[str, ...]] = ("query_ids",)
    reasons: ClassVar[Mapping[str, str]] = {
        "no_query": "the caption contains no query of the list",
    }

    def judge(self, batch: pa.RecordBatch) -> Outcome:
        return match(batch, self.config, _open_matcher(self.tables), keep_unmatched=self.keep_unmatched)

    def key_parts(self) -> Any:
        name, version, fields = super().key_parts()
        if not self.keep_unmatched:
            del fields["keep_unmatched"]  # as it was before there was the option
        return [[name, version, fields], unicodedata.unidata_version]


@functools.lru_cache(maxsize=1)
def _open_matcher(tables: Files) -> Matcher:
    """Memory-mapped tables, checked and opened once a worker process."""
    (directory,) = {Path(check(table)).parent for table in tables}
    return Matcher.open(directory)

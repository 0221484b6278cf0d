"""Match: which queries does each caption contain? A caption without one is rejected."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.load import ConfigError
from pipeline.matching.config import MatchConfig
from pipeline.matching.matcher import Matcher
from pipeline.outcome import Outcome, reject

__all__ = ["MatchConfig", "Matcher", "match"]


def match(batch: pa.RecordBatch, config: MatchConfig, matcher: Matcher) -> Outcome:
    """Add `query_ids` (list<int32>, ascending, each once) to a batch with a `caption` column.

    Rows whose caption contains no query are rejected as no_query. Raises ConfigError where `matcher` was
    built for another rule than `config` asks for.
    """
    if matcher.config != config:
        raise ConfigError(f"the matcher's tables are for {matcher.config}, not for {config}; build them again")
    captions = batch.column("caption")
    offsets, ids = matcher.find(captions)
    query_ids = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ids, pa.int32()))
    found = np.diff(offsets) > 0
    reasons = pc.if_else(pa.array(found), pa.scalar(None, pa.string()), "no_query")
    return reject(
        batch.append_column(pa.field("query_ids", pa.list_(pa.int32()), nullable=False), query_ids),
        stage="match",
        reasons=reasons,
        details=captions,
    )

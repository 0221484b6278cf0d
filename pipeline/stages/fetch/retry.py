"""Which facts are worth asking again, and how old and new facts about the same URL become one.

A finished run's failures split into those that time may heal (a host that was down, too busy or too slow) and
those that will be the same tomorrow (404, a private address, an opt-out, a damaged picture).
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["CAN_HEAL", "merge_facts", "worth_retrying"]

CAN_HEAL = ("dns", "connect", "tls", "timeout", "too_slow", "transfer", "http_408", "http_425", "http_429")
"""Reasons of the fetch stage, besides http_5NN, after which another attempt some time later may succeed."""


def worth_retrying(facts: pa.Table) -> pa.ChunkedArray:
    """bool[N] over FACTS rows: failures of the fetch stage that can heal."""
    reason = facts["reason"]
    heals = pc.or_(pc.is_in(reason, pa.array(CAN_HEAL)), pc.match_substring_regex(reason, r"^http_5\d\d$"))
    failed = pc.equal(facts["status"], "failed_to_download")
    return pc.and_(failed, pc.fill_null(heals, False))


def merge_facts(generations: Sequence[pa.Table]) -> pa.Table:
    """One row per `url_id` from FACTS tables, the oldest first: a success stays; else the latest answer counts.

    Any column beside FACTS' (the tar that a row points into) travels with its row. Sorted by `url_id`, so the
    result does not depend on how the rows were cut into files.
    """
    numbered = [
        table.append_column("generation", pa.array([i] * table.num_rows, pa.int32()))
        for i, table in enumerate(generations)
    ]
    whole = pa.concat_tables(numbered)
    success = pc.equal(whole["status"], "success")
    # The first success, or without one the last failure.
    last = len(generations)
    precedence = pc.if_else(success, pc.negate(whole["generation"]), pc.subtract(whole["generation"], 2 * last))
    whole = whole.append_column("precedence", precedence)
    whole = whole.sort_by([("url_id", "ascending"), ("precedence", "descending")])
    ids = whole["url_id"].combine_chunks()
    first = pa.array([i == 0 or ids[i] != ids[i - 1] for i in range(len(ids))], pa.bool_())
    return whole.filter(first).drop_columns(["generation", "precedence"])

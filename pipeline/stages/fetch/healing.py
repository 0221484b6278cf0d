"""Which facts are worth asking again, and how old and new facts about the same URL become one.

A finished run's failures split into those that time may heal (a host that was down, too busy or too slow) and
those that will be the same tomorrow (404, a private address, an opt-out, a damaged picture).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.consent.robots_answer import UNREACHABLE

__all__ = ["CAN_HEAL", "merge_facts", "merge_numbered", "worth_retrying"]

CAN_HEAL = ("dns", "connect", "tls", "timeout", "too_slow", "transfer", "http_408", "http_425", "http_429")
"""Reasons of the fetch stage, besides http_5NN, after which another attempt some time later may succeed."""
_HEALS = rf"(?:{'|'.join(CAN_HEAL)}|http_5\d\d)$"


def worth_retrying(facts: pa.Table) -> pa.ChunkedArray:
    """bool[N] over FACTS rows: failures of the fetch stage that can heal. Reads `status`, `reason` and `detail`.

    A robots.txt that could not be had for such a reason counts among them, one that forbids does not.
    """
    heals = pc.match_substring_regex(facts["reason"], f"^{_HEALS}")
    unreachable = pc.match_substring_regex(facts["detail"], f"^{re.escape(UNREACHABLE)}: {_HEALS}")
    unreachable = pc.and_(pc.equal(facts["reason"], "robots_txt"), unreachable)
    heals = pc.or_(pc.fill_null(heals, False), pc.fill_null(unreachable, False))
    return pc.and_(pc.equal(facts["status"], "failed_to_download"), heals)


def merge_facts(generations: Sequence[pa.Table]) -> pa.Table:
    """One row per `url_id` from FACTS tables, the oldest first: a success stays; else the latest answer counts.

    Any column beside FACTS' (the tar that a row points into) travels with its row. Sorted by `url_id`, so the
    result does not depend on how the rows were cut into files.
    """
    numbered = [
        table.append_column("generation", pa.array([i] * table.num_rows, pa.int32()))
        for i, table in enumerate(generations)
    ]
    return merge_numbered(pa.concat_tables(numbered))


def merge_numbered(whole: pa.Table) -> pa.Table:
    """merge_facts of one table, whose column `generation` (int32, from 0) says which are older; without it again."""
    success = pc.equal(whole["status"], "success")
    # The first success, or without one the last failure.
    last = (pc.max(whole["generation"]).as_py() or 0) + 1
    precedence = pc.if_else(success, pc.negate(whole["generation"]), pc.subtract(whole["generation"], 2 * last))
    whole = whole.append_column("precedence", precedence)
    whole = whole.sort_by([("url_id", "ascending"), ("precedence", "descending")])
    ids = whole["url_id"].combine_chunks()
    differs = pc.not_equal(ids[1:], ids[:-1])
    first = pa.concat_arrays([pa.array([True] * min(len(ids), 1), pa.bool_()), differs])
    return whole.filter(first).drop_columns(["generation", "precedence"])

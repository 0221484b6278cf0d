"""Known answers judged by the consent of now, from what was noted of them: nothing is requested for it.

    answer, statements --judge_again--> refused: out of the set, for the reason of now
                                        released: it was refused, and would not be now: to be requested

Where nothing was noted (facts of earlier versions), a picture stays, and a refusal is read from its detail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.consent.answers import REASONS, Refusal, honours, judge
from pipeline.consent.signals import AnswerSignals

__all__ = ["Judged", "judge_again"]

_OF_EARLIER = "opt_out"
"""The reason of X-Robots-Tag and tdm-reservation alike before each had its own."""
_REFUSALS = (_OF_EARLIER, *REASONS)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What is no longer as the answers say."""

    refused: Mapping[bytes, Refusal]
    released: frozenset[bytes]

    def is_released(self, answers: pa.Table) -> pa.ChunkedArray:
        """bool[N] over `answers`."""
        return pc.is_in(answers["url_id"], pa.array(self.released, pa.binary(16)))


def judge_again(answers: pa.Table, signals: AnswerSignals, *, product: str) -> Judged:
    """Judge `answers`, a table with FACTS' columns url_id, reason, detail, status and statements.

    A refusal that holds keeps the reason that it was given, and is in neither part.
    """
    says = pc.fill_null(pc.greater(pc.list_value_length(answers["statements"]), 0), False)
    was_refused = pc.fill_null(pc.is_in(answers["reason"], pa.array(_REFUSALS)), False)
    refused: dict[bytes, Refusal] = {}
    released: set[bytes] = set()
    columns = ["url_id", "status", "reason", "detail", "statements"]
    for row in answers.select(columns).filter(pc.or_(says, was_refused)).to_pylist():
        if row["reason"] in _REFUSALS:
            statements = row["statements"] or [row["detail"] or ""]
            refusal = judge(signals, statements, product=product)
            if refusal is None and honours(signals, row["reason"], row["detail"] or ""):
                continue  # told by its reason alone: no answer said it
            if refusal is None:
                released.add(row["url_id"])
            elif row["reason"] not in (_OF_EARLIER, refusal.reason):
                refused[row["url_id"]] = refusal
        elif row["status"] != "failed_to_download":
            refusal = judge(signals, row["statements"], product=product)
            if refusal is not None:
                refused[row["url_id"]] = refusal
    return Judged(refused=refused, released=frozenset(released))

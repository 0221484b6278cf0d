"""What a stage is that judges rows: each row of a batch is kept, with what the stage adds to it, or rejected.

class NoAdverts(Stage):
    name = "no_adverts"
    reasons = {"advert": "the caption offers something for sale"}
    reads = ("caption",)

    def judge(self, batch: pa.RecordBatch) -> Outcome: ...
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.records.outcome import Outcome

__all__ = ["Stage"]


class Stage(ABC):
    """Judges rows, one batch at a time, and remembers nothing between them.

    What it goes by are the fields of the dataclass that it is. They and its `version` decide whether work is done again
    (`key_parts`); of a stage of one's own, the source text of its class as well (docs/python.md).
    """

    name: ClassVar[str]
    """In the ledger; of no other stage."""
    reasons: ClassVar[Mapping[str, str]]
    """Every reason for which it rejects, with what it means."""
    reads: ClassVar[tuple[str, ...]] = ()
    """The columns that it judges by."""
    adds: ClassVar[tuple[str, ...]] = ()
    """The columns that it adds, for the stages after it."""
    version: ClassVar[int] = 1
    """Rises when the same rows are judged differently."""

    @abstractmethod
    def judge(self, batch: pa.RecordBatch) -> Outcome:
        """Keep or reject every row (`outcome.reject`). Columns may be added, rows neither added nor reordered, and what
        was there stays as it is."""

    def check(self) -> None:  # noqa: B027 - most have nothing to look for
        """Look, before a run begins, whether what the stage needs is there. Raises ConfigError or InputError."""

    def key_parts(self) -> Any:
        """What decides the outcome, beside the rows; None for nothing."""
        names: list[str] = [f.name for f in dataclasses.fields(self)] if dataclasses.is_dataclass(self) else []
        return [self.name, self.version, {name: getattr(self, name) for name in names}]  # not what it may have cached

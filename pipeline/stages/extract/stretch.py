"""How much of a source is read: all of it, or what one of several tasks reads, or only its beginning."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WHOLE", "Stretch"]


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """What begins at `begin` or later and before `end`, of the rows or records up to number `max_rows`.

    Stretches that lie end to end give the rows of the whole, each once and under the same `record`.
    """

    begin: int = 0
    """Bytes of the file."""
    end: int | None = None
    """Bytes of the file; null for its end."""
    max_rows: int | None = None
    """Rows of a table, records of an archive (whatever they hold), counted from the file's start; null for all. Only
    with an archive that is read from its start."""

    @property
    def is_first(self) -> bool:
        """Whether it has the source's start; what is told once a source is told of this one."""
        return self.begin == 0


WHOLE = Stretch()

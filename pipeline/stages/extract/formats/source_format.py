"""What a source format is: a name, the endings of its files, and how a file of it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.stages.extract.stretch import WHOLE, Stretch

if TYPE_CHECKING:  # a format is listed by commands that read nothing; what it needs is imported when it does
    from pipeline.consent.signals import PageSignals
    from pipeline.records.outcome import Outcome
    from pipeline.stages.extract.config import ExtractConfig
    from pipeline.stages.extract.tables.rows import RowReader

__all__ = ["SourceFormat", "table_format"]


@dataclass(frozen=True, kw_only=True)
class SourceFormat:
    """One format that `extract` reads."""

    name: str
    """What `source_format` calls it."""
    endings: tuple[str, ...]
    """Of its files' names, in small letters, without what a compression adds; none where a name does not tell it."""
    says: str
    """Its line of `--help`."""
    read: Callable[[str, ExtractConfig, PageSignals, Stretch], Iterator[Outcome]]
    """The outcomes of one source, or of a stretch of it, as `extract` gives them. Raises InputError where it cannot be
    read."""
    check: Callable[[str, ExtractConfig], None] | None = None
    """Raises InputError where the head of a file on this machine tells that `read` will fail; None: nothing does."""
    cut: Literal["table", "archive"] | None = None
    """Which option says how large a stretch one task reads; None where no stretch can be read without all before it, or
    nobody would gain by it."""
    stores_pictures: bool = False
    """Whether a source has its pictures beside it, to be imported rather than requested; such a format has no endings,
    since it is to be asked for."""


def table_format(
    *,
    name: str,
    endings: tuple[str, ...],
    says: str,
    rows: RowReader | None = None,
    rows_in: Callable[[Stretch], RowReader] | None = None,
    stores_pictures: bool = False,
) -> SourceFormat:
    """A format of rows with a URL and a text: `rows` yields them from an open file, all else is the tables' business.

    A format that can give the rows of a stretch, with their numbers, without reading what is before it, has `rows_in`
    instead. A file's head is checked by asking for the first row.
    """

    def reader(stretch: Stretch) -> RowReader:
        chosen = rows if rows_in is None else rows_in(stretch)
        if chosen is None:
            raise TypeError(f"format {name}: neither rows nor rows_in")
        return chosen

    def read(path: str, config: ExtractConfig, _: PageSignals, stretch: Stretch) -> Iterator[Outcome]:
        from pipeline.stages.extract.tables import read_table

        return read_table(path, config, reader(stretch), max_rows=stretch.max_rows)

    def check(path: str, config: ExtractConfig) -> None:
        from pipeline.stages.extract.tables import check_table

        check_table(path, config, reader(WHOLE))

    return SourceFormat(
        name=name,
        endings=endings,
        says=says,
        read=read,
        check=check,
        cut=None if rows_in is None else "table",
        stores_pictures=stores_pictures,
    )

"""What a run says at its end of a stage that turned away much more than is usual, with the command that shows the rows.

What is usual is known where it was measured or published; other stages (filters of one's own, balance) go by what the
config asks for, and nothing is usual there. Few rows prove nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.records.ledger import Line
from pipeline.storage.place import Place

__all__ = ["USUAL", "Hint", "Usual", "hints_of"]

_LEAST_ROWS = 100
_SHOWN_REASONS = 3
_SHOWN_ROWS = 20


@dataclass(frozen=True, kw_only=True)
class Usual:
    """How much a stage turns away of what comes to it, and where that is known from."""

    stage: str
    unit: str
    reasons: tuple[str, ...] = ()
    """The reasons that are meant; empty: all."""
    most: float
    """The largest share that is still usual."""
    said: str
    """For people: how much, and of what."""
    source: str


@dataclass(frozen=True, kw_only=True)
class Hint:
    """A stage that turned away more than is usual."""

    stage: str
    share: float
    text: str
    command: str
    """Shows the rows."""


USUAL: tuple[Usual, ...] = (
    Usual(
        stage="extract",
        unit="record",
        reasons=("bad_record", "oversized_record", "truncated_file"),
        most=0.02,
        said="next to none",
        source="docs/yields.md: none of 1,924 records of WAT files, none of 1,919 of WARC files",
    ),
    Usual(
        stage="extract",
        unit="link",
        reasons=("bad_url", "not_http"),
        most=0.1,
        said="2 % at most, where the columns are the right ones",
        source="docs/yields.md: none of 3,100 links; the sample web: 78 of 5,945, made on purpose",
    ),
    Usual(
        stage="clean",
        unit="link",
        most=0.25,
        said="up to 10 %",
        source="docs/yields.md: 6 of 3,088 links; the sample web: 8 %, made on purpose",
    ),
    Usual(
        stage="language",
        unit="link",
        most=0.25,
        said="3 to 20 % of pages in the target language, half and more of a whole crawl",
        source="docs/language.md: 3.3 % of English alt texts, 8.3 % of those of no stated language; the sample web: "
        "9 %; docs/yields.md: 55 %, where one of five sites is Polish",
    ),
    Usual(
        stage="match",
        unit="link",
        most=0.6,
        said="half, with the published list",
        source="MetaCLIP (arXiv 2309.16671): about 50 % of English alt texts match one of 500,000 queries",
    ),
    Usual(
        stage="dedup",
        unit="pair",
        most=0.6,
        said="up to 30 % within a crawl",
        source="docs/yields.md: 408 of 1,367 pairs, most of them a logo on every page",
    ),
    Usual(
        stage="fetch",
        unit="pair",
        most=0.45,
        said="5 to 15 % of a fresh list, 35 to 40 % of one that is some years old",
        source="users of published lists: 85 to 95 % of a fresh one arrive, 60 to 65 % after some years; the corpus of "
        "docs/yields.md lacks pictures, and is beyond that",
    ),
    Usual(
        stage="check_image",
        unit="pair",
        most=0.25,
        said="up to 5 % with the least side at 64 pixels",
        source="docs/yields.md: 14 of 530 pictures; the sample web: 1.5 %",
    ),
)
"""In the order of the stages. `most` leaves room above what was seen: a hint should be worth its line."""


def hints_of(lines: Sequence[Line], output: Place) -> list[Hint]:
    """One for each line of the ledger that is out of the usual, in order."""
    found = ((usual, line) for line in lines for usual in USUAL if (line.stage, line.unit) == (usual.stage, usual.unit))
    hints = (_hint(usual, line, output) for usual, line in found)
    return [hint for hint in hints if hint is not None]


def _hint(usual: Usual, line: Line, output: Place) -> Hint | None:
    rejected = {reason: n for reason, n in line.rejected.items() if not usual.reasons or reason in usual.reasons}
    lost = sum(rejected.values())
    if line.rows_in < _LEAST_ROWS or lost <= usual.most * line.rows_in:
        return None
    share = lost / line.rows_in
    top = sorted(rejected, key=lambda reason: (-rejected[reason], reason))[:_SHOWN_REASONS]
    reasons = ", ".join(f"{reason} {rejected[reason]:,}" for reason in top)
    meant = f" AND reason IN ({', '.join(map(repr, usual.reasons))})" if usual.reasons else ""
    query = (
        f"SELECT reason, detail, source, record FROM rejections WHERE stage = '{usual.stage}'{meant} "
        f"LIMIT {_SHOWN_ROWS}"
    )
    of = f"{100 * share:.0f} % of {line.rows_in:,} {line.unit}s ({reasons})"
    return Hint(
        stage=usual.stage,
        share=share,
        text=f"{usual.stage} turned away {of}; usual is {usual.said}",
        command=f"python -m pipeline sql {shlex.quote(str(output))} {shlex.quote(query)}",
    )

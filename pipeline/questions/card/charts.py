"""Where the marks of a chart stand; the templates draw them as SVG.

All numbers are percent of the plot, x to the right, y downwards: a chart is as wide as its place, and its letters keep
their size. No library that draws to fixed sizes can do that (docs/log.md). The same rows give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.questions.card.answers import Row

__all__ = ["Bin", "Curve", "Histogram", "Line", "Tick", "curve_of", "histogram_of"]

_LABELS_AT_MOST = 9  # under a histogram: more would touch at 390 pixels
_HEADROOM = 1.35  # of the curve's vertical axis, for the label over the highest line
_LEFT = 1.0
_EDGE = 3.0
_LABEL_ROOM = 13.0  # percent of the height that a name needs between two lines
_NAME_ENDS = 30.0
_LABEL_REACH = 4.0  # percent of the width
_LOWEST_LABEL = 90.0
_NAMES = {
    "matched": ("before", ": pairs that contain the query"),
    "contained": ("after", ": pairs of the set that contain it"),
    "selected": ("selected", ", by the query itself"),
}
"""Column -> (name, what it means)."""
_LABEL_AT = 30.0  # percent of the width: there the lines of a balanced set are apart


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A value on an axis."""

    at: float
    text: str

    @property
    def anchor(self) -> str:
        """SVG's text-anchor: at an end the text must not leave the plot."""
        return "start" if self.at < _EDGE else "end" if self.at > 100 - _EDGE else "middle"


@dataclass(frozen=True, kw_only=True)
class Bin:
    """A bar of a histogram."""

    x: float
    width: float
    height: float
    says: str
    """For who points at it, or listens."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Bars that stand side by side."""

    bins: Sequence[Bin]
    ticks: Sequence[Tick]
    most: int
    """What the highest bar stands for."""
    says: str
    """In a sentence, for who cannot see it."""


@dataclass(frozen=True, kw_only=True)
class NameAt:
    """Where the name of a line is."""

    x: float
    is_above: bool
    """Whether it stands over the line, from x on; else under it, up to x, or from it on at the left end."""

    @property
    def anchor(self) -> str:
        """SVG's text-anchor. Lines fall to the right, so these are the sides on which a name misses its own."""
        return "start" if self.is_above or self.x < _EDGE else "end"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a curve, with its name beside it."""

    name: str
    more: str
    """What its name means, where there is room for it."""
    kind: str
    """A class of the stylesheet."""
    points: str
    place: NameAt
    label_y: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Lines over ranks, both axes logarithmic."""

    lines: Sequence[Line]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    cap: float | None
    """Where t is; None where there is none, or it is above all."""
    says: str


def histogram_of(
    counted: Sequence[tuple[float, int]], *, step: float, name: Callable[[float], str], what: str
) -> Histogram | None:
    """Bars for (where a bin begins, how many), bins without any between them included; None for no rows.

    `name` says a bin's beginning; `what` is counted.
    """
    if not counted:
        return None
    first, last = counted[0][0], counted[-1][0]
    number = round((last - first) / step) + 1
    counts = [0] * number
    for at, count in counted:
        counts[round((at - first) / step)] += count
    most, width = max(counts), 100 / number
    names = [name(first + i * step) for i in range(number)]
    bins = [
        Bin(
            x=round(i * width, 3),
            width=round(width, 3),
            height=_height(count, most),
            says=f"{names[i]}: {count:,} {what}",
        )
        for i, count in enumerate(counts)
    ]
    every = math.ceil(number / _LABELS_AT_MOST)
    shown = [i for i in range(0, number, every) if i == 0 or number - 1 - i >= every]
    ticks = [Tick(at=round((i + 0.5) * width, 2), text=names[i]) for i in dict.fromkeys((*shown, number - 1))]
    half = _median_bin(counts)
    says = f"{sum(counts):,} {what}; the middle one lies in {names[half]}, most in {names[counts.index(most)]}"
    return Histogram(bins=bins, ticks=ticks, most=most, says=says)


def _height(count: int, most: int) -> float:
    """Percent; what is there is seen, however little it is."""
    return max(round(100 * count / most, 1), 0.6) if count else 0.0


def _median_bin(counts: Sequence[int]) -> int:
    passed, half = 0, sum(counts) / 2
    for i, count in enumerate(counts):
        passed += count
        if passed >= half:
            return i
    return len(counts) - 1


def curve_of(rows: Sequence[Row], t: int | None, limit: str = "at most") -> Curve | None:
    """Pairs a query over its rank: what was matched, what each query selects, what the selected pairs contain.

    `limit` says what t is to a query.
    """
    if not rows:
        return None
    ranks = [int(row["rank"]) for row in rows]
    series = {column: tuple(float(row[column]) for row in rows) for column in ("matched", "contained", "selected")}
    top = max(10, *series["matched"]) * _HEADROOM
    x_of = _logarithmic(max(ranks[-1], 2), reverse=False)
    y_of = _logarithmic(top, reverse=True)
    cap = round(y_of(t), 1) if t is not None and t < top else None
    xs = [x_of(rank) for rank in ranks]
    ys = {column: [y_of(value) for value in values] for column, values in series.items()}
    places = {
        "matched": NameAt(x=_LABEL_AT, is_above=True),
        "contained": _name_between(xs, ys),
        "selected": NameAt(x=_LEFT, is_above=False),
    }
    lines = []
    for column, values in series.items():
        alike = [other for other in series if series[other] == values]
        if column != alike[0]:
            continue  # one line stands for all
        name = " = ".join(_NAMES[other][0] for other in alike if other in (column, "contained"))
        if column == "selected" and cap is not None:
            name += f": {limit} t = {t:,}"
        lines.append(
            Line(
                name=name,
                more=_NAMES[column][1] if len(alike) == 1 else "",
                kind=column,
                points=" ".join(f"{x:.2f},{y:.2f}" for x, y in zip(xs, ys[column], strict=True)),
                place=places[column],
                label_y=round(min(_height_of_name(xs, ys[column], places[column]), _LOWEST_LABEL), 1),
            )
        )
    says = (
        f"{ranks[-1]:,} queries with a match. The most frequent has {series['matched'][0]:,.0f} pairs before "
        f"balancing, selects {series['selected'][0]:,.0f} and keeps {series['contained'][0]:,.0f}."
    )
    return Curve(lines=lines, x_ticks=_decades(ranks[-1], x_of), y_ticks=_decades(top, y_of), cap=cap, says=says)


def _name_between(xs: Sequence[float], ys: Mapping[str, Sequence[float]]) -> NameAt:
    """For the name of the line between the two others: under it, or over it at its left where only there is room."""
    below = _near(xs, ys["selected"], _LABEL_AT) - _near(xs, ys["contained"], _LABEL_AT)
    above = _near(xs, ys["contained"], _LEFT) - _near(xs, ys["matched"], _LEFT)
    is_above = below < _LABEL_ROOM <= above
    return NameAt(x=_LEFT if is_above else _LABEL_AT, is_above=is_above)


def _height_of_name(xs: Sequence[float], ys: Sequence[float], place: NameAt) -> float:
    """Where the name of a line is to stand clear of it."""
    if place.x == _LEFT and not place.is_above:  # the line may fall to the right, into the name
        return max(y for x, y in zip(xs, ys, strict=True) if x <= _NAME_ENDS)
    return _near(xs, ys, place.x)


def _near(xs: Sequence[float], ys: Sequence[float], at: float) -> float:
    """Where a line is at most of the places around `at`."""
    near = sorted(y for x, y in zip(xs, ys, strict=True) if abs(x - at) <= _LABEL_REACH)
    nearest = min(range(len(xs)), key=lambda i: abs(xs[i] - at))
    return near[len(near) // 2] if near else ys[nearest]


def _logarithmic(top: float, *, reverse: bool) -> Callable[[float], float]:
    """From 1..top to 0..100, or 100..0; what is below 1 lies on the axis."""
    scale = 100 / math.log10(top)

    def at(value: float) -> float:
        place = math.log10(max(value, 1)) * scale
        return 100 - place if reverse else place

    return at


def _decades(top: float, at: Callable[[float], float]) -> list[Tick]:
    values = [10**power for power in range(int(math.log10(max(top, 1))) + 1)]
    return [Tick(at=round(at(value), 1), text=_short(value)) for value in values]


def _short(value: int) -> str:
    for size, letter in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if value >= size:
            return f"{value // size}{letter}"
    return str(value)

"""The page of results: what was found in words, the intervals and the curves, one HTML file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.terminal.html import page_environment

if TYPE_CHECKING:
    from training.experiment.results import ArmResult, Comparison, Results
    from training.experiment.statistics import Interval

__all__ = ["page_of", "paragraphs", "power_of"]

_COLOURS = ("#1f6feb", "#d1583b", "#2a8c57", "#8250df", "#b58400", "#57606a", "#c2387a", "#0b7d8c")


def paragraphs(results: Results) -> list[str]:
    """One for each arm but the baseline: what the intervals say, and what they do not."""
    return [_paragraph(name, arm, results) for name, arm in results.arms.items() if arm.against]


def power_of(results: Results, *, wanted: int) -> str:
    """What two seeds say of how many would show a difference of `points`, beside the `wanted` ones."""
    found = {
        f"{measure} of {name}": comparison.seeds_needed
        for name, arm in results.arms.items()
        for measure, comparison in arm.against.items()
    }
    enough = sum(needed is not None and needed <= wanted for needed in found.values())
    return (
        f"by the spread of {results.seeds} seeds, {wanted} show a difference of {results.points:g} points "
        f"(in 4 of 5 cases) in {enough} of {len(found)} comparisons"
    )


def _paragraph(name: str, arm: ArmResult, results: Results) -> str:
    clear = [measure for measure, found in arm.against.items() if found.difference.is_clear]
    rest = [measure for measure in arm.against if measure not in clear]
    parts = (
        [f"{name} against {results.baseline}: " + "; ".join(_clear(m, arm.against[m]) for m in clear) + "."]
        if clear
        else []
    )
    if rest and results.seeds == 1:
        parts.append(f"{name} against {results.baseline}: one seed says nothing of the spread; take at least two.")
    elif rest:
        listed = "; ".join(_unclear(measure, arm.against[measure]) for measure in rest)
        head = "no difference" if clear else f"{name} against {results.baseline}: no difference"
        parts.append(f"{head.capitalize() if clear else head} in {listed}.")
        needed = [arm.against[measure].seeds_needed for measure in rest]
        if any(n is None or n > results.seeds for n in needed):
            most = "more than 50" if None in needed else str(max(n for n in needed if n is not None))
            parts.append(f"To show {results.points:g} points in all of these would take {most} seeds.")
    if arm.compute_saved is not None and results.measures[0] in clear:
        better = name if arm.curve[-1][1] > results.arms[results.baseline].curve[-1][1] else results.baseline
        parts.append(f"{better} reaches the other's best top-1 with {arm.compute_saved:.0%} fewer samples seen.")
    return " ".join(parts)


def _clear(measure: str, found: Comparison) -> str:
    word = "better" if found.difference.mean > 0 else "worse"
    beyond = "" if found.beyond.is_clear else f"; on other classes of the kind {_bounds(found.beyond)}"
    return f"{word} in {measure} by {_points(abs(found.difference.mean))} points ({_bounds(found.difference)}{beyond})"


def _unclear(measure: str, found: Comparison) -> str:
    return f"{measure} ({_bounds(found.difference)})"


def _bounds(found: Interval) -> str:
    return f"{_signed(found.low)} to {_signed(found.high)}"


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _signed(share: float) -> str:
    return "unknown" if math.isnan(share) else f"{100 * share:+.1f}"


def page_of(results: Results) -> str:
    """The HTML."""
    environment = page_environment(Path(__file__).parent)
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(results.arms)}
    return environment.get_template("results.html").render(
        results=results,
        colours=colours,
        paragraphs=paragraphs(results),
        intervals=list(_intervals(results)),
        curves=_curves(results),
        percent=lambda values: f"{100 * sum(values) / len(values):.1f}",
        spread=_spread,
    )


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    mean = sum(values) / len(values)
    return f"± {100 * math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)):.1f}"


_WIDTH, _ROW, _LEFT, _RIGHT = 720, 22, 130, 20


def _intervals(results: Results) -> Iterator[dict[str, object]]:
    """Of each measure: a drawing of every arm's difference from the baseline."""
    for measure in results.measures:
        found = {name: arm.against[measure] for name, arm in results.arms.items() if measure in arm.against}
        bounds = [b for f in found.values() for b in (f.beyond.low, f.beyond.high, f.difference.mean)]
        most = max((abs(bound) for bound in bounds if not math.isnan(bound)), default=0.01) * 1.1 or 0.01

        def x(share: float, most: float = most) -> float:
            return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * (share + most) / (2 * most), 1)

        rows = [
            {
                "name": name,
                "y": 14 + _ROW * number,
                "mean": x(f.difference.mean),
                "seeds": [x(b) for b in (f.difference.low, f.difference.high) if not math.isnan(b)],
                "beyond": [x(b) for b in (f.beyond.low, f.beyond.high) if not math.isnan(b)],
                "says": f"{_signed(f.difference.mean)} ({_bounds(f.difference)})",
            }
            for number, (name, f) in enumerate(found.items())
        ]
        step = 10 ** math.floor(math.log10(most * 100))
        ticks = [tick * step for tick in range(-9, 10) if abs(tick * step) <= most * 100]
        marks = [{"x": x(tick / 100), "says": f"{tick:+g}" if tick else "0"} for tick in ticks]
        yield {"measure": measure, "rows": rows, "zero": x(0), "height": 24 + _ROW * len(rows), "ticks": marks}


def _curves(results: Results) -> dict[str, object] | None:
    """Top-1 against samples seen, a line an arm."""
    lines = {name: arm.curve for name, arm in results.arms.items() if len(arm.curve) > 1}
    if not lines:
        return None
    samples = max(curve[-1][0] for curve in lines.values())
    most = max(value for curve in lines.values() for _, value in curve) * 1.05 or 1.0
    height = 260

    def point(seen: int, value: float) -> str:
        x = 50 + (_WIDTH - 70) * seen / samples
        return f"{x:.1f},{height - 30 - (height - 50) * value / most:.1f}"

    step = max(1, math.ceil(most * 100 / 6))
    ticks = [
        {"y": float(point(0, t / 100).split(",")[1]), "says": f"{t} %"} for t in range(0, int(most * 100) + 1, step)
    ]
    return {
        "height": height,
        "lines": {name: " ".join(point(*at) for at in curve) for name, curve in lines.items()},
        "ticks": ticks,
        "samples": f"{samples:,}",
    }

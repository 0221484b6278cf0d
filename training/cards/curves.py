"""The curves of RUN/log.jsonl as one SVG: loss, learning rate, and each evaluation's figures, over samples seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["curves_svg"]

_WIDTH, _HEIGHT, _LEFT, _GAP = 760, 180, 60, 44
_COLOURS = ("#1f57c8", "#d62728", "#2ca02c", "#8028a0")
_PANELS = (
    ("loss", ("loss",)),
    ("learning rate", ("learning_rate",)),
    ("evaluation", ("zeroshot_top1", "image_to_text_recall_at_1", "text_to_image_recall_at_1")),
)


def curves_svg(lines: Sequence[Mapping[str, Any]]) -> str | None:
    """`lines` of the log, in order; None where none has a figure to draw."""
    panels = []
    for title, names in _PANELS:
        found = {name: _points(lines, name) for name in names}
        if any(found.values()):
            panels.append((title, {name: points for name, points in found.items() if points}))
    if not panels:
        return None
    longest = max(x for _, series in panels for points in series.values() for x, _ in points)
    height = len(panels) * (_HEIGHT + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    for number, (title, series) in enumerate(panels):
        parts += _panel(title, series, longest, top=number * (_HEIGHT + _GAP) + 22)
    return "\n".join([*parts, "</svg>", ""])


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(line["samples_seen"], line[name]) for line in lines if isinstance(line.get(name), (int, float))]


def _panel(title: str, series: Mapping[str, list[tuple[int, float]]], longest: int, *, top: int) -> list[str]:
    values = [value for points in series.values() for _, value in points]
    low, high = min(0.0, *values), max(values) or 1.0
    width, bottom = _WIDTH - _LEFT - 20, top + _HEIGHT - 16

    def place(point: tuple[int, float]) -> str:
        x = _LEFT + width * point[0] / max(longest, 1)
        y = bottom - (bottom - top) * (point[1] - low) / max(high - low, 1e-12)
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<text x="{_LEFT}" y="{top - 8}" font-weight="bold">{escape(title)}</text>',
        f'<path d="M{_LEFT} {top}V{bottom}H{_LEFT + width}" fill="none" stroke="#888"/>',
        f'<text x="{_LEFT - 6}" y="{top + 10}" text-anchor="end">{high:.3g}</text>',
        f'<text x="{_LEFT - 6}" y="{bottom}" text-anchor="end">{low:.3g}</text>',
        f'<text x="{_LEFT + width}" y="{bottom + 15}" text-anchor="end">{longest:,} samples</text>',
    ]
    right = _LEFT + width
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        drawn = " ".join(map(place, points))
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if len(points) == 1:  # a line of one point is none
            x, y = place(points[0]).split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
        if len(series) > 1:
            label = f"{escape(name.replace('_', ' '))} {points[-1][1]:.3g}"
            parts.append(
                f'<text x="{right}" y="{top + 12 + 15 * number}" fill="{colour}" text-anchor="end">{label}</text>'
            )
    return parts

"""Results as one HTML page: results.html with the figures as bars, beside this file.

Every value that the template prints is escaped for HTML, and for the eye: names of classes, models and sets are other
people's. The same pairs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.terminal.html import page_environment
from training.evaluation.compare import Pair

__all__ = ["render"]

_TEMPLATES = Path(__file__).parent
_SHOWN = 10
"""Classes and confusions a model."""
_CHARTS: Mapping[str, str] = {
    "zeroshot_top1": "zero-shot, top-1",
    "zeroshot_top5": "zero-shot, top-5",
    "zeroshot_mean_per_class": "zero-shot, mean per class",
    "linear_probe_top1": "linear probe, top-1",
    "image_to_text_recall_at_1": "picture to text, recall at 1",
    "image_to_text_recall_at_5": "picture to text, recall at 5",
    "text_to_image_recall_at_1": "text to picture, recall at 1",
    "text_to_image_recall_at_5": "text to picture, recall at 5",
    "clip_score": "CLIP score",
    "caption_token_accuracy": "captions, tokens that come first",
}
"""Metric -> the title of its chart."""


@dataclass(frozen=True, kw_only=True)
class _Bar:
    """One model in a chart; percent of the plot."""

    model: str
    value: float
    chance: float
    low: float | None
    """Where the worst single template stands; None without templates."""
    high: float | None


@dataclass(frozen=True, kw_only=True)
class _Set:
    """All that is shown of one set."""

    path: str
    about: Mapping[str, Any]
    charts: Sequence[tuple[str, Sequence[_Bar]]]
    pairs: Sequence[Pair]


def render(pairs: Sequence[Pair]) -> str:
    """The HTML of `pairs`."""
    environment = page_environment(_TEMPLATES)
    environment.filters |= {"percent": _percent, "number": lambda value: f"{value:,}"}
    page = environment.get_template("results.html")
    return page.render(
        sets=[_set(path, pairs) for path in dict.fromkeys(pair.set for pair in pairs)],
        models=len({pair.model for pair in pairs}),
        worst=_worst,
        confusions=lambda pair: pair.found["confusions"][:_SHOWN],
    )


def _set(path: str, pairs: Sequence[Pair]) -> _Set:
    own = [pair for pair in pairs if pair.set == path]
    charts = []
    for metric, title in _CHARTS.items():
        bars = [_bar(pair, metric) for pair in own if metric in pair.metrics]
        if bars:
            charts.append((title, bars))
    return _Set(path=path, about=own[0].found["set"], charts=charts, pairs=own)


def _bar(pair: Pair, metric: str) -> _Bar:
    metrics = pair.metrics
    spread = [metrics.get(f"{metric}_{which}_template") for which in ("worst", "best")]
    low, high = (None if found is None else round(100 * found["value"], 2) for found in spread)
    own = metrics[metric]
    return _Bar(
        model=pair.model,
        value=round(100 * own["value"], 2),
        chance=round(100 * own["chance"], 2),
        low=low,
        high=high,
    )


def _worst(pair: Pair) -> list[Mapping[str, Any]]:
    """The classes that are recognised least, of those that have pictures."""
    present = [row for row in pair.found["classes"] if row["examples"]]
    return sorted(present, key=lambda row: (row["top1"], row["number"]))[:_SHOWN]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}\u00a0%"

"""What an experiment found: every arm's accuracy, held against the baseline's seed by seed.

read-outs {(arm, seed): metrics, classes, curve} --> Results --> OUT/results.json, .parquet, .html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import one_line
from pipeline.storage.atomic import write_bytes, write_json
from pipeline.storage.written import written
from training.errors import EvaluationError
from training.experiment.config import ExperimentConfig
from training.experiment.page import page_of
from training.experiment.statistics import (
    Floats,
    Interval,
    compute_saved,
    over_seeds,
    over_seeds_and_classes,
    seeds_needed,
)

__all__ = ["ArmResult", "Comparison", "Results", "compared", "write_results"]

_OF_ALL = "all classes"
_RETRIEVAL = {"image_to_text_recall_at_1": "image to text, R@1", "text_to_image_recall_at_1": "text to image, R@1"}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An arm against the baseline, by one measure."""

    difference: Interval
    """In [-1, 1]; what other seeds would give on the same classes."""
    beyond: Interval
    """And on other classes of the kind."""
    seeds_needed: int | None
    """To show `ExperimentConfig.points`; None for more than 50, or where one seed tells nothing."""


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One arm."""

    says: str
    values: dict[str, list[float]]
    """By measure: one for each seed."""
    against: dict[str, Comparison]
    """By measure; empty for the baseline."""
    curve: list[tuple[int, float]]
    """(samples seen, top-1), means over seeds."""
    compute_saved: float | None
    """Of the better of arm and baseline, see `statistics.compute_saved`."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """All arms, in the order of the config."""

    baseline: str
    seeds: int
    points: float
    chance: float | None
    """Of all classes."""
    arms: dict[str, ArmResult]

    @property
    def measures(self) -> list[str]:
        """By which arms are compared."""
        return list(next(iter(self.arms.values())).values)


def compared(config: ExperimentConfig, read_outs: Mapping[tuple[str, int], Mapping[str, Any]]) -> Results:
    """Arms held against the baseline, by the read-outs of all of their seeds. Raises EvaluationError."""
    tiers = {} if config.read_out.classes is None else _tiers(config.read_out.classes)
    measured = {name: _measured([read_outs[name, s] for s in range(config.seeds)], tiers) for name in config.arms}
    curves = {name: _mean_curve([read_outs[name, s]["curve"] for s in range(config.seeds)]) for name in config.arms}
    base, arms = measured[config.baseline], {}
    for name, values in measured.items():
        against = {}
        for measure, value_SC in values.items() if name != config.baseline else ():
            difference_S = (value_SC - base[measure]).mean(axis=1)
            needed = seeds_needed(list(difference_S), config.points / 100) if config.seeds > 1 else None
            difference = over_seeds(value_SC, base[measure])
            beyond = over_seeds_and_classes(value_SC, base[measure]) if value_SC.shape[1] > 1 else difference
            against[measure] = Comparison(difference=difference, beyond=beyond, seeds_needed=needed)
        saved = (
            compute_saved(curves[name], curves[config.baseline]) if curves[name] and name != config.baseline else None
        )
        arms[name] = ArmResult(
            says=config.arms[name].says,
            values={measure: [float(v) for v in value_SC.mean(axis=1)] for measure, value_SC in values.items()},
            against=against,
            curve=curves[name],
            compute_saved=saved,
        )
    classes = len(next(iter(read_outs.values()))["classes"])
    return Results(
        baseline=config.baseline,
        seeds=config.seeds,
        points=config.points,
        chance=1 / classes if classes else None,
        arms=arms,
    )


def _measured(read_outs: Sequence[Mapping[str, Any]], tiers: Mapping[str, str]) -> dict[str, Floats]:
    """Measure -> [S, C] by class, or [S, 1] of a metric of the whole set."""
    names = list(read_outs[0]["classes"])
    by_class_SC = np.array([[_share(found["classes"][name]) for name in names] for found in read_outs], np.float64)
    measured: dict[str, Floats] = {}
    if names:
        measured[_OF_ALL] = by_class_SC
        of_class = np.array([tiers.get(name, "") for name in names])
        for tier in dict.fromkeys(tiers.values()):
            if (of_class == tier).any():
                measured[f"{tier} classes"] = by_class_SC[:, of_class == tier]
    for metric, called in _RETRIEVAL.items():
        if metric in read_outs[0]["metrics"]:
            measured[called] = np.array([[found["metrics"][metric]] for found in read_outs])
    return measured


def _share(right_of: Sequence[int]) -> float:
    right, examples = right_of
    return right / examples


def _mean_curve(curves: Sequence[Sequence[Sequence[float]]]) -> list[tuple[int, float]]:
    by_seed = [{int(samples): value for samples, value in curve} for curve in curves]
    shared = sorted(set.intersection(*(set(curve) for curve in by_seed)))
    return [(samples, float(np.mean([curve[samples] for curve in by_seed]))) for samples in shared]


def _tiers(path: str) -> dict[str, str]:
    """Class name -> head, the tenth that the data shows most; middle, the next four tenths; tail."""
    try:
        rows = pq.read_table(path, columns=["name", "links"]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise EvaluationError(f"read_out.classes: {path}: needs columns name and links ({one_line(error)})") from error
    names = [row["name"] for row in sorted(rows, key=lambda row: (-row["links"], row["name"]))]
    bounds = [round(len(names) * share) for share in (0.1, 0.5)]
    return {name: "head" if n < bounds[0] else "middle" if n < bounds[1] else "tail" for n, name in enumerate(names)}


def write_results(
    results: Results, read_outs: Mapping[tuple[str, int], Mapping[str, Any]], output: Path, *, name: str = "results"
) -> None:
    """Write OUT/NAME.json, .parquet (arm, seed, metric, value) and .html, the last one last."""
    write_json(output / f"{name}.json", asdict(results))
    rows = [
        {"arm": arm, "seed": seed, "metric": metric, "value": value}
        for (arm, seed), found in read_outs.items()
        for metric, value in {
            **found["metrics"],
            **{f"accuracy of {name}": _share(right_of) for name, right_of in found["classes"].items()},
        }.items()
    ]
    with written(output / f"{name}.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
    write_bytes(output / f"{name}.html", page_of(results).encode())

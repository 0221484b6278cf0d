"""One config, several seeds: what the accuracy is on average, and how far it spreads.

RUN/seed-0, RUN/seed-1 ... --metrics of each--> RUN/seeds.json
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from rich.table import Table

from pipeline.storage.atomic import write_json
from pipeline.storage.place import place_of
from pipeline.terminal.console import PrintableConsole
from training.config import TrainConfig
from training.distributed import is_first_process
from training.evaluation.metrics import Metric
from training.train import Result

__all__ = ["Spread", "show_spreads", "spread_of", "train_seeds"]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One metric over the seeds."""

    values: tuple[float, ...]
    mean: float
    deviation: float
    """Standard deviation of the values (n - 1), 0 for one of them."""
    chance: float


def train_seeds(
    config: TrainConfig, seeds: int, train: Callable[[TrainConfig], Result]
) -> tuple[Result, Mapping[str, Spread]]:
    """Train with `config.seed` and the seeds after it, one after the other, each in a directory of its own; those that
    are finished are only measured again. (The last result, what they gave by metric: empty when one was stopped.)

    Raises what `train` does.
    """
    found: list[list[Metric]] = []
    root = place_of(config.output)
    for seed in range(config.seed, config.seed + seeds):
        result = train(replace(config, seed=seed, output=str(root / f"seed-{seed}")))
        if result.stopped_by is not None:
            return result, {}
        found.append(result.metrics)
    spreads = spread_of(found)
    if is_first_process():
        write_json(root / "seeds.json", {name: asdict(spread) for name, spread in spreads.items()})
    return result, spreads


def spread_of(metrics: Sequence[Sequence[Metric]]) -> dict[str, Spread]:
    """By name; `metrics` of each seed."""
    spreads = {}
    for same in zip(*metrics, strict=True):
        values = tuple(metric.value for metric in same)
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        name, chance = same[0].name, same[0].chance
        spreads[name] = Spread(values=values, mean=statistics.fmean(values), deviation=deviation, chance=chance)
    return spreads


def show_spreads(spreads: Mapping[str, Spread], *, title: str) -> None:
    """Print them to standard output."""
    table = Table(title=title)
    table.add_column("metric")
    for name in ("mean", "deviation", "lowest", "highest", "chance"):
        table.add_column(name, justify="right")
    for name, spread in spreads.items():
        figures = (spread.mean, spread.deviation, min(spread.values), max(spread.values), spread.chance)
        table.add_row(name.replace("_", " "), *(f"{figure:.2%}" for figure in figures))
    PrintableConsole(file=sys.stdout).print(table)

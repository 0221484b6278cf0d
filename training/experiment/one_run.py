"""One training of an experiment, and what it is worth: a process of its own.

python -m training.experiment.one_run RUN.yaml      train, or go on; then RUN/read_out.json, written last
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.load import ConfigError, from_mapping, load
from pipeline.errors import PipelineError
from pipeline.storage.atomic import write_json
from pipeline.terminal.printable import say
from training.config import TrainConfig
from training.errors import TrainingError
from training.experiment.config import ReadOut

__all__ = ["READ_OUT", "OneRun", "main"]

READ_OUT = "read_out.json"
"""In a run's directory: metrics {name: value}, classes {name: [right, examples]}, curve [[samples seen, top1], ...]."""


@dataclass(frozen=True, kw_only=True)
class OneRun:
    """What a process is told."""

    train: dict[str, Any]
    read_out: ReadOut


def main(arguments: list[str]) -> int:
    """The exit status: 0, 2 for an error, 128 + signal where the training was stopped."""
    try:
        told = load(OneRun, arguments[0])
        config = from_mapping(TrainConfig, told.train)
        from training.train import train

        # The read-out measures what was learnt in the end, class by class.
        result = train(replace(config, evaluation=replace(config.evaluation, at_end=False)))
        if result.stopped_by is not None:
            return 128 + result.stopped_by
        found = _read_out(config, told.read_out)
        found["curve"] += (
            [(result.progress.samples_seen, found["metrics"]["zeroshot_top1"])] if found["classes"] else []
        )
        write_json(Path(config.output) / READ_OUT, found)
    except (ConfigError, TrainingError, PipelineError, OSError) as error:
        say(f"error: {error}", to=sys.stderr)
        return 2
    return 0


def _read_out(config: TrainConfig, wanted: ReadOut) -> dict[str, Any]:
    from training.distributed import World
    from training.evaluation.config import EvaluateOptions
    from training.evaluation.measure import Prompts, measure
    from training.evaluation.sets.open import open_set
    from training.learning.pretrained import load_model

    model = load_model(config.output, device=config.device, precision=config.precision)
    world = World(device=model.device)
    prompts = Prompts(model=model, batch_size=config.evaluation.batch_size, world=world)
    metrics: dict[str, float] = {}
    classes: dict[str, tuple[int, int]] = {}
    for path, is_named in ((config.evaluation.path, True), (wanted.retrieval, False)):
        if path is not None:
            options = EvaluateOptions(models=(config.output,), sets=(path,), batch_size=config.evaluation.batch_size)
            found = measure(open_set(path), prompts, options, world)
            metrics |= {m.name: m.value for m in found.metrics if is_named or "recall" in m.name}
            right = {c.name: (round(c.top1 * c.examples), c.examples) for c in found.classes if c.top1 is not None}
            classes |= right if is_named else {}
    return {"metrics": metrics, "classes": classes, "curve": _curve(Path(config.output) / "log.jsonl")}


def _curve(log: Path) -> list[tuple[int, float]]:
    """Of the evaluations before the end."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [(line["samples_seen"], line["zeroshot_top1"]) for line in lines if "zeroshot_top1" in line]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

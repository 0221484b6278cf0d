"""`python -m training run|evaluate|export CONFIG.yaml [--section.key value ...]`."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from configs.load import ConfigError, describe, load
from pipeline.printable import say

_USAGE = """usage: python -m training COMMAND CONFIG.yaml [--section.key value ...]

commands:
  run        train, or go on from the last checkpoint; then evaluate
  evaluate   measure the last checkpoint again, on --evaluation.path
  export     write the last checkpoint to OUTPUT/export, for open_clip's local-dir:OUTPUT/export

Several processes: torchrun --nproc-per-node 2 -m training run CONFIG.yaml
"""


def main(arguments: Sequence[str]) -> int:
    """Run one command; the exit status is 0, 2 for an error, 128 + signal when stopped."""
    from training.errors import TrainingError

    words = list(arguments)
    wants_help = not words or any(word in ("-h", "--help", "help") for word in words)
    if wants_help:
        from training.config import TrainConfig

        with contextlib.suppress(BrokenPipeError):  # whoever read it has seen enough
            print(f"{_USAGE}\noptions:\n{describe(TrainConfig)}", flush=True)
        return 0 if words else 2
    command, *rest = words
    try:
        if command not in ("run", "evaluate", "export"):
            raise ConfigError(f"unknown command {command!r}; use run, evaluate or export")
        path = rest.pop(0) if rest and not rest[0].startswith("--") else None
        return _execute(command, path, rest)
    except (ConfigError, TrainingError) as error:
        say(f"error: {error}", to=sys.stderr)
        return 2
    except KeyboardInterrupt:  # under Ray, whose own handler takes the signal
        return 128 + signal.SIGINT
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"error: {where}{error.strerror or error}", to=sys.stderr)
        return 2


def _execute(command: str, path: str | None, overrides: list[str]) -> int:
    from training.config import TrainConfig

    config = load(TrainConfig, path, overrides)
    if command == "run":
        from training.run.log import show_metrics

        if config.launcher == "ray":
            from training.launch_ray import train_on_ray as train
        else:
            from training.train import train
        result = train(config)
        if result.stopped_by is not None:
            return 128 + result.stopped_by
        from training.distributed import is_first_process

        if result.metrics and is_first_process():
            show_metrics(result.metrics, title=f"{config.output} after {result.progress.samples_seen:,} samples")
        return 0
    from training.checkpoints.layout import find_last
    from training.errors import CheckpointError

    last, problems = find_last(Path(config.output) / "checkpoints")
    for problem in problems:
        say(f"warning: {problem}", to=sys.stderr)
    if last is None:
        raise CheckpointError(f"{config.output}: no whole checkpoint there; train first, or set --output")
    if command == "export":
        from training.export import export

        target = export(last, model=config.model.name, directory=Path(config.output) / "export")
        say(f"wrote {target}: open_clip.create_model_and_transforms('local-dir:{target}')")
        return 0
    from training.evaluation.evaluate import evaluate_checkpoint
    from training.run.log import show_metrics, write_metrics

    if config.threads is not None:
        import torch

        torch.set_num_threads(config.threads)
    metrics, progress = evaluate_checkpoint(
        config.evaluation, last, config.model, config.loss, config.precision, config.device
    )
    write_metrics(
        Path(config.output) / "metrics.json", metrics, samples_seen=progress.samples_seen, model=progress.model_name
    )
    show_metrics(metrics, title=f"{last} after {progress.samples_seen:,} samples")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m training run|plan|evaluate|export CONFIG.yaml [--section.key value ...]`."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from configs.load import ConfigError, describe, load
from pipeline.errors import PipelineError
from pipeline.storage.place import place_of
from pipeline.terminal.printable import say
from training.config import TrainConfig
from training.errors import CheckpointError, TrainingError

_USAGE = """usage: python -m training COMMAND CONFIG.yaml [--section.key value ...]

commands:
  run        train, or go on from the last checkpoint; then evaluate
  plan       say what the run will take: parameters, memory by kind, samples, steps, queries
  evaluate   measure the last checkpoint again, on --evaluation.path
  export     write the last checkpoint to OUTPUT/export, for open_clip's local-dir:OUTPUT/export

Several processes: torchrun --nproc-per-node 2 -m training run CONFIG.yaml
"""


def main(arguments: Sequence[str]) -> int:
    """Run one command; the exit status is 0, 2 for an error, 128 + signal when stopped."""
    words = list(arguments)
    wants_help = not words or any(word in ("-h", "--help", "help") for word in words)
    if wants_help:
        with contextlib.suppress(BrokenPipeError):  # whoever read it has seen enough
            print(f"{_USAGE}\noptions:\n{describe(TrainConfig)}", flush=True)
        return 0 if words else 2
    name, *rest = words
    try:
        if name not in _COMMANDS:
            raise ConfigError(f"unknown command {name!r}; use run, plan, evaluate or export")
        path = rest.pop(0) if rest and not rest[0].startswith("--") else None
        return _COMMANDS[name](load(TrainConfig, path, rest))
    except (ConfigError, TrainingError, PipelineError) as error:  # the last is of a bucket
        say(f"error: {error}", to=sys.stderr)
        return 2
    except KeyboardInterrupt:  # under Ray, whose own handler takes the signal
        return 128 + signal.SIGINT
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"error: {where}{error.strerror or error}", to=sys.stderr)
        return 2


# Each command imports what it works with: torch alone takes seconds, and neither help nor a mistake shall wait for it.


def _run(config: TrainConfig) -> int:
    from training.distributed import is_first_process
    from training.run.log import show_metrics

    if config.launcher == "ray":
        from training.launch_ray import train_on_ray as train
    else:
        from training.train import train
    result = train(config)
    if result.stopped_by is not None:
        return 128 + result.stopped_by
    if result.metrics and is_first_process():
        show_metrics(result.metrics, title=f"{config.output} after {result.progress.samples_seen:,} samples")
    return 0


def _plan(config: TrainConfig) -> int:
    from training.plan import plan

    for line in plan(config):
        say(line)
    return 0


def _evaluate(config: TrainConfig) -> int:
    with _last_checkpoint(config) as last:
        from training.evaluation.evaluate import evaluate_checkpoint
        from training.run.log import show_metrics, write_metrics

        if config.threads is not None:
            import torch

            torch.set_num_threads(config.threads)
        metrics, progress = evaluate_checkpoint(
            config.evaluation, last, config.model, config.method, config.loss, config.precision, config.device
        )
    root = place_of(config.output)
    write_metrics(root / "metrics.json", metrics, samples_seen=progress.samples_seen, model=progress.model_name)
    show_metrics(metrics, title=f"{root / 'checkpoints' / last.name} after {progress.samples_seen:,} samples")
    return 0


def _export(config: TrainConfig) -> int:
    with _last_checkpoint(config) as last:
        from training.export import export

        target = export(
            last,
            model=config.model.name,
            directory=place_of(config.output) / "export",
            normalisation=config.model.normalisation,
        )
    where = target if isinstance(target, Path) else "A COPY OF IT ON A DISK"
    say(f"wrote {target}: open_clip.create_model_and_transforms('local-dir:{where}')")
    return 0


@contextlib.contextmanager
def _last_checkpoint(config: TrainConfig) -> Iterator[Path]:
    """The last whole checkpoint, of a run in a bucket as a copy for the moment. Raises CheckpointError, OSError."""
    from pipeline.storage.copies import scratch_files
    from training.checkpoints.in_bucket import last_here

    with contextlib.ExitStack() as stack:
        root = place_of(config.output)
        copies = root if isinstance(root, Path) else stack.enter_context(scratch_files())
        last, problems = last_here(root / "checkpoints", copies)
        for problem in problems:
            say(f"warning: {problem}", to=sys.stderr)
        if last is None:
            raise CheckpointError(f"{config.output}: no whole checkpoint there; train first, or set --output")
        yield last


_COMMANDS: Mapping[str, Callable[[TrainConfig], int]] = {
    "run": _run,
    "plan": _plan,
    "evaluate": _evaluate,
    "export": _export,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

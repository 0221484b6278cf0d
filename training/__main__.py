"""`python -m training run|plan|evaluate|export CONFIG.yaml [--section.key value ...]`."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from configs.help import ask_for_help, help_page
from configs.load import ConfigError, load
from configs.presets import no_preset, preset
from configs.system import check_system
from pipeline.errors import PipelineError
from pipeline.storage.place import place_of
from pipeline.terminal.printable import printable, say
from training.config import TrainConfig
from training.errors import CheckpointError, TrainingError

_PACKAGES = ("open_clip", "safetensors", "tensorboard", "timm", "torch", "torchvision")
"""The modules of the extra `train`."""
_USAGE = """usage: python -m training COMMAND CONFIG.yaml [--section.key value ...]

commands:
  run        train, or go on from the last checkpoint; then evaluate
  plan       say what the run will take: memory by kind, samples, steps, queries;
             needs no GPU and no data
  evaluate   measure the last checkpoint again, on --evaluation.path
  export     write the last checkpoint to OUTPUT/export, for open_clip's
             local-dir:OUTPUT/export

CONFIG.yaml may be a preset's word instead: sample, clip-vit-b-32 ...
Several processes: torchrun --nproc-per-node 2 -m training run CONFIG.yaml
"""
_SAYS = {
    "run": "Train, or go on from the last checkpoint; then evaluate.",
    "plan": "Say what the run will take: memory by kind, samples, steps, queries.\nNeeds no GPU and no data.",
    "evaluate": "Measure the last checkpoint again, on --evaluation.path.",
    "export": "Write the last checkpoint to OUTPUT/export, for open_clip's\nlocal-dir:OUTPUT/export.",
}
_NEEDED = (
    *("output", "data.path", "model.name", "epochs", "samples", "global_batch_size"),
    *("optimiser.learning_rate", "evaluation.path"),
)
"""Options on the first page of help."""


def main(arguments: Sequence[str], *, called: str | None = None) -> int:
    """Run one command; the exit status is 0, 2 for an error, 128 + signal when stopped. `called` is what the user wrote
    for it, if not `python -m training`."""
    words = list(arguments)
    try:
        asked, topic = ask_for_help(words)
        if asked or not words or words[0] == "help":
            with contextlib.suppress(BrokenPipeError):  # whoever read it has seen enough
                _help(words[0] if words else "", called, topic)
            return 0 if words else 2
        check_system()
        name, *rest = words
        if name not in _COMMANDS:
            raise ConfigError(f"unknown command {name!r}; use run, plan, evaluate or export")
        path = _config_path(rest.pop(0)) if rest and not rest[0].startswith("--") else None
        config = load(TrainConfig, path, rest)
        _check_installed()
        return _COMMANDS[name](config)
    except (ConfigError, TrainingError, PipelineError) as error:  # the last is of a bucket
        say(f"error: {error}", to=sys.stderr)
        return 2
    except KeyboardInterrupt:  # under Ray, whose own handler takes the signal
        return 128 + signal.SIGINT
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"error: {where}{error.strerror or error}", to=sys.stderr)
        return 2


def _help(name: str, called: str | None, topic: str | None) -> None:
    page = help_page(TrainConfig, topic, needed=_NEEDED)
    usage = _USAGE
    if called is not None and name in _SAYS:
        usage = f"{called} CONFIG.yaml [--section.key value ...]\n\n{_SAYS[name]}\n"
    print(printable(page if topic else f"{usage}\n{page}"), flush=True)


def _config_path(word: str) -> str:
    """The file that `word` names: a path, or a preset. Raises ConfigError."""
    if Path(word).suffix in (".yaml", ".yml"):
        return word
    if (file := preset("train", word)) is not None:
        return str(file)
    if not Path(word).exists():
        raise ConfigError(f"{word}: no config here; {no_preset('train', word)}")
    return word


def _check_installed() -> None:
    """Raises TrainingError where a package of the extra `train` is missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainingError(
            f"the trainer is not installed here ({', '.join(missing)} missing); run `make setup-train` in a checkout, "
            "elsewhere pip install 'openwit[train]'"
        )


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

"""`evaluate MODEL [MODEL ...] --sets '[DIR, LIST]'`: many models on many sets. `evaluate CONFIG.yaml`: the last
checkpoint of a run on the sets of its config."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.storage.place import place_of
from pipeline.terminal.printable import say
from training.commands.installed import check_installed
from training.commands.launched import launched
from training.commands.words import is_config, last_checkpoint, options_with_places, train_config
from training.evaluation.config import EvaluateOptions

__all__ = ["NEEDED", "OPTIONS", "run"]

OPTIONS = EvaluateOptions
NEEDED = ("models", "sets", "to", "probe")


def run(words: Sequence[str]) -> int:
    """The exit status. Raises ConfigError, TrainingError, PipelineError."""
    is_of_run = not words or is_config(words[0]) or words[0].startswith("--")
    return _evaluate_run(words) if is_of_run else _evaluate_models(words)


def _evaluate_models(words: Sequence[str]) -> int:
    options = options_with_places(EvaluateOptions, words, ["models..."])
    check_installed()
    from training.distributed import is_first_process
    from training.evaluation.results import show_pairs, write_results

    output = options.to or options.sets[0]
    pairs = launched("training.evaluation.compare:compare", options, output=output, doing="evaluating")
    if not is_first_process():
        return 0
    if options.to is not None:
        write_results(place_of(options.to), pairs)
    show_pairs(pairs)
    if options.to is not None:
        known = sum(pair.is_known for pair in pairs)
        say(
            f"wrote {place_of(options.to) / 'results.html'}"
            + (f"; {known} of {len(pairs)} known before" if known else "")
        )
    return 0


def _evaluate_run(words: Sequence[str]) -> int:
    config = train_config(words)
    check_installed()
    with last_checkpoint(config.output) as last:
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

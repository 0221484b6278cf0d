"""The training loop, top to bottom.

    config -> model -> loss -> optimiser -> data -> [ step -> log -> evaluate -> save ] -> final evaluation
    `------------------ begin ------------------'

What can be wrong with the config is found before the data is looked at (`run/begin.py` has the order). A run's whole
state is its weights, the optimiser's moments and one integer, `samples_seen`. Started again with the same config, it
goes on from the last whole checkpoint.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace

import torch

from training.checkpoints.layout import Progress
from training.config import TrainConfig
from training.distributed import distributed
from training.evaluation.evaluate import evaluate
from training.evaluation.metrics import Metric
from training.learning.gradient import accumulate_gradient
from training.learning.patch_dropout import share_of_patches
from training.learning.rates import learning_rate
from training.learning.seeding import seed_step
from training.run.begin import begin
from training.run.log import write_metrics
from training.run.phases import phase_at
from training.run.stopping import Stop, stop_signals
from training.run.throughput import Window

__all__ = ["Result", "train"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a run."""

    progress: Progress
    metrics: list[Metric]
    stopped_by: signal.Signals | None = None
    """The signal that ended it early, after a checkpoint; None when it is finished."""


def train(config: TrainConfig, *, listen: Callable[[], AbstractContextManager[Stop]] = stop_signals) -> Result:
    """Run `config` to its end, from its last checkpoint if it has one, or until one rank's `listen` is told to stop.

    Raises TrainingError, ConfigError.
    """
    with ExitStack() as stack:
        # --------------------------------------------------------------------------------------
        # Processes; then model, optimiser and data: where the run goes on
        # --------------------------------------------------------------------------------------
        world = stack.enter_context(distributed(device=config.device, timeout_s=config.collective_timeout_s))
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
        torch.backends.cudnn.benchmark = config.cudnn_benchmark
        with world.during("the start of the run"):
            run = begin(config, world, stack)
        stop = stack.enter_context(listen())
        batch_size, total, log = config.global_batch_size, run.total, run.log
        progress, learner = run.progress, run.learner
        stops = config.on_non_finite == "stop"
        window = Window(max_skipped_in_a_row=0 if stops else config.max_skipped_in_a_row)

        while progress.samples_seen < total:
            step = progress.samples_seen // batch_size
            seen = progress.samples_seen + batch_size
            phase = phase_at(config.phases, progress.samples_seen, total=total, batch=batch_size)
            with world.during(f"step {step}"):
                # ------------------------------------------------------------------------------
                # Batch
                # ------------------------------------------------------------------------------
                learner = learner.resized(phase.image_size)
                learner.model.set_patch_dropout(share_of_patches(phase, config.model))
                with window.waiting():
                    batch = next(run.incoming).to(world.device)

                # ------------------------------------------------------------------------------
                # Step
                # ------------------------------------------------------------------------------
                seed_step(config.seed, progress.samples_seen, world.rank)
                learner.method.before_step(learner.model, samples_seen=progress.samples_seen, total=total)
                terms = accumulate_gradient(
                    learner.model,
                    learner.method,
                    batch,
                    learner.gradients,
                    world,
                    global_batch_size=batch_size,
                    micro_batches=phase.micro_batches or config.micro_batches,
                )
                # Summed over ranks, so that every rank decides the same: who was told to stop, what was broken. On the
                # host, and what the step found stays on the device: a GPU is not waited for.
                told = world.sum_(torch.tensor([float(stop.signal or 0), batch.num_replaced]))
                norm = learner.gradients.norm()
                rate = learning_rate(config.optimiser, samples=seen, total_samples=total)
                is_finite = torch.isfinite(torch.stack([norm, *terms.values()])).all()
                learner.step(rate=rate, norm=norm, is_finite=is_finite, samples_seen=seen)
                name = f"step {step} ({seen} samples)"
                window.add(terms=terms, norm=norm, is_finite=is_finite, name=name, samples=batch_size)
            progress = replace(
                progress,
                samples_seen=seen,
                samples_replaced=progress.samples_replaced + int(told[1]),
                image_size=phase.image_size,
                segments=run.snapshots.stream.segments,
            )
            run.tracer.step()

            # ----------------------------------------------------------------------------------
            # Log
            # ----------------------------------------------------------------------------------
            finished, stopping = seen == total, bool(told[0])
            logs = log is not None and ((step + 1) % config.log.every_steps == 0 or finished)
            saves = finished or stopping or _due(config.checkpoint.every_samples, seen, batch_size)
            if logs or saves:
                progress = replace(progress, steps_skipped=progress.steps_skipped + window.num_skipped())
            if log is not None:
                log.advance(seen)
                if logs:
                    facts = window.take()
                    facts |= {"learning_rate": rate, "logit_scale": learner.logit_scale}
                    facts |= {"steps_skipped": progress.steps_skipped, "samples_replaced": progress.samples_replaced}
                    log.step(seen, facts)

            # ----------------------------------------------------------------------------------
            # Evaluate, save
            # ----------------------------------------------------------------------------------
            if config.evaluation.measures and _due(config.evaluation.every_samples, seen, batch_size) and not finished:
                with world.during(f"the evaluation after step {step}"), learner.averaged() as model:
                    found = evaluate(model, config.evaluation, world)
                if log is not None:
                    log.metrics(seen, found)
                window.take()
            if saves:
                with world.during(f"the checkpoint after step {step}"):
                    run.writer.save(learner.model.clip, learner.optimiser, progress, averages=learner.averages)
            if stopping and not finished:
                with world.during(f"the checkpoint after step {step}"):
                    run.writer.finish()
                if log is not None:
                    log.warn(f"stopped after {seen:,} of {total:,} samples; run again to go on from there")
                return Result(progress=progress, metrics=[], stopped_by=stop.signal or signal.SIGTERM)

        # --------------------------------------------------------------------------------------
        # Final evaluation
        # --------------------------------------------------------------------------------------
        with world.during("the end of the run"):
            run.writer.finish()
            measures = config.evaluation.measures and config.evaluation.at_end
            with learner.averaged() as model:
                metrics = evaluate(model, config.evaluation, world) if measures else []
        if log is not None and metrics:
            log.metrics(progress.samples_seen, metrics)
            write_metrics(
                run.root / "metrics.json", metrics, samples_seen=progress.samples_seen, model=learner.model.name
            )
    return Result(progress=progress, metrics=metrics)


def _due(every_samples: int | None, seen: int, batch_size: int) -> bool:
    """Whether the step that ends at `seen` crosses a multiple of `every_samples`."""
    if every_samples is None:
        return False
    return seen // every_samples > (seen - batch_size) // every_samples

"""The training loop, top to bottom.

    config -> data -> model -> loss -> optimiser -> [ step -> log -> evaluate -> save ] -> final evaluation

A run's whole state is its weights, the optimiser's moments, the random generator and one integer,
`samples_seen`. Started again with the same config, it goes on from the last whole checkpoint.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from configs.load import ConfigError, dump, fingerprint
from training.checkpoint import (
    CheckpointConfig,
    CheckpointWriter,
    Progress,
    find_last,
    load_checkpoint,
    read_progress,
)
from training.data import DataConfig
from training.distributed import World, distributed
from training.errors import DistributedError, ModelError, NonFiniteError, TrainingError
from training.evaluate import EvaluationConfig, evaluate
from training.feed import feed
from training.gradient import FlatGradients, accumulate_gradient
from training.log import LogConfig, RunLog, write_metrics
from training.losses import LossConfig, make_loss
from training.metrics import Metric
from training.model import (
    Model,
    ModelConfig,
    Precision,
    create_model,
    has_batch_norm,
    model_json,
    resolve_precision,
    trim,
)
from training.optim import OptimiserConfig, learning_rate, make_optimiser
from training.phases import Phase, carry_over, check_phases, phase_at
from training.run_directory import check_same_run, locked_run, write_run
from training.snapshots import Snapshots

__all__ = ["Result", "TrainConfig", "learns", "total_samples", "train"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run."""

    output: str
    """Directory of the run: checkpoints, logs, metrics, the resolved config."""
    data: DataConfig
    """What to train on."""
    model: ModelConfig
    """Which model to train."""
    epochs: float | None = None
    """Length of the run in passes over the data; give this or `samples`."""
    samples: int | None = None
    """Length of the run in samples; rounded up to whole batches."""
    global_batch_size: int = 256
    """Pairs per step over all ranks: each picture is told apart from this many texts."""
    micro_batches: int = 1
    """Parts that a rank cuts its batch into, to fit memory; the gradient stays exact, at a third more compute."""
    phases: tuple[Phase, ...] = ()
    """Parts of the run with other picture sizes or text lengths: a list of {begins_at, image_size, context_length,
    micro_batches}."""
    seed: int = 0
    """Decides weights, order, crops and dropout."""
    precision: Precision = "auto"
    """auto, fp32 or bf16 (mixed: weights stay fp32). auto takes bf16 where the hardware multiplies it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""
    threads: int | None = None
    """CPU threads of the training process; null leaves torch's choice."""
    on_non_finite: Literal["skip", "stop"] = "skip"
    """A NaN or infinite loss or gradient: skip the step on all ranks and count it, or stop."""
    max_skipped_in_a_row: int = 20
    """Stop after this many skipped steps in a row, whatever `on_non_finite` says."""
    collective_timeout_s: float = 600.0
    """How long a rank waits for the others before it gives up."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What to minimise."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """How to step."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When to save."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What to measure."""
    log: LogConfig = field(default_factory=LogConfig)
    """What to write down."""

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.samples is None):
            raise ConfigError("give either epochs or samples (one of the two)")
        if (self.epochs or self.samples or 0) <= 0:
            raise ConfigError("epochs or samples must be positive")
        if self.global_batch_size < 2:
            raise ConfigError(f"global_batch_size must be at least 2, got {self.global_batch_size}")
        if self.micro_batches < 1:
            raise ConfigError(f"micro_batches must be at least 1, got {self.micro_batches}")
        if self.data.follow and self.samples is None:
            raise ConfigError("data.follow changes what an epoch is: give the run's length in samples, not in epochs")
        check_phases(self.phases)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a run."""

    progress: Progress
    metrics: list[Metric]
    stopped_by: signal.Signals | None = None
    """The signal that ended it early, after a checkpoint; None when it is finished."""


def total_samples(config: TrainConfig, num_samples: int) -> int:
    """Length of the run in samples, a multiple of the global batch size."""
    wanted = config.samples if config.samples is not None else cast(float, config.epochs) * num_samples
    return math.ceil(wanted / config.global_batch_size) * config.global_batch_size


def learns(config: TrainConfig) -> str:
    """Fingerprint of the options that change what is learnt; the others may change when a run goes on."""
    # How the work is cut and where it lies changes nothing.
    model = replace(config.model, gradient_checkpointing=False, compile=False)
    phases = [replace(phase, micro_batches=None) for phase in config.phases]
    return fingerprint(
        model, phases, config.data.augment, config.data.weights, config.data.follow, config.epochs, config.samples,
        config.global_batch_size, config.seed, config.loss, config.optimiser,
    )  # fmt: skip


def train(config: TrainConfig) -> Result:
    """Run `config` to its end, from its last checkpoint if it has one. Raises TrainingError, ConfigError."""
    with ExitStack() as stack:
        world = stack.enter_context(distributed(device=config.device, timeout_s=config.collective_timeout_s))
        root = Path(config.output)
        if world.is_first:
            stack.enter_context(locked_run(root))
        return _train(config, world, root)


def _train(config: TrainConfig, world: World, root: Path) -> Result:
    device = world.device
    if config.threads is not None:
        torch.set_num_threads(config.threads)

    # ------------------------------------------------------------------------------------------
    # Where to go on, and data
    # ------------------------------------------------------------------------------------------
    _check_sizes(config, world)
    last, problems = world.from_first(find_last(root / "checkpoints") if world.is_first else None)
    progress = read_progress(last) if last is not None else Progress(config_fingerprint=learns(config))
    snapshots = Snapshots(
        config.data,
        directory=root,
        world=world,
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        recorded=progress.segments,
    )
    index = snapshots.index
    # Followed data changes; what each checkpoint was trained on is in its segments.
    data_fingerprint = "" if config.data.follow else index.fingerprint
    refusal = _refusal(root, config, data_fingerprint) if world.is_first else None
    if refusal := world.from_first(refusal):
        raise refusal
    total = total_samples(config, len(index))
    phase = phase_at(config.phases, progress.samples_seen, total=total, batch=config.global_batch_size)

    # ------------------------------------------------------------------------------------------
    # Model, loss, optimiser
    # ------------------------------------------------------------------------------------------
    loss = make_loss(config.loss)
    max_log_scale = math.log(config.loss.max_logit_scale)
    model, optimiser, gradients = _make(config, world, image_size=phase.image_size)
    own_image_size = model.image_size if phase.image_size is None else _own_image_size(config)
    for each in config.phases:
        _check_phase(each, model)
    progress = replace(progress, data_fingerprint=data_fingerprint, model_name=model.name)

    # ------------------------------------------------------------------------------------------
    # Resume
    # ------------------------------------------------------------------------------------------
    if world.is_first:  # only now: mistakes in the config were found above, and mark no directory
        write_run(root, config_yaml=dump(config), config_fingerprint=learns(config), data_fingerprint=data_fingerprint)
    torch.manual_seed(config.seed + world.rank)  # dropout that is not keyed per sample
    if last is not None:
        load_checkpoint(last, model.clip, optimiser)

    with ExitStack() as stack:
        log: RunLog | None = None
        writer: CheckpointWriter | None = None
        if world.is_first:
            log = stack.enter_context(
                RunLog(root, config=config.log, resumed_at=progress.samples_seen, total_samples=total)
            )
            writer = stack.enter_context(closing(CheckpointWriter(root / "checkpoints", keep=config.checkpoint.keep)))
            for problem in problems:
                log.warn(problem)
            if index.num_without_text or index.num_without_image:
                log.warn(
                    f"left out {index.num_without_text} samples without text and "
                    f"{index.num_without_image} without an image"
                )
        stop = stack.enter_context(_stop_signals())
        incoming = stack.enter_context(
            closing(
                feed(
                    snapshots,
                    config.data,
                    config.phases,
                    world,
                    tokenizer=model.tokenizer,
                    image_size=own_image_size,
                    start=progress.samples_seen,
                    total=total,
                )
            )
        )
        window = _Window()
        skipped_in_a_row = 0

        while progress.samples_seen < total:
            # ----------------------------------------------------------------------------------
            # Phase
            # ----------------------------------------------------------------------------------
            before, phase = (
                phase,
                phase_at(config.phases, progress.samples_seen, total=total, batch=config.global_batch_size),
            )
            if phase.image_size != before.image_size:
                old_model, old_optimiser = model, optimiser
                model, optimiser, gradients = _make(config, world, image_size=phase.image_size)
                carry_over(old_model.clip, old_optimiser, model.clip, optimiser)
                del old_model, old_optimiser

            # ----------------------------------------------------------------------------------
            # Step
            # ----------------------------------------------------------------------------------
            step = progress.samples_seen // config.global_batch_size
            logit_scale = cast(Any, model.clip).logit_scale
            window.waiting()
            batch = next(incoming)
            if model.can_trim:  # here rather than on a GPU, which would have to be waited for
                batch = replace(batch, tokens=trim(batch.tokens))
            batch = batch.to(device)
            window.working()
            with _named_failures(world, step):
                value = accumulate_gradient(
                    model,
                    loss,
                    batch,
                    gradients,
                    world,
                    micro_batches=phase.micro_batches or config.micro_batches,
                    chunk_rows=config.loss.chunk_rows,
                )
                # Summed over ranks, so that every rank decides the same: who was told to stop, what was broken.
                told = world.sum_(torch.tensor([float(stop[0] or 0), batch.num_replaced], device=device))
            norm = gradients.norm()
            is_finite = bool(torch.isfinite(norm) & torch.isfinite(value))
            seen = progress.samples_seen + config.global_batch_size
            rate = learning_rate(config.optimiser, samples=seen, total_samples=total)
            if is_finite:
                skipped_in_a_row = 0
                limit = config.optimiser.max_gradient_norm
                if limit is not None and norm > limit:
                    gradients.buffer.mul_(limit / norm)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                optimiser.step()
                with torch.no_grad():
                    logit_scale.clamp_(0, max_log_scale)
            else:
                skipped_in_a_row += 1
                if config.on_non_finite == "stop" or skipped_in_a_row > config.max_skipped_in_a_row:
                    raise NonFiniteError(
                        f"step {step} ({seen} samples): loss {float(value)}, gradient norm {float(norm)}; "
                        "lower optimiser.learning_rate or set --precision fp32, "
                        "then run again from the last checkpoint"
                    )
            progress = replace(
                progress,
                samples_seen=seen,
                steps_skipped=progress.steps_skipped + (not is_finite),
                samples_replaced=progress.samples_replaced + int(told[1]),
                image_size=phase.image_size,
                segments=snapshots.stream.segments,
            )

            # ----------------------------------------------------------------------------------
            # Log
            # ----------------------------------------------------------------------------------
            window.add(loss=float(value), norm=float(norm), samples=config.global_batch_size)
            if log is not None:
                log.advance(seen)
                if (step + 1) % config.log.every_steps == 0 or seen == total:
                    facts = window.take()
                    facts |= {"learning_rate": rate, "logit_scale": float(logit_scale.detach().exp())}
                    facts |= {"steps_skipped": progress.steps_skipped, "samples_replaced": progress.samples_replaced}
                    log.step(seen, facts)

            # ----------------------------------------------------------------------------------
            # Evaluate, save
            # ----------------------------------------------------------------------------------
            finished = seen == total
            if _due(config.evaluation.every_samples, seen, config) and not finished and config.evaluation.path:
                found = evaluate(model, config.evaluation, world)
                if log is not None:
                    log.metrics(seen, found)
                window.take()
            stopping = bool(told[0])
            if writer is not None and (finished or stopping or _due(config.checkpoint.every_samples, seen, config)):
                writer.save(model.clip, optimiser, progress)
            if stopping and not finished:
                if log is not None and writer is not None:
                    writer.wait()
                    log.warn(f"stopped after {seen:,} of {total:,} samples; run again to go on from there")
                return Result(progress=progress, metrics=[], stopped_by=stop[0] or signal.SIGTERM)

        # ------------------------------------------------------------------------------------------
        # Final evaluation
        # ------------------------------------------------------------------------------------------
        if writer is not None:
            writer.wait()
        metrics = evaluate(model, config.evaluation, world) if config.evaluation.path else []
        if log is not None and metrics:
            log.metrics(progress.samples_seen, metrics)
            write_metrics(root / "metrics.json", metrics, samples_seen=progress.samples_seen, model=model.name)
    return Result(progress=progress, metrics=metrics)


def _due(every_samples: int | None, seen: int, config: TrainConfig) -> bool:
    """Whether the step that ends at `seen` crosses a multiple of `every_samples`."""
    if every_samples is None:
        return False
    return seen // every_samples > (seen - config.global_batch_size) // every_samples


def _check_sizes(config: TrainConfig, world: World) -> None:
    if config.global_batch_size % world.size:
        raise ConfigError(
            f"global_batch_size {config.global_batch_size} cannot be shared by {world.size} ranks; "
            f"use a multiple of {world.size}"
        )
    local_size = config.global_batch_size // world.size
    for parts in (config.micro_batches, *(phase.micro_batches or 1 for phase in config.phases)):
        if parts > local_size:
            raise ConfigError(f"micro_batches {parts} exceeds the {local_size} samples of a rank; lower it")


def _refusal(root: Path, config: TrainConfig, data_fingerprint: str) -> TrainingError | None:
    """Why this config may not go on in `root`; told to all ranks, so that none waits for the others."""
    try:
        check_same_run(root, config_fingerprint=learns(config), data_fingerprint=data_fingerprint)
    except TrainingError as error:
        return error
    return None


def _make(
    config: TrainConfig, world: World, *, image_size: int | None
) -> tuple[Model, torch.optim.AdamW, FlatGradients]:
    """Model, optimiser and gradients for pictures of `image_size`; leaves the random generators as they are."""
    loss = make_loss(config.loss)
    gpus = [world.device] if world.device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        model = create_model(
            config.model,
            device=world.device,
            precision=resolve_precision(config.precision, world.device),
            init_logit_scale=loss.init_logit_scale,
            init_logit_bias=loss.init_logit_bias,
            seed=config.seed,
            image_size=image_size,
        )
    _check_batch_norm(config, world, model.clip)
    optimiser = make_optimiser(model.clip, config.optimiser)
    gradients = FlatGradients([p for group in optimiser.param_groups for p in group["params"]])
    return model, optimiser, gradients


def _own_image_size(config: TrainConfig) -> int:
    """Side of the pictures that the model names."""
    size = model_json(config.model.name)["vision_cfg"].get("image_size", 224)
    return int(size[0] if isinstance(size, (list, tuple)) else size)


def _check_phase(phase: Phase, model: Model) -> None:
    if phase.context_length is None:
        return
    longest = model.tokenizer.context_length
    if phase.context_length > longest:
        raise ConfigError(f"phases: context_length {phase.context_length} exceeds the {longest} of {model.name}")
    if phase.context_length < longest and not model.can_trim:
        raise ModelError(f"phases: {model.name} takes texts of {longest} tokens only; leave context_length out")


def _check_batch_norm(config: TrainConfig, world: World, module: torch.nn.Module) -> None:
    if not has_batch_norm(module):
        return
    if config.micro_batches > 1 or any((phase.micro_batches or 1) > 1 for phase in config.phases):
        raise ModelError(
            f"{config.model.name} has batch normalisation, whose statistics micro-batches would change; "
            "set --micro_batches 1, or take a model without it (a ViT or ConvNeXt)"
        )
    if world.size > 1 and world.device.type == "cpu":
        raise ModelError(
            f"{config.model.name} has batch normalisation, which torch cannot synchronise over CPU processes; "
            "use one process, or take a model without it (a ViT or ConvNeXt)"
        )
    if world.size > 1:
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]  # torch's stub


@contextmanager
def _stop_signals() -> Iterator[list[signal.Signals | None]]:
    """A cell that holds SIGTERM or SIGINT once it came; the second one acts as usual."""
    cell: list[signal.Signals | None] = [None]
    if threading.current_thread() is not threading.main_thread():
        yield cell
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: object) -> None:
        cell[0] = signal.Signals(number)
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, handle)
    try:
        yield cell
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _named_failures(world: World, step: int) -> Iterator[None]:
    """Turn failures of memory and of collectives into errors that name rank and step."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"rank {world.rank}, step {step}: out of GPU memory; raise micro_batches (the gradient stays exact) "
            "or set --model.gradient_checkpointing true"
        ) from error
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if world.size > 1 and any(word in text.lower() for word in ("gloo", "nccl", "timed out", "connection")):
            raise DistributedError(
                f"rank {world.rank}, step {step}: another rank stopped answering ({text[:160]}); "
                "see that rank's log, then run again to go on from the last checkpoint"
            ) from error
        raise


class _Window:
    """Means over the steps since the last log line, and where the time went."""

    def __init__(self) -> None:
        self._start = self._mark = time.perf_counter()
        self._wait_s = 0.0
        self._loss: list[float] = []
        self._norm: list[float] = []
        self._samples = 0

    def waiting(self) -> None:
        self._mark = time.perf_counter()

    def working(self) -> None:
        self._wait_s += time.perf_counter() - self._mark

    def add(self, *, loss: float, norm: float, samples: int) -> None:
        self._loss.append(loss)
        self._norm.append(norm)
        self._samples += samples

    def take(self) -> dict[str, float]:
        now = time.perf_counter()
        elapsed = max(now - self._start, 1e-9)
        facts = {
            "loss": _mean(self._loss),
            "gradient_norm": _mean(self._norm),
            "samples_per_s": self._samples / elapsed,
            "data_wait_share": self._wait_s / elapsed,
        }
        self._start, self._wait_s, self._loss, self._norm, self._samples = now, 0.0, [], [], 0
        return facts


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0

"""The options of a training run, and which of them change what is learnt."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, cast

from configs.load import ConfigError, fingerprint
from training.checkpoints.layout import CheckpointConfig
from training.data.batches import DataConfig
from training.evaluation.evaluate import EvaluationConfig
from training.learning.losses import LossConfig
from training.learning.model import ModelConfig, Precision
from training.learning.optimiser import OptimiserConfig
from training.ray_config import RayConfig
from training.run.log import LogConfig
from training.run.phases import Phase, check_phases
from training.run.profiling import ProfileConfig

__all__ = ["TrainConfig", "learns", "total_samples"]


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
    distributed: Literal["ddp", "fsdp"] = "ddp"
    """What several processes share: ddp, the batch alone; fsdp, the weights and their optimiser state as well
    (fully sharded, torch's FSDP2), for models that do not fit on one device. The gradient is the same."""
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
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    """Which steps to trace."""
    launcher: Literal["torchrun", "ray"] = "torchrun"
    """Who starts several processes: torchrun (or nobody, for one process), or Ray Train, see `ray`."""
    ray: RayConfig = field(default_factory=RayConfig)
    """How many processes Ray starts, and where."""

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.samples is None):
            raise ConfigError("give either epochs or samples: set one of the two, and the other to null")
        if (self.epochs or self.samples or 0) <= 0:
            raise ConfigError("epochs or samples must be positive")
        if self.global_batch_size < 2:
            raise ConfigError(f"global_batch_size must be at least 2, got {self.global_batch_size}")
        if self.micro_batches < 1:
            raise ConfigError(f"micro_batches must be at least 1, got {self.micro_batches}")
        if self.data.follow and self.samples is None:
            raise ConfigError(
                "data.follow changes what an epoch is: set --samples N --epochs null, N being the run's length"
            )
        check_phases(self.phases)


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

"""Mistakes in a config that only show where the processes, the model or the output are known."""

from __future__ import annotations

from configs.load import ConfigError
from training.config import Phase, TrainConfig
from training.data.reinforcements import open_reinforcements
from training.distributed import World
from training.errors import ModelError
from training.learning.batch_norm.graph import has_batch_norm
from training.learning.batch_norm.tower import Tower, is_cut
from training.learning.method import Method
from training.learning.model import Model

__all__ = ["check_model", "check_reinforced", "check_schedule", "check_sizes"]


def check_sizes(config: TrainConfig, world: World) -> None:
    """Raise ConfigError unless each rank and each micro-batch gets at least one sample of every batch."""
    if config.global_batch_size < world.size:
        raise ConfigError(
            f"global_batch_size {config.global_batch_size} cannot be shared by {world.size} ranks; "
            f"use at least {world.size}, or fewer processes"
        )
    least = config.global_batch_size // world.size
    for parts in (config.micro_batches, *(phase.micro_batches or 1 for phase in config.phases)):
        if parts > least:
            raise ConfigError(f"micro_batches {parts} exceeds the {least} samples of a rank; lower it")


def check_reinforced(config: TrainConfig, method: Method) -> None:
    """Raise ConfigError or FeaturesError where `method` cannot learn from what the data are reinforced with."""
    found = [open_reinforcements(path).about for path in config.data.reinforced]
    method.check_reinforced(len(found[0].teachers) if found else None)


def check_schedule(config: TrainConfig, total: int) -> None:
    """Raise ConfigError where a run of `total` samples has no room for its warm-up and its cool-down."""
    warmup, cooldown = config.optimiser.warmup_samples, config.optimiser.cooldown_samples
    if cooldown and warmup + cooldown > total:
        raise ConfigError(
            f"optimiser: warmup_samples {warmup:,} and cooldown_samples {cooldown:,} are more than the run's {total:,} "
            "samples; lower them"
        )


def check_model(config: TrainConfig, model: Model, world: World) -> None:
    """Raise ModelError or ConfigError where `model` cannot be trained exactly as `config` asks."""
    for phase in config.phases:
        _check_phase(phase, model, config.model.patch_dropout)
    if has_batch_norm(model.clip):
        _check_batch_norm(config, model, world)


def _check_phase(phase: Phase, model: Model, patch_dropout: float) -> None:
    if phase.patch_dropout and not patch_dropout:
        raise ConfigError("phases: patch_dropout changes model.patch_dropout, which is 0; set that as well")
    if phase.context_length is None:
        return
    longest = model.tokenizer.context_length
    if phase.context_length > longest:
        raise ConfigError(f"phases: context_length {phase.context_length} exceeds the {longest} of {model.name}")
    if phase.context_length < longest and not model.can_trim:
        raise ModelError(f"phases: {model.name} takes texts of {longest} tokens only; leave context_length out")


def _check_batch_norm(config: TrainConfig, model: Model, world: World) -> None:
    most = max(config.micro_batches, *(phase.micro_batches or 1 for phase in config.phases), 1)
    if not is_cut(model, world, most):
        return
    if config.distributed == "fsdp" and world.size > 1:
        raise ModelError(
            f"{config.model.name} has batch normalisation, which is cut into micro-batches over whole weights only; "
            "set --distributed ddp, or --micro_batches 1 on GPUs"
        )
    Tower(model)

"""`python -m training plan CONFIG`: what a run will take, before anything is rented.

    config --> model without weights --> parameters, memory by kind       learning/memory.py
           --> lists of shards --> samples, steps
           --> query_ids in the Parquet beside them --> how often queries come under `data.sampling`,
               by what the run itself samples with      data/sampling/foreseen.py

Needs no GPU, and no data: what cannot be known without is said so. What a run refuses of data that is there, it refuses
in the same words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.errors import one_line
from training.config import DataConfig, TrainConfig, total_samples
from training.data.sampling.distribution import HEAD
from training.data.sampling.foreseen import Foreseen, foresee
from training.data.shards import Shard, find_shards
from training.errors import DataError
from training.learning.checks import check_schedule
from training.learning.memory import MARGIN, Needs, needs_of
from training.learning.method import make_method

__all__ = ["plan"]


def plan(config: TrainConfig) -> Iterator[str]:
    """The lines to print. Raises ConfigError, ModelError, DataError for what would stop the run."""
    needs = needs_of(config)
    sets, problem = _sets(config.data)
    found = _foreseen(config, sets) if sets else None
    gpus, of = config.plan.gpus, config.plan.gpu_memory_gb
    kind = config.loss.name if config.method.name == "contrastive" else config.method.name
    decoder = f"decoder {needs.of_decoder / 1e6:.1f} M, " if needs.of_decoder else ""
    yield f"{kind} over batches of {config.global_batch_size:,}, on {gpus} x GPU of {of:g} GB"
    yield (
        f"model      {needs.model_name}: {needs.parameters:,} parameters, image {needs.of_image / 1e6:.1f} M, text "
        f"{needs.of_text / 1e6:.1f} M, {decoder}trained {needs.trained / 1e6:.1f} M; {needs.image_size} px, "
        f"{needs.context_length} tokens"
    )
    if config.model.init_from is not None:
        yield f"           starts from {config.model.init_from}"
    if config.model.init_image_from is not None:
        yield f"           image tower from {config.model.init_image_from}"
    if config.model.init_text_from is not None:
        yield f"           text tower from {config.model.init_text_from}"
    if needs.tokenizer_problem:
        yield f"           to be mended first: {needs.tokenizer_problem}"
    yield from _length(config, sets, problem, found)
    micro = "" if needs.micro_batches == 1 else f", in {needs.micro_batches} micro-batches"
    yield f"each GPU   {needs.samples:,} samples a step{micro}"
    yield from _memory(config, needs)
    yield from _queries(sets, found)
    if config.evaluation.is_idle:
        yield "evaluates  nothing, though evaluation.every_samples is set: name a set by --evaluation.path DIR"


def _sets(data: DataConfig) -> tuple[list[list[Shard]], str]:
    """The shards of each path, or none and what is in the way."""
    try:
        return [find_shards(path, skip_unfinished=data.follow) for path in data.paths], ""
    except DataError as error:
        return [], one_line(error)


def _foreseen(config: TrainConfig, sets: Sequence[Sequence[Shard]]) -> Foreseen | None:
    fields = make_method(config.method, config.loss).fields
    batch = config.global_batch_size
    return foresee(config.data, sets, seed=config.seed, global_batch_size=batch, fields=fields)


def _length(
    config: TrainConfig, sets: Sequence[Sequence[Shard]], problem: str, found: Foreseen | None
) -> Iterator[str]:
    """Samples of the set, samples seen, steps."""
    shards = [shard for of_set in sets for shard in of_set]
    concept = config.data.sampling == "concept"  # whose share needs no data
    taken = found.taken if found is not None else 1 / config.data.concept.super_batch if concept else 1.0
    batch = config.global_batch_size
    listed = sum(shard.samples for shard in shards if shard.samples is not None)
    is_known = bool(shards) and all(shard.samples is not None for shard in shards)
    where = ", ".join(config.data.paths)
    if is_known:
        yield f"samples    {listed:,} listed in {where}"
    else:
        yield f"samples    not known: {problem or f'no list in {where} states them'}"
    if config.samples is None and not is_known:
        yield f"steps      not known: epochs: {config.epochs:g}; make the shards, or set --samples N --epochs null"
        return
    of_set = found.samples if found is not None and found.is_exact else listed  # without those that nobody can see
    seen = total_samples(config, of_set * taken)
    check_schedule(config, seen)
    share = "" if taken == 1 else f" of {taken:.1%} of the samples"
    passes = f" ({seen / (of_set * taken):.3g} epochs{share})" if of_set else ""
    warmup = config.optimiser.warmup_samples
    yield f"steps      {seen // batch:,}, {seen:,} samples seen{passes}; warm-up {-(-warmup // batch):,} steps"


def _memory(config: TrainConfig, needs: Needs) -> Iterator[str]:
    """Gigabytes by kind, and whether they fit."""
    yield "memory     on each GPU, in 10^9 bytes"
    for kind, num_bytes in needs.memory.items():
        yield f"  {kind:<20}{num_bytes / 1e9:10.3f}"
    of = config.plan.gpu_memory_gb
    yield f"  {'in all':<20}{needs.total / 1e9:10.3f}  of {of:g}, with {MARGIN:.0%} left for what is not counted"
    room = of * (1 - MARGIN) * 1e9
    if needs.total <= room:
        return
    if needs.total - needs.memory.get("activations", 0) > room:
        remedy = "--distributed fsdp, or more GPUs (--plan.gpus)"
    elif not needs.can_be_cut:
        asked = "" if config.model.gradient_checkpointing else "--model.gradient_checkpointing true, or "
        remedy = f"{asked}more GPUs (--plan.gpus): batch normalisation takes no micro-batches"
    elif not config.model.gradient_checkpointing:
        remedy = "--model.gradient_checkpointing true, or a larger --micro_batches"
    else:
        remedy = f"--micro_batches {2 * needs.micro_batches}, or more GPUs (--plan.gpus)"
    yield f"  does not fit: set {remedy}"


# --- queries ----------------------------------------------------------------------------------------


def _queries(sets: Sequence[Sequence[Shard]], found: Foreseen | None) -> Iterator[str]:
    if not sets:
        yield "queries    not known without the data"
        return
    if found is None or found.distribution is None:
        yield "queries    not known: the Parquet beside the shards has no query_ids"
        return
    over = "" if found.is_exact else f" in {found.shards} of {sum(map(len, sets)):,} shards, an estimate"
    told = found.distribution
    yield (
        f"queries    {told.queries:,} over {found.samples:,} samples{over}, {told.queries_a_sample:.2f} a sample; "
        f"the {HEAD} most frequent"
    )
    yield f"           are in {told.with_head:.1%} of the samples drawn and make {told.head_share:.1%} of the matches"

"""`python -m training plan CONFIG`: what a run will take, before anything is rented.

    config --> model without weights --> parameters, memory by kind       learning/memory.py
           --> lists of shards --> samples, steps
           --> query_ids in the Parquet beside them --> how often queries come under `data.sampling`

Needs no GPU, and no data: what cannot be known without is said so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import one_line
from training.config import DataConfig, TrainConfig, total_samples
from training.data.rows import read_queries
from training.data.sampling.metaclip import query_limit, shares_of
from training.data.shards import Shard, find_shards
from training.errors import DataError
from training.learning.checks import check_schedule
from training.learning.memory import MARGIN, Needs, needs_of

__all__ = ["QueryShares", "plan", "query_shares"]

_HEAD = 100
"""Queries that count as the head."""
_MOST_SHARDS = 64
"""Shards whose queries are read, evenly over the set: a fair draw of a set of any size, in seconds."""


@dataclass(frozen=True, kw_only=True)
class QueryShares:
    """How samples are distributed over queries, as they are drawn."""

    samples: int
    """How many were looked at."""
    taken: float
    """The share of them that an epoch takes."""
    shards: int
    queries: int
    """How many come at all."""
    queries_a_sample: float
    head_samples: float
    """Share of the drawn samples that hold one of the `_HEAD` most frequent queries."""
    head_matches: float
    """Share of the matches of these queries among all."""


def plan(config: TrainConfig) -> Iterator[str]:
    """The lines to print. Raises ConfigError, ModelError for what would stop the run."""
    needs = needs_of(config)
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
    shards, problem = _shards(config.data)
    found = query_shares(config.data, shards) if shards else None
    yield from _length(config, shards, problem, _taken(config.data, found))
    micro = "" if needs.micro_batches == 1 else f", in {needs.micro_batches} micro-batches"
    yield f"each GPU   {needs.samples:,} samples a step{micro}"
    yield from _memory(config, needs)
    yield from _queries(config.data, shards, found)
    if config.evaluation.is_idle:
        yield "evaluates  nothing, though evaluation.every_samples is set: name a set by --evaluation.path DIR"


def _shards(data: DataConfig) -> tuple[list[Shard], str]:
    """Those of all paths, or none and what is in the way."""
    try:
        return [shard for path in data.paths for shard in find_shards(path)], ""
    except DataError as error:
        return [], one_line(error)


def _taken(data: DataConfig, found: QueryShares | None) -> float:
    """The share of the samples that `data.sampling` takes in an epoch."""
    if data.sampling == "concept":
        return 1 / data.concept.super_batch
    return 1.0 if found is None else found.taken


def _length(config: TrainConfig, shards: Sequence[Shard], problem: str, taken: float) -> Iterator[str]:
    """Samples of the set, samples seen, steps; `taken`: the share that an epoch takes."""
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
    seen = total_samples(config, listed * taken)
    check_schedule(config, seen)
    share = "" if taken == 1 else f" of {taken:.1%} of the samples"
    passes = f" ({seen / (listed * taken):.3g} epochs{share})" if listed else ""
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


def _queries(data: DataConfig, shards: Sequence[Shard], found: QueryShares | None) -> Iterator[str]:
    if not shards:
        yield "queries    not known without the data"
        return
    if found is None:
        yield "queries    not known: the Parquet beside the shards has no query_ids"
        return
    over = "" if found.shards == len(shards) else f" in {found.shards} of {len(shards):,} shards"
    yield (
        f"queries    {found.queries:,} over {found.samples:,} samples{over}, {found.queries_a_sample:.2f} a sample; "
        f"the {_HEAD} most frequent"
    )
    yield (
        f"           are in {found.head_samples:.1%} of the samples drawn and make {found.head_matches:.1%} of the "
        "matches"
    )
    if data.sampling == "concept":
        yield "           before batches are chosen from super-batches: docs/training.md, Sampling by queries"


def query_shares(data: DataConfig, shards: Sequence[Shard]) -> QueryShares | None:
    """What `data.sampling` makes of the queries of `shards`; None where they name none. Raises DataError."""
    chosen = [shards[i * len(shards) // _MOST_SHARDS] for i in range(_MOST_SHARDS)]
    chosen = list(shards) if len(shards) <= _MOST_SHARDS else chosen
    read = map(read_queries, chosen)
    columns = [column for column in read if column is not None]
    if not columns:
        return None
    lengths = np.concatenate([lengths for lengths, _ in columns])
    queries = np.concatenate([queries for _, queries in columns])
    sample = np.repeat(np.arange(len(lengths)), lengths)
    listed = [shard.samples or 0 for shard in shards]
    of_all = sum(listed) / len(lengths) if all(listed) else len(shards) / len(columns)
    weights = _drawn(data, queries, sample, len(lengths), of_all)
    matches = np.bincount(queries, weights[sample], minlength=1)
    head = np.argsort(-matches, kind="stable")[:_HEAD]
    in_head = np.isin(queries, head)
    holds = np.zeros(len(lengths), bool)
    holds[sample[in_head]] = True
    total = max(float(matches.sum()), 1.0)
    return QueryShares(
        samples=len(lengths),
        shards=len(columns),
        queries=int((matches > 0).sum()),
        queries_a_sample=float(matches.sum() / weights.sum()),
        head_samples=float(weights[holds].sum() / weights.sum()),
        head_matches=float(matches[head].sum() / total),
        taken=float(weights.mean()),
    )


def _drawn(
    data: DataConfig,
    queries: npt.NDArray[np.int32],
    sample: npt.NDArray[np.int64],
    samples: int,
    of_all: float,
) -> npt.NDArray[np.float64]:
    """float64[samples]: how often each comes in an epoch, as expected; `queries` are those of each match, `sample` the
    sample that it is of; the set has `of_all` times as many."""
    if data.sampling != "metaclip" or not len(queries):
        return np.ones(samples)
    counts = np.bincount(queries) * of_all
    whole: npt.NDArray[np.int64] = np.round(counts).astype(np.int64)
    passed_over = np.log1p(-shares_of(whole, query_limit(whole, data.metaclip))[queries].clip(max=1 - 1e-12))
    return -np.expm1(np.bincount(sample, passed_over, minlength=samples))

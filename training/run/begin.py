"""How a run begins: what it trains on, where it goes on, and what it writes to.

    1  the config by itself       model.name, tokenizer, method, phases, ...: no file is written, none of the data read
    2  RUN: lock, checkpoint      what was learnt before, by the same settings
    3  the learner                its weights, as drawn or as `model.init_from` has them
    4  the data                   which shards, do they have what is asked for; then the index, which takes longest
    5  RUN: run.json, log         from here on there is a run

So a mistake is found by the cheapest step that can, and told to every rank, so that none waits for the others.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from configs.load import dump, to_mapping
from pipeline.storage.bucket import BucketPath
from pipeline.storage.place import Place, place_of
from training.checkpoints.in_bucket import copy_checkpoint, last_here
from training.checkpoints.layout import Progress, read_progress
from training.checkpoints.loading import load_checkpoint
from training.checkpoints.saving import CheckpointWriter
from training.config import TrainConfig, learns, total_samples
from training.data.batches import Batch
from training.data.index import SampleIndex
from training.distributed import World
from training.errors import CheckpointError
from training.evaluation.evaluate import check_sets
from training.learning.before_data import check_before_data
from training.learning.checks import check_reinforced, check_schedule, check_sizes
from training.learning.learner import Learner, make_learner
from training.learning.method import make_method
from training.learning.model import own_image_size
from training.learning.sharding import mesh_of
from training.run.directory import check_same_run, locked_run, write_run
from training.run.feed import feed
from training.run.log import RunLog
from training.run.machine import RunPlace, open_place
from training.run.mirror import Mirror
from training.run.phases import first_phase
from training.run.profiling import Tracer, tracing
from training.run.sinks import check_sinks
from training.run.snapshots import Snapshots

__all__ = ["Run", "begin"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that the loop works with."""

    root: Place
    """RUN."""
    total: int
    """Length of the run in samples."""
    progress: Progress
    """Where it goes on."""
    learner: Learner
    snapshots: Snapshots
    incoming: Generator[Batch, None, None]
    """The rank's batches from there on."""
    writer: CheckpointWriter
    log: RunLog | None
    """On rank 0."""
    tracer: Tracer


def begin(config: TrainConfig, world: World, stack: ExitStack) -> Run:
    """Open all that the run needs; `stack` closes it. Raises TrainingError, ConfigError, alike on every rank."""
    # 1. The config by itself
    check_sizes(config, world)
    check_sinks(config.log)
    method = make_method(config.method, config.loss)
    check_reinforced(config, method)
    tokenizer = world.together(lambda: check_before_data(config, method, world))
    world.on_first(lambda: check_sets(config.evaluation))

    # 2. RUN: is it ours alone, and where does it go on?
    root = place_of(config.output)
    lock = locked_run(root, single_driver=config.single_driver)
    is_held = world.together(lambda: stack.enter_context(lock) if world.is_first else None)
    here = open_place(root, world, stack)
    config_fingerprint = learns(config)
    world.on_first(lambda: check_same_run(root, config_fingerprint=config_fingerprint, window=config.data.lanes))
    last, problems = _restore(here, world)
    progress = Progress() if last is None else world.together(lambda: read_progress(last))

    # 3. The learner, for pictures as large as those of the checkpoint: the loop changes their size where a phase begins
    image_size = first_phase(config.phases).image_size if last is None else progress.image_size
    mesh = mesh_of(world) if config.distributed == "fsdp" and world.size > 1 else None
    learner = make_learner(config, world, mesh=mesh, image_size=image_size, tokenizer=tokenizer)
    if last is not None:
        world.together(lambda: load_checkpoint(last, learner.model.clip, learner.optimiser, averages=learner.averages))
        if isinstance(root, BucketPath) and here.is_owner:
            shutil.rmtree(last)

    # 4. The data
    snapshots = Snapshots(
        config.data,
        here=here,
        world=world,
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        recorded=progress.segments,
        fields=method.fields,
    )
    index = snapshots.index
    # Followed data changes; what each checkpoint was trained on is in its segments.
    data_fingerprint = "" if config.data.follow else snapshots.fingerprint
    world.on_first(
        lambda: check_same_run(
            root,
            config_fingerprint=config_fingerprint,
            data_fingerprint=data_fingerprint,
            window=config.data.lanes,
        )
    )
    total = total_samples(config, snapshots.samples_an_epoch)
    check_schedule(config, total)
    progress = replace(
        progress,
        model_name=learner.model.name,
        config_fingerprint=config_fingerprint,
        data_fingerprint=data_fingerprint,
    )

    # 5. From here on there is a run
    if world.is_first:
        write_run(
            root,
            config_yaml=dump(config),
            config_fingerprint=config_fingerprint,
            data_fingerprint=data_fingerprint,
            window=config.data.lanes,
        )
    log: RunLog | None = None
    mirror: Mirror | None = None
    if world.is_first:
        if isinstance(root, BucketPath):
            mirror = stack.enter_context(Mirror(here.local, root))
        log = stack.enter_context(
            RunLog(
                here.local,
                config=config.log,
                resumed_at=progress.samples_seen,
                total_samples=total,
                name=root.name,
                settings=to_mapping(config),
            )
        )
        _tell(log, problems, index)
        companions = snapshots.companions
        if companions is not None and companions.num_without:
            log.warn(
                f"{companions.num_without:,} of {len(index):,} samples have no caption but their own in "
                f"{config.data.captions.path or ', '.join(config.data.reinforced)}"
            )
        if config.evaluation.is_idle:
            log.warn("evaluation.every_samples is set, and nothing is evaluated: name a set by --evaluation.path DIR")
        if config.data.sampling == "metaclip" and snapshots.samples_an_epoch == len(index):
            log.warn(
                "data.sampling metaclip passes nothing over, since every sample has a query that few have; for another "
                "distribution lower --data.metaclip.max_pairs_per_query"
            )

    def before_commit() -> None:
        if is_held is not None:
            is_held()
        if mirror is not None:
            mirror.put_changes()

    writer = CheckpointWriter(
        root / "checkpoints",
        world,
        keep=config.checkpoint.keep,
        sharded=mesh is not None,
        timeout_s=config.collective_timeout_s,
        scratch=here.local,
        before_commit=before_commit,
    )
    incoming = feed(
        snapshots,
        config.data,
        config.phases,
        world,
        tokenizer=learner.model.tokenizer,
        image_size=own_image_size(config.model.name),
        cut_texts=learner.model.can_trim,
        start=progress.samples_seen,
        total=total,
    )
    return Run(
        root=root,
        total=total,
        progress=progress,
        learner=learner,
        snapshots=snapshots,
        writer=stack.enter_context(closing(writer)),
        log=log,
        tracer=stack.enter_context(tracing(config.profile, root, world)),
        incoming=stack.enter_context(closing(incoming)),
    )


def _restore(here: RunPlace, world: World) -> tuple[Path | None, list[str]]:
    """`find_last` on every rank, of a bucket as a copy on its machine. Raises CheckpointError, OSError."""

    def look() -> tuple[Path | None, list[str]] | CheckpointError | OSError:
        try:
            return last_here(here.place / "checkpoints", here.local / "restored")
        except (CheckpointError, OSError) as error:
            return error

    found = world.on_first_however_long(look)
    if isinstance(found, (CheckpointError, OSError)):
        raise found
    last, problems = found
    if last is None or isinstance(here.place, Path):
        return last, problems
    name, copies = last.name, here.local / "restored"
    original = here.place / "checkpoints" / name

    def copy() -> None:
        if here.is_owner and not world.is_first and (problem := copy_checkpoint(original, copies)) is not None:
            raise CheckpointError(f"{original}: {problem}; run again")

    world.together(copy)
    return copies / name, problems


def _tell(log: RunLog, problems: list[str], index: SampleIndex) -> None:
    for problem in problems:
        log.warn(problem)
    if index.num_without_text or index.num_without_image:
        log.warn(
            f"left out {index.num_without_text} samples without text and {index.num_without_image} without an image"
        )

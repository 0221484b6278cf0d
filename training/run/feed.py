"""The batches of a whole run, over its phases and snapshots.

    position -> leg: as far as phase and snapshot stay the same -> BatchDataset -> worker processes -> batches

Legs end between batches; the next one starts its own workers.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing

from pipeline.storage.bucket import is_bucket_url
from pipeline.storage.copies import scratch_files
from training.config import DataConfig, Phase
from training.data.batches import Batch, BatchDataset, Tokenizer, batches
from training.data.slots import one_ahead
from training.distributed import World
from training.run.phases import next_phase_start, phase_at
from training.run.snapshots import Snapshots

__all__ = ["feed"]

_TEXT_MULTIPLE = 8
"""Texts of a batch end at a multiple of this on a GPU: few shapes, which its kernels like."""


def feed(
    snapshots: Snapshots,
    config: DataConfig,
    phases: Sequence[Phase],
    world: World,
    *,
    tokenizer: Tokenizer,
    image_size: int,
    cut_texts: bool,
    start: int,
    total: int,
) -> Generator[Batch, None, None]:
    """The rank's batches from position `start` to `total`. All ranks must draw them in step.

    `image_size` is the model's own, which phases may change; `cut_texts`: to the longest of the batch. On a GPU they
    are drawn and copied one ahead. Raises DataError.
    """
    on_gpu = world.device.type == "cuda"
    text_multiple = _TEXT_MULTIPLE if on_gpu else 1
    with ExitStack() as stack:
        copies = stack.enter_context(scratch_files()) if any(map(is_bucket_url, config.paths)) else None
        batch = snapshots.stream.global_batch_size
        position = start
        while position < total:
            while (until := snapshots.until(position)) == position:
                snapshots.look_again(position)
            phase = phase_at(phases, position, total=total, batch=batch)
            stop = next_phase_start(phases, position, total=total, batch=batch)
            stop = stop if until is None else min(stop, until)
            dataset = BatchDataset(
                index_dirs=snapshots.index_dirs,
                stream=snapshots.stream,
                augment=config.augment,
                image_size=phase.image_size or image_size,
                context_length=phase.context_length,
                tokenizer=tokenizer,
                seed=snapshots.stream.seed,
                copies=copies,
                beside=snapshots.beside,
            )
            drawn = batches(
                dataset,
                start=position,
                stop=stop,
                rank=world.rank,
                world_size=world.size,
                config=config,
                sampling=snapshots.sampling,
                device=world.device,
                text_multiple=text_multiple if cut_texts else None,
            )
            # Only here: what is drawn above this line the ranks draw together, which a thread may not do.
            with closing(one_ahead(drawn) if on_gpu else drawn) as leg:
                yield from leg
            position = stop

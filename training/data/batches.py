"""Training batches: positions of the stream in, uint8 images and tokens out.

    Stream -> positions that the sampling takes (sampling/), of a bucket when their shards are copied (copies.py)
        -> worker processes: read at offset, decode, crop, tokenise
        -> chunks, in order, their pictures in `slots.py` -> whole local batches -> device

`processes.py` starts the workers.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.errors import one_line
from pipeline.records.identity import keyed_hash
from pipeline.storage.bucket import is_bucket_url
from training.config import AugmentConfig, DataConfig
from training.data.batch import Batch
from training.data.beside import Beside
from training.data.copies import ShardCopies, Tar, copy_name, tar_of
from training.data.decode import decode, draws, random_crop, sample_keys
from training.data.index import SampleIndex, load_index
from training.data.processes import process_context, watch_parent
from training.data.sampling.sampling import Positions, Sampling, Uniform, chunks, parts
from training.data.slots import Slots, whole_batches
from training.data.stream import Stream, share
from training.errors import DataError

__all__ = ["Batch", "BatchDataset", "Tokenizer", "batches"]

_CHUNK_SIZE = 256
"""Samples that a worker loads at a time: bounds the memory in flight and the wait for the first batch."""
_MAX_REPLACEMENTS = 100
_MAX_OPEN_TARS = 500
"""Per worker; below the usual limit of 1,024 open files."""
_LEAST_AHEAD, _MOST_AHEAD = 16, 4096
"""Batches that are looked ahead for the shards that they need: at 0.1 to 3 ms each, as large as they are."""


class Tokenizer(Protocol):
    """open_clip's tokenizers: texts to int64[N, context_length], padded with zeros."""

    context_length: int
    """Tokens of a text, unless told otherwise."""

    def __call__(self, texts: list[str], context_length: int = ...) -> Tensor:
        """Tokens of `texts`, cut to `context_length` where that is given."""


class BatchDataset(torch.utils.data.Dataset[Batch]):
    """Loads the samples at given positions; a worker opens its own index and tars on first use."""

    def __init__(
        self,
        *,
        index_dirs: tuple[str, ...],
        stream: Stream,
        augment: AugmentConfig,
        image_size: int,
        tokenizer: Tokenizer,
        seed: int,
        context_length: int | None = None,
        copies: Path | None = None,
        beside: Beside | None = None,
    ) -> None:
        """`index_dirs`: where `write_index` put that of each segment of `stream`; `copies`: where the tars of buckets
        are copied to; `beside`: captions and features that are not in the shards.

        `image_size`: side of the crops, in pixels; `context_length`: longest text, None for the tokenizer's own.
        """
        self.index_dirs = index_dirs
        self.stream = stream
        self.augment = augment
        self.image_size = image_size
        self.tokenizer = tokenizer
        self.seed = seed
        self.context_length = context_length
        self.copies = copies
        self.beside = beside
        self.slots: Slots | None = None
        """Where workers put pictures."""
        self._opened: dict[int, SampleIndex] = {}
        self._descriptors: dict[str, int] = {}

    def __getitem__(self, position: int) -> Batch:
        """One sample, as a batch of one."""
        return self.__getitems__([position])

    def __getitems__(self, positions: list[int]) -> Batch:
        """The samples at `positions`, in that order."""
        drawn = self.stream.draw(np.array(positions, np.int64))
        samples = drawn.samples
        indexes = [self._index(int(segment)) for segment in drawn.segments]
        uids = np.array([index.uid[sample] for index, sample in zip(indexes, samples, strict=True)])
        keys = sample_keys(uids, drawn.epochs, seed=self.seed)
        uniform = draws(keys)
        slot = (
            self.slots.images(positions.number, len(positions))
            if self.slots and isinstance(positions, _Chunk)
            else None
        )
        shape = (len(positions), self.image_size, self.image_size, 3)
        images = np.empty(shape, np.uint8) if slot is None else slot.numpy()
        num_replaced = 0
        for row, (index, key) in enumerate(zip(indexes, keys, strict=True)):
            segment = int(drawn.segments[row])
            picture = self._picture(segment, int(samples[row]))
            attempt = 0
            while picture is None:
                # The stand-in depends on the sample's key alone, so that every world size picks the same one.
                if attempt == _MAX_REPLACEMENTS:
                    raise DataError(
                        f"{attempt} pictures in a row cannot be decoded "
                        f"(the last in {index.paths[int(index.shard[samples[row]])]}); the shards are damaged"
                    )
                among = self._stand_ins(index, int(samples[row]))
                samples[row] = among[int(keyed_hash(attempt, np.array([key]))[0] % np.uint64(len(among)))]
                picture = self._picture(segment, int(samples[row]))
                attempt += 1
            num_replaced += attempt > 0
            if self.beside is not None and self.beside.is_reinforced:
                self.beside.crop(segment, index.uid[samples[row]], key, picture, images[row])
            else:
                random_crop(picture, uniform[row], size=self.image_size, config=self.augment, out=images[row])
        if self.copies is not None:
            self._close()  # those that are removed meanwhile must not go on taking room
        captions = [index.caption(int(sample)) for index, sample in zip(indexes, samples, strict=True)]
        fields = self._fields(indexes, samples)
        if self.beside is not None:
            segments = drawn.segments
            fields |= self.beside.fields(segments, samples, keys, captions, self._tokens)
            captions = list(map(self.beside.caption, segments.tolist(), samples.tolist(), keys, captions))
        batch = Batch.of(
            images=torch.from_numpy(images if slot is None else images[:0]),  # the trainer knows the slot
            tokens=self._tokens(captions),
            keys=torch.from_numpy(keys.view(np.int64)),
            num_replaced=num_replaced,
        )
        return batch.having(fields)

    def _fields(self, indexes: Sequence[SampleIndex], samples: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        """The columns that the method asked for, of those whose pictures stand in the batch."""
        return {
            name: torch.from_numpy(np.stack([i.fields[name][s] for i, s in zip(indexes, samples, strict=True)]))
            for name in indexes[0].fields
        }

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes: without the open index, which they map themselves."""
        return {**self.__dict__, "_opened": {}, "_descriptors": {}}

    def __del__(self) -> None:
        """Close the tars."""
        self._close()

    def tars(self, positions: Positions) -> list[Tar]:
        """The tars that hold the samples at `positions`, of a stream in lanes; each once."""
        return [tar_of(self._index(segment), shard) for segment, shard in self.stream.shards(positions)]

    def shard_sizes(self) -> npt.NDArray[np.int64]:
        """int64[S]: samples of the shards of the last segment."""
        return np.array(self._index(len(self.index_dirs) - 1).shard_sizes, np.int64)

    def _stand_ins(self, index: SampleIndex, sample: int) -> range:
        """Those that may take the sample's place: of its shard where shards are read whole, so that it is there."""
        return index.of_shard(int(index.shard[sample])) if self.stream.lanes else range(len(index))

    def _close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _tokens(self, texts: list[str]) -> Tensor:
        if self.context_length is None:
            return self.tokenizer(texts)
        return self.tokenizer(texts, context_length=self.context_length)

    def _index(self, segment: int) -> SampleIndex:
        if segment not in self._opened:
            self._opened[segment] = load_index(self.index_dirs[segment])
        return self._opened[segment]

    def _descriptor(self, index: SampleIndex, shard: int) -> int:
        """An open file descriptor; kept, since the order jumps between shards."""
        path = index.paths[shard]
        if path not in self._descriptors:
            if len(self._descriptors) >= _MAX_OPEN_TARS:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            try:
                tar = os.open(self._file(index, shard), os.O_RDONLY)
            except OSError as error:
                raise DataError(
                    f"{path}: cannot open the shard ({error.strerror}); it was there when the run began"
                ) from error
            self._descriptors[path] = tar
            if (size := os.fstat(tar).st_size) != index.tar_bytes[shard]:
                raise DataError(
                    f"{path}: {size} bytes, but {index.tar_bytes[shard]} when the run looked at it; the shard was "
                    "changed: restore it, or set --output to start a new run"
                )
        return self._descriptors[path]

    def _file(self, index: SampleIndex, shard: int) -> str | Path:
        """Where the shard lies on this machine."""
        path = index.paths[shard]
        if not is_bucket_url(path):
            return path
        if self.copies is None:
            raise DataError(f"{path}: has no copy on this machine")
        return self.copies / copy_name(tar_of(index, shard))

    def _picture(self, segment: int, sample: int) -> npt.NDArray[np.uint8] | None:
        index = self._index(segment)
        least: int | None = math.ceil(self.augment.min_decoded_sides * self.image_size)
        if self.beside is not None and self.beside.is_reinforced:
            if not self.beside.has_picture(segment, sample):
                return None
            least = None  # every pixel, as teachers saw it
        tar = self._descriptor(index, int(index.shard[sample]))
        data = os.pread(tar, int(index.num_bytes[sample]), int(index.offset[sample]))
        return decode(data, min_side=least)


def batches(
    dataset: BatchDataset,
    *,
    start: int,
    stop: int,
    rank: int,
    world_size: int,
    config: DataConfig,
    sampling: Sampling | None = None,
    device: torch.device | None = None,
    text_multiple: int | None = None,
) -> Generator[Batch, None, None]:
    """The rank's local batches from sample `start` of the run, where a batch begins, to `stop`, in order; on the host,
    or on their way to `device`.

    `sampling`: which positions of the data set's stream they take; None for all. `text_multiple`: see `whole_batches`.
    Raises DataError when a shard is gone or changed, or a worker process dies.
    """
    taken: Sampling = sampling or Uniform(dataset.stream)
    begin, end = share(taken.batch_size, rank=rank, world_size=world_size)
    loaded = partial(
        _loaded,
        dataset,
        local_size=end - begin,
        config=config,
        device=device or torch.device("cpu"),
        text_multiple=text_multiple,
    )
    with closing(parts(taken, start=start, stop=stop, rank=rank, world_size=world_size)) as chosen:
        if dataset.copies is None:
            yield from loaded(chunks(chosen, _CHUNK_SIZE))
        else:
            yield from _copied(dataset, chosen, loaded, taken, config=config)


def _copied(
    dataset: BatchDataset,
    chosen: Iterator[Positions],
    loaded: Callable[[Iterator[list[int]]], Generator[Batch, None, None]],
    sampling: Sampling,
    *,
    config: DataConfig,
) -> Generator[Batch, None, None]:
    """The samples of `chosen`, whose tars are copied before they are read."""
    copied_for, wanted = itertools.tee(chosen)
    copies = ShardCopies(
        cast(Path, dataset.copies),
        map(dataset.tars, copied_for),
        max_bytes=int(config.scratch_gb * 1e9),
        batches_ahead=_batches_ahead(dataset, sampling, config),
    )
    waiting = chunks(_when_copied(wanted, copies), _CHUNK_SIZE)
    with closing(copies), closing(loaded(waiting)) as here:
        for number, batch in enumerate(here):
            copies.finished(number)
            yield batch


def _when_copied(chosen: Iterator[Positions], copies: ShardCopies) -> Iterator[Positions]:
    """The parts of batches, each when its tars are there."""
    for number, part in enumerate(chosen):
        copies.wait_for(number)
        yield part


def _batches_ahead(dataset: BatchDataset, sampling: Sampling, config: DataConfig) -> int:
    """How far to copy ahead: as long as half a shard of each lane lasts."""
    in_flight = config.num_workers * config.prefetch_chunks
    lasting = config.window * float(dataset.shard_sizes().mean()) / (2 * sampling.positions_a_batch)
    return in_flight + min(max(int(lasting), _LEAST_AHEAD), _MOST_AHEAD)


def _loaded(
    dataset: BatchDataset,
    chunks: Iterator[list[int]],
    *,
    local_size: int,
    config: DataConfig,
    device: torch.device,
    text_multiple: int | None,
) -> Generator[Batch, None, None]:
    """The samples of `chunks`, as batches of `local_size`."""
    whole = partial(whole_batches, local_size=local_size, device=device, text_multiple=text_multiple)
    if config.num_workers == 0:
        yield from whole(map(dataset.__getitems__, chunks), spare=None)
        return
    slots = Slots(
        workers=config.num_workers,
        chunks_ahead=config.prefetch_chunks,
        chunk_size=min(_CHUNK_SIZE, local_size),
        image_size=dataset.image_size,
    )
    dataset.slots = slots
    try:
        with slots.pinned() if device.type == "cuda" else nullcontext():
            loader = _loader(dataset, chunks, config=config, pin_memory=device.type == "cuda")
            yield from whole(_with_pictures(loader, slots), spare=slots.spare)
    except DataError as error:  # from a worker: torch puts its traceback before the line
        raise DataError(str(error).strip().rpartition("DataError: ")[2]) from error
    except RuntimeError as error:
        if "worker" not in str(error):
            raise
        raise DataError(
            f"a data worker died ({one_line(error, 160)}); run again to go on from the last checkpoint"
        ) from error
    finally:
        dataset.slots = None


def _loader(
    dataset: BatchDataset, chunks: Iterator[list[int]], *, config: DataConfig, pin_memory: bool
) -> Iterator[Batch]:
    with warnings.catch_warnings():
        # More workers than cores is the config's choice; torch says it over five lines.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        return iter(
            torch.utils.data.DataLoader(
                dataset,
                batch_sampler=_Chunks(chunks),
                num_workers=config.num_workers,
                prefetch_factor=config.prefetch_chunks,
                collate_fn=cast(Any, _as_it_is),
                worker_init_fn=_start_worker,
                multiprocessing_context=cast(Any, process_context()),
                pin_memory=pin_memory,
                generator=torch.Generator(),  # else it draws the workers' seed, which nobody uses, from the trainer's
            )
        )


def _with_pictures(chunks: Iterator[Batch], slots: Slots) -> Iterator[Batch]:
    for number, chunk in enumerate(chunks):
        yield chunk.having({"image": slots.images(number, len(chunk))})


class _Chunk(list[int]):
    """Positions of a chunk."""

    number: int
    """How many came before it."""


class _Chunks:
    """An iterable of position lists, in DataLoader's terms a batch sampler."""

    def __init__(self, chunks: Iterator[list[int]]) -> None:
        self.chunks = chunks

    def __iter__(self) -> Iterator[list[int]]:
        for number, positions in enumerate(self.chunks):
            chunk = _Chunk(positions)
            chunk.number = number
            yield chunk


def _as_it_is(batch: Batch) -> Batch:
    return batch


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    # Each picture frees what the next one needs: glibc would give it back and ask anew, for a tenth of the CPU time.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 256 << 20)
    watch_parent()

"""The trainer's data path from a bucket against that from a disk, and how well its order mixes.

    python -m benchmarks.train_bucket [--disk SET --bucket s3://BUCKET/SET] [--epochs 3] [--repeats 5] [--workers 0]

Mixing, without data: a set of 1,000 shards of which every ten that follow each other are of one topic, the worst that a
crawl's order can be. Printed for batches of 4,096 and each order: how many shards a batch comes from, the chance that
two of its samples are of one shard, and half of the sum of what its topics' shares differ from the set's (0: none), the
mean of 40 batches; beside them a buffer of 5,000 samples behind 8 readers that read one shard each, as webdataset does.

With the two sets, which must be copies of each other: samples/s and CPU milliseconds a sample (user + system, workers
included, the store's own process not), both in turn, the best of the repeats and how far the median lies above it.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.config import AugmentConfig, DataConfig
from training.data.batches import BatchDataset, batches
from training.data.index import write_index
from training.data.lanes import lanes_of
from training.data.stream import Segment, Stream

SHARDS, SHARD_SIZE, TOPICS = 1000, 10_000, 100
BATCH, NUM_BATCHES = 4096, 40
BUFFER, READERS = 5000, 8


class NoTokens:
    """Stands in for the tokenizer, which is the same for both."""

    context_length = 8

    def __call__(self, texts: list[str], context_length: int = 8) -> Tensor:
        """Zeros."""
        return torch.zeros(len(texts), context_length, dtype=torch.int64)


def by_stream(window: int | None) -> Iterator[npt.NDArray[np.int64]]:
    """Batches of samples of ours."""
    total = SHARDS * SHARD_SIZE
    lanes = () if window is None else (lanes_of([SHARD_SIZE] * SHARDS, [total], window=window, seed=0),)
    stream = Stream(segments=(Segment(sizes=(total,)),), seed=0, global_batch_size=BATCH, lanes=lanes)
    for first in range(0, BATCH * NUM_BATCHES, BATCH):
        yield stream.draw(np.arange(first, first + BATCH)).samples


def by_buffer() -> Iterator[npt.NDArray[np.int64]]:
    """Batches of readers that take the shards in random order, each with a buffer from which it draws."""
    draw = random.Random(0)
    order = draw.sample(range(SHARDS), SHARDS)

    def reader(number: int) -> Iterator[int]:
        buffer: list[int] = []
        for shard in order[number::READERS]:
            for sample in range(shard * SHARD_SIZE, (shard + 1) * SHARD_SIZE):
                buffer.append(sample)
                if len(buffer) > BUFFER:
                    place = draw.randrange(len(buffer))
                    buffer[place], buffer[-1] = buffer[-1], buffer[place]
                    yield buffer.pop()

    readers = [reader(number) for number in range(READERS)]
    for _ in range(NUM_BATCHES):
        yield np.array([next(one) for one in readers for _ in range(BATCH // READERS)])


def mixing(found: Iterator[npt.NDArray[np.int64]]) -> tuple[float, float, float]:
    """Means over batches of: shards in one, chance that two samples are of one shard, distance of the topics."""
    rows = []
    for samples in found:
        counts = np.bincount(samples // SHARD_SIZE, minlength=SHARDS)
        together = float((counts * (counts - 1)).sum() / (BATCH * (BATCH - 1)))
        topics = counts.reshape(TOPICS, -1).sum(axis=1) / BATCH
        rows.append((float((counts > 0).sum()), together, float(np.abs(topics - 1 / TOPICS).sum() / 2)))
    shards, together, distance = np.array(rows).mean(axis=0)
    return float(shards), float(together), float(distance)


def print_mixing() -> None:
    """A row for each order."""
    orders = {"samples": by_stream(None), f"{READERS} buffers of {BUFFER:,}": by_buffer()}
    orders |= {f"window of {window}": by_stream(window) for window in (4, 16, 32, 64, 128, 256)}
    print(f"{'order':22}{'shards a batch':>16}{'two of one shard':>18}{'topics differ by':>18}")
    for name, found in orders.items():
        shards, together, distance = mixing(found)
        print(f"{name:22}{shards:16.0f}{together:18.2%}{distance:18.1%}")


def data_path(path: str, *, epochs: int, workers: int) -> tuple[float, float]:
    """(samples/s, CPU seconds a sample) over `epochs` of the set at `path`, after its index was written."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        index = write_index(path, root=root / "index")
        (root / "copies").mkdir()
        config = DataConfig(path=path, num_workers=workers, order="window")
        dataset = BatchDataset(
            index_dirs=(str(root / "index" / index.fingerprint),),
            stream=Stream(
                segments=(Segment(sizes=index.sizes),),
                seed=0,
                global_batch_size=128,
                lanes=(lanes_of(index.shard_sizes, index.sizes, window=config.window, seed=0),),
            ),
            augment=AugmentConfig(),
            image_size=64,
            tokenizer=NoTokens(),
            seed=0,
            copies=root / "copies",
        )
        stop = epochs * len(index) // 128 * 128
        began, used = time.perf_counter(), cpu_s()
        with closing(batches(dataset, start=0, stop=stop, rank=0, world_size=1, config=config)) as found:
            count = sum(len(batch.keys) for batch in found)
        return count / (time.perf_counter() - began), (cpu_s() - used) / count


def cpu_s() -> float:
    """User and system time of this process and of those that it has waited for."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--disk", help="directory of a set")
    parser.add_argument("--bucket", help="URL of its copy")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="of the trainer; 0, so that their CPU time is seen")
    options = parser.parse_args()
    print_mixing()
    if options.disk is None or options.bucket is None:
        return
    torch.set_num_threads(1)
    print(f"\n{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    found: dict[str, list[tuple[float, float]]] = {options.disk: [], options.bucket: []}
    for _ in range(options.repeats):
        for path, rows in found.items():
            rows.append(data_path(path, epochs=options.epochs, workers=options.workers))
    for path, rows in found.items():
        rates, costs = zip(*rows, strict=True)
        spread = statistics.median(costs) / min(costs) - 1
        print(f"{path:40}{max(rates):8.0f} samples/s{1e3 * min(costs):8.3f} ms CPU a sample (median +{spread:.0%})")
    ratios = [there[1] / here[1] for here, there in zip(*found.values(), strict=True)]
    print(f"bucket / disk, CPU time: {statistics.median(ratios):.3f} (median of {len(ratios)} pairs)")


if __name__ == "__main__":
    main()

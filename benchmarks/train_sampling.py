"""What it costs the trainer to choose its batches by their queries: `data.sampling`.

    python -m benchmarks.train_sampling [--samples 10000000] [--batch 32768] [--repeats 7] [--window 64]

A set of so many samples, memory-mapped as the trainer's index is, whose captions contain 4 of 500,000 queries in the
mean, drawn so that the 16,000 most frequent ones hold 94 % of all matches, as in MetaCLIP's published counts. Printed
are CPU milliseconds (user + system of this process) of one global batch: the median of the repeats, and the worst; for
metaclip also how long counting takes when a run begins, and for each epoch that a resumed run has behind it. The peer
is `heapq` and plain Python over a smaller super-batch, once.
"""

from __future__ import annotations

import argparse
import heapq
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.records.identity import keyed_hash
from training.config import ConceptConfig, MetaclipConfig
from training.data.index import SampleIndex
from training.data.lanes import lanes_of
from training.data.sampling import kernel
from training.data.sampling.concept import Concept
from training.data.sampling.distribution import sampling_distribution
from training.data.sampling.metaclip import Metaclip
from training.data.sampling.sampling import Sampling, Uniform
from training.data.stream import Segment, Stream

QUERIES, HEAD = 500_000, 16_000
EXPONENT, OFFSET = 1.27, 3.0
"""Of the queries' frequencies, (rank + OFFSET) ** -EXPONENT: 94 % of the matches are the HEAD's."""
SHARD_SIZE = 10_000


def make_index(folder: Path, size: int) -> SampleIndex:
    """An index without pictures and captions, on the disk."""
    generator = np.random.default_rng(0)
    chances = np.cumsum((np.arange(QUERIES) + OFFSET) ** -EXPONENT)
    chances /= chances[-1]
    print(f"the {HEAD:,} most frequent queries hold {chances[HEAD - 1]:.1%} of the matches")
    lengths = 1 + generator.poisson(3, size)
    ends = np.cumsum(lengths)
    queries = np.lib.format.open_memmap(folder / "queries.npy", "w+", np.int32, (int(ends[-1]),))
    for low in range(0, len(queries), 1 << 22):
        part = generator.random(min(1 << 22, len(queries) - low))
        queries[low : low + len(part)] = np.searchsorted(chances, part)
    np.save(folder / "query_end.npy", ends)
    np.save(folder / "uid.npy", keyed_hash(0, np.arange(size, dtype=np.uint64)))
    none: Any = np.empty(0)
    shards = [SHARD_SIZE] * (size // SHARD_SIZE) + [size % SHARD_SIZE] * (size % SHARD_SIZE > 0)
    return SampleIndex(
        paths=(),
        tar_bytes=(),
        versions=(),
        shard_sizes=tuple(shards),
        sizes=(size,),
        shard=np.broadcast_to(np.int32(0), size),
        offset=none,
        num_bytes=none,
        uid=np.load(folder / "uid.npy", mmap_mode="r"),
        caption_end=none,
        captions=none,
        num_without_text=0,
        num_without_image=0,
        fingerprint="",
        query_end=np.load(folder / "query_end.npy", mmap_mode="r"),
        queries=np.load(folder / "queries.npy", mmap_mode="r"),
        num_queries=QUERIES,
    )


def milliseconds(action: Callable[[int], object], repeats: int) -> str:
    """CPU of `action(number)` for numbers from 1 on; 0 warms up."""
    action(0)
    found = []
    for number in range(1, repeats + 1):
        start = time.process_time()
        action(number)
        found.append(1e3 * (time.process_time() - start))
    return f"{statistics.median(found):7.1f} ms   (worst {max(found):.1f})"


def in_python(of: kernel.Queries, counts: npt.NDArray[np.int64], cap: int, batch: int) -> list[int]:
    """CABS-DM by heapq, lazily as ours, in floats."""
    ends = of.ends.tolist()
    lists = [of.queries[start:end].tolist() for start, end in zip([0, *ends], ends, strict=False)]
    taken = [0] * len(counts)

    def gain(number: int) -> float:
        queries = lists[number]
        return sum((cap - taken[q]) / cap + 1 / counts[q] for q in queries if taken[q] < cap) / len(queries)

    heap = [(-gain(number), number) for number in range(len(lists))]
    heapq.heapify(heap)
    chosen: list[int] = []
    while len(chosen) < batch:
        old, number = heap[0]
        if -gain(number) == old:
            heapq.heappop(heap)
            chosen.append(number)
            for query in lists[number]:
                taken[query] += 1
        else:
            heapq.heapreplace(heap, (-gain(number), number))
    return chosen


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=32_768)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--window", type=int, default=64)
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        index = make_index(Path(folder), options.samples)
        size, batch = len(index), options.batch
        in_samples = Stream(segments=(Segment(sizes=(size,)),), seed=0, global_batch_size=batch)
        lanes = (lanes_of(index.shard_sizes, index.sizes, window=options.window, seed=0),)
        in_window = Stream(segments=(Segment(sizes=(size,)),), seed=0, global_batch_size=batch, lanes=lanes)
        for order, stream in (("samples", in_samples), ("window", in_window)):
            start = time.process_time()
            metaclip = Metaclip(stream, index, MetaclipConfig(tail_share=0.06))
            begun = time.process_time() - start
            samplings: dict[str, Sampling] = {
                "uniform": Uniform(stream),
                "metaclip": metaclip,
                "concept, diversity": Concept(stream, index, ConceptConfig()),
                "concept, frequency": Concept(stream, index, ConceptConfig(prefer="frequency")),
            }
            print(
                f"order {order}: a batch of {batch:,} of {size:,} samples; metaclip keeps {metaclip.shares_kept[0]:.1%}"
            )
            for name, sampling in samplings.items():
                print(f"  {name:20}{milliseconds(sampling.batch, options.repeats)}")
            if order == "samples":
                start = time.process_time()
                metaclip._sets[0].in_pass(10**6)
                through = time.process_time() - start
                print(f"  metaclip when a run begins: {1e9 * begun / size:.0f} ns a sample of the set")
                print(f"  metaclip for each epoch behind a resumed run: {1e9 * through / size:.0f} ns a sample")
        few = 1 << 13
        of = kernel.gather(np.arange(few), kernel.Queries(np.asarray(index.query_end), np.asarray(index.queries)))
        counts = np.zeros(QUERIES, np.int64)
        kernel.add_counts(of.queries, counts)
        ours = milliseconds(lambda number: kernel.choose_diverse(of, counts, 8, few // 5), options.repeats)
        peer = milliseconds(lambda number: in_python(of, counts, 8, few // 5), 1)
        print(f"the choice alone, {few // 5:,} of {few:,}: ours {ours}, heapq {peer}")
        print("share of the matches of queries with at most t matches, and queries a sample:")
        for name, sampling in samplings.items():
            told = sampling_distribution(sampling, in_window, index, num_batches=2)
            print(f"  {name:20}{told.tail_share(metaclip.limits[0]):6.1%}   {told.queries_a_sample:.2f}")


if __name__ == "__main__":
    main()

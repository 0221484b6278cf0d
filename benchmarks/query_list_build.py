"""Counting for the query list, from wikitext to totals: python -m benchmarks.query_list_build [--words N]

Three rates of one process, in CPU seconds, on the real slice of an encyclopedia (the directory of real data): wikitext
to prose, prose to words and pairs, and counting. Then at least N words through counting, spilling, merging and
ranking, with the peak of memory: the slice's prose again and again, in each copy of which one word in
twenty-five has another ending and one in ten is another word of the slice, so that new words and new pairs keep
coming as they do in a real dump. How many is printed.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import re
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.published_like import slice_articles
from query_list.bigrams import bigrams
from query_list.config import BigramsConfig, DumpConfig, UnigramsConfig
from query_list.corpus import neighbours
from query_list.counting import SpillingCounter, read_bucket, sum_counts
from query_list.prose import read_article
from query_list.unigrams import unigrams

_WORDS_PER_RANGE = 12_500_000
_NUM_BUCKETS = 16
_WORD = re.compile(r"[^\W_]+")


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def copies(proses: list[str], seed: int) -> Iterator[str]:
    """The texts once more, in part with other words."""
    chance = random.Random(seed)
    for prose in proses:
        pieces: list[str] = []
        done = 0
        words = list(_WORD.finditer(prose))
        endings = set(chance.sample(range(len(words)), len(words) // 25))
        for i in sorted(endings.union(chance.sample(range(len(words)), len(words) // 10))):
            word = words[i]
            if i in endings:
                other = word[0][:4] + "".join(chance.choices("aeionrstl", k=3))
            else:
                other = words[chance.randrange(len(words))][0]
            pieces += [prose[done : word.start()], other]
            done = word.end()
        yield "".join([*pieces, prose[done:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OPENWIT_SHARED_DATA", "../shared/data")))
    parser.add_argument("--words", type=float, default=1e7)
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} CPUs")

    articles = [text for _, text in slice_articles(options.data)]
    start = time.process_time()
    read = [read_article(text, ()) for text in articles]
    prose_s = time.process_time() - start
    proses = [article.prose for article in read if article]
    start = time.process_time()
    cut = [neighbours(prose) for prose in proses]
    cut_s = time.process_time() - start
    start = time.process_time()
    words: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    for found, near in cut:
        words.update(found)
        pairs.update(near)
    count_s = time.process_time() - start
    size = words.total()
    for name, seconds in (("to prose", prose_s), ("to words and pairs", cut_s), ("counting", count_s)):
        print(f"{name:<20} {size / seconds:>12,.0f} words/s")
    print(f"{'all of it':<20} {size / (prose_s + cut_s + count_s):>12,.0f} words/s; peak {peak_mib():,} MiB")
    del read, cut, words, pairs

    room = DumpConfig().max_entries_in_memory
    per_range = max(1, _WORDS_PER_RANGE // size)
    num_copies = math.ceil(options.words / size)
    with tempfile.TemporaryDirectory() as directory:
        sources: dict[str, list[str]] = {"words.arrow": [], "bigrams.arrow": []}
        making_s = counting_s = 0.0
        for first in range(0, num_copies, per_range):
            counters = {}
            for kind in sources:
                path = Path(directory, f"{first}.{kind}")
                counters[kind] = SpillingCounter(path, num_buckets=_NUM_BUCKETS, max_entries=room)
                sources[kind].append(str(path))
            for seed in range(first, min(first + per_range, num_copies)):
                start = time.process_time()
                texts = list(copies(proses, seed))
                making_s += time.process_time() - start
                start = time.process_time()
                for text in texts:
                    found, near = neighbours(text)
                    counters["words.arrow"].add(found)
                    counters["bigrams.arrow"].add(near)
                counting_s += time.process_time() - start
            start = time.process_time()
            distinct = [counters[kind].write(Path(paths[-1])) for kind, paths in sources.items()]
            counting_s += time.process_time() - start
            print(f"  range: {distinct[0]:,} words, {distinct[1]:,} pairs; peak {peak_mib():,} MiB", flush=True)
        total = num_copies * size
        print(f"count {total:,} words: {counting_s:.0f} s, {total / counting_s:,.0f} words/s; peak {peak_mib():,} MiB")
        start = time.process_time()
        merged: dict[str, list[pa.Table]] = {kind: [] for kind in sources}
        distinct_in_all = 0
        for bucket in range(_NUM_BUCKETS):
            for kind, paths in sources.items():
                summed = sum_counts(read_bucket(Path(path), bucket) for path in paths)
                distinct_in_all += summed.num_rows
                merged[kind].append(summed.filter(pc.greater_equal(summed["count"], 100)))
        merge_s = time.process_time() - start
        print(f"merge: {merge_s:.0f} s, {distinct_in_all:,} different words and pairs; peak {peak_mib():,} MiB")
        start = time.process_time()
        tables = {kind: pa.concat_tables(parts) for kind, parts in merged.items()}
        single = unigrams(tables["words.arrow"], UnigramsConfig())
        chosen = {candidate.query for candidate in single}
        both = bigrams(tables["bigrams.arrow"], tables["words.arrow"], total, chosen, BigramsConfig())
        print(f"rank: {time.process_time() - start:.1f} s; peak {peak_mib():,} MiB")
        print(f"at least 100 times: {len(single):,} words, {len(both):,} pairs")


if __name__ == "__main__":
    main()

"""Matching against the peer method, in one run: python -m benchmarks.match [--texts N] [--queries Q] [--rounds R]

Ours: the matcher under the published rule and under the rule `words` (cases smart, the default, and fold). Peer,
written for this file: what the published method does, one Aho-Corasick automaton (pyahocorasick) over the queries
with a space on either side, fed each text with spaces around it and around its marks; the different queries of
each text are kept. Captions and list: see published_like.py. CPU seconds of one process; every round measures the
peer and ours in turn, the peer on one text in eight, and the ratio is that of the best rounds.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import ahocorasick
import pyarrow as pa

from benchmarks.published_like import TOTAL, make_captions, make_queries
from pipeline.matching.config import MatchConfig
from pipeline.matching.matcher import Matcher
from pipeline.records.queries import query_list_of

_MARKS = re.compile(r"([,.;:?!`])")
_PEER = "pyahocorasick"


def peer(automaton: ahocorasick.Automaton, texts: list[str]) -> list[set[int]]:
    found = []
    for text in texts:
        prepared = _MARKS.sub(r" \1 ", f" {text} ").replace("\t", " ").replace("\n", " ").replace("\r", " ")
        found.append({query for _, query in automaton.iter(prepared)})
    return found


def rate(work: Callable[[], object], num_texts: int) -> float:
    start = time.process_time()
    work()
    return num_texts / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OPENWIT_SHARED_DATA", "../shared/data")))
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=TOTAL)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()

    texts = make_captions(options.data, options.texts)
    queries, made = make_queries(options.data, options.queries / TOTAL)
    ascii_share = statistics.mean(map(str.isascii, texts))
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} CPUs")
    print(f"{len(queries):,} queries, {made:,} of them real ones with two letters changed")
    print(f"{len(texts):,} texts of {statistics.mean(map(len, texts)):.0f} characters, {ascii_share:.0%} in ASCII")

    automaton = ahocorasick.Automaton()
    for query_id, query in enumerate(queries):
        automaton.add_word(f" {query} ", query_id)
    automaton.make_automaton()
    some = texts[: max(1, len(texts) // 8)]
    work: dict[str, tuple[Callable[[], object], int]] = {_PEER: (lambda: peer(automaton, some), len(some))}
    array = pa.array(texts, pa.large_string())
    for config in (MatchConfig(rule="metaclip"), MatchConfig(), MatchConfig(case="fold")):
        name = f"{config.rule}" + ("" if config.rule == "metaclip" else f", {config.case}")
        start = time.process_time()
        matcher = Matcher.build(query_list_of(queries), config)
        built = time.process_time() - start
        offsets, ids = matcher.find(array)
        work[name] = (lambda matcher=matcher: matcher.find(array), len(texts))
        print(f"{name}: tables in {built:.1f} s, {len(ids) / len(texts):.1f} matches a text")
        if config.rule == "metaclip":
            ours = [set(ids[a:b].tolist()) for a, b in itertools.pairwise(offsets[: len(some) + 1].tolist())]
            differ = sum(a != b for a, b in zip(peer(automaton, some), ours, strict=True))
            print(f"  texts on which the peer finds other queries: {differ:,} of {len(some):,}")
    rates: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.rounds):
        for name, (function, num_texts) in work.items():
            rates[name].append(rate(function, num_texts))
    for name, found in rates.items():
        print(
            f"{name:<14} best {max(found):>11,.0f} texts/s, median {statistics.median(found):>11,.0f}, "
            f"worst {min(found):>11,.0f}; {max(found) / max(rates[_PEER]):5.1f} x"
        )


if __name__ == "__main__":
    main()

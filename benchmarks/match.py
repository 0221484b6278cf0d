"""Matching against the peer method, in one run: python benchmarks/match.py [--texts N] [--queries Q] [--repeats R]

Ours: the matcher with the published rule, and with the words rule. Peer: one Aho-Corasick automaton over
the queries with a space on either side (pyahocorasick), fed the texts prepared as the published rule says.
Captions and WordNet lemmas are real (the directory of real data, or --captions FILE.tsv.gz); the list is
filled up with words and pairs of the encyclopedia slice and of every second caption. Texts that are fewer
than asked for are repeated. Times are CPU seconds of one process.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import gzip
import itertools
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import ahocorasick
import numpy as np
import pyarrow as pa

from pipeline.matching import MatchConfig, Matcher, words
from pipeline.queries import query_list_of
from query_list.corpus import neighbours
from query_list.prose import read_article

MARKS = re.compile(r"([,.;:?!`])")


def peer(automaton: ahocorasick.Automaton, texts: list[str]) -> list[set[int]]:
    found = []
    for text in texts:
        prepared = MARKS.sub(r" \1 ", f" {text} ").replace("\t", " ").replace("\n", " ").replace("\r", " ")
        found.append({query for _, query in automaton.iter(prepared)})
    return found


def timed(work: Callable[[], object], repeats: int) -> list[float]:
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return seconds


def load_captions(data: Path) -> list[str]:
    with gzip.open(data / "captions" / "captions.tsv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        return [row[4] for row in rows if row[1] in ("en", "und")]


def make_queries(data: Path, captions: list[str], size: int) -> list[str]:
    found: dict[str, None] = {}
    for path in sorted((data / "queries").glob("wordnet*.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            found.update((line.split()[0].replace("_", " "), None) for line in lines if not line.startswith(" "))
    for path in (data / "queries").glob("*.bz2"):
        xml = bz2.decompress(path.read_bytes()).decode()
        for wikitext in re.findall(r"<text[^>]*>(.*?)</text>", xml, re.S):
            article = read_article(wikitext.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"'), ())
            for part in neighbours(article.prose) if article else ():
                found.update(dict.fromkeys(part))
    for caption in captions[::2]:
        tokens = words(caption)
        found.update(dict.fromkeys(map(" ".join, itertools.pairwise(tokens))))
        if len(found) >= size:
            break
    return list(found)[:size]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OPENWIT_SHARED_DATA", "../shared/data")))
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    captions = load_captions(options.data)
    queries = make_queries(options.data, captions, options.queries)
    texts = (captions * (1 + options.texts // len(captions)))[: options.texts]
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} CPUs")
    print(f"{len(queries):,} queries, {len(texts):,} texts of {statistics.mean(map(len, texts)):.0f} characters")

    automaton = ahocorasick.Automaton()
    for query_id, query in enumerate(queries):
        automaton.add_word(f" {query} ", query_id)
    automaton.make_automaton()
    peer_texts = texts[: max(1, len(texts) // 5)]
    results = {"pyahocorasick": (len(peer_texts), timed(lambda: peer(automaton, peer_texts), options.repeats))}
    array = pa.array(texts, pa.large_string())
    for config in (MatchConfig(rule="metaclip"), MatchConfig(), MatchConfig(case="fold")):
        start = time.process_time()
        matcher = Matcher.build(query_list_of(queries), config)
        matcher.find(texts[:100])
        built = time.process_time() - start
        name = f"openwit {config.rule}" + ("" if config.rule == "metaclip" else f" {config.case}")
        results[name] = (len(texts), timed(lambda matcher=matcher: matcher.find(array), options.repeats))
        offsets, ids = matcher.find(texts)
        print(f"{name}: tables in {built:.1f} s, {len(ids) / len(texts):.2f} matches a text")
        if config.rule == "metaclip":
            ours = [set(ids[a:b].tolist()) for a, b in itertools.pairwise(offsets)]
            differ = sum(a != b for a, b in zip(peer(automaton, peer_texts), ours, strict=False))
            print(f"texts on which the peer finds other queries: {differ}")
    base = min(results["pyahocorasick"][1]) / results["pyahocorasick"][0]
    for name, (count, seconds) in results.items():
        rates = np.array([count / s for s in seconds])
        ratio = base / (min(seconds) / count)
        print(f"{name:<24} best {rates.max():>12,.0f} texts/s  worst {rates.min():>12,.0f}  {ratio:6.1f} x")


if __name__ == "__main__":
    main()

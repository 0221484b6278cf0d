"""The index of `python -m training index`, against comparing with every vector, and against faiss.

    python -m benchmarks.search [--vectors 1000000] [--width 512] [--features FEATURES --queries FEATURES]
        [--faiss DIR] [--scratch DIR]

Vectors are drawn in 1,000 clusters that overlap, in 48 dimensions of --width, with noise in all of them; queries are
drawn like them and are none of them. With --features they are real: the pictures of FEATURES, and as queries the texts
of --queries, or of FEATURES itself. Every index answers 300 queries, one after the other in one thread of a fresh
process that has only mapped it: recall@10 against brute force in float32, queries a second of CPU time and of the
clock, and anonymous memory of the process (/proc/self/smaps_rollup) beyond what it had before it opened the index.
--faiss is a directory with faiss in it (`pip install --target DIR --no-deps faiss-cpu`): its HNSW and its IVF, both
with fp16 vectors, mapped as it maps them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.made_features import write_features
from training.embedding.feature_files import image_matrix, open_features, text_matrix
from training.search import build, nearest
from training.search.config import IndexConfig
from training.search.index_files import open_index

CLUSTERS, LATENT = 1_000, 48
QUERIES, WARM, K = 300, 50, 10
BLOCK = 50_000
EFFORTS = {"ours": (32, 64, 128, 256), "faiss hnsw fp16": (32, 64, 128, 256), "faiss ivf fp16": (8, 16, 32, 64)}

Matrix = npt.NDArray[np.float32]


def drawn(count: int, width: int, seed: int) -> Iterator[Matrix]:
    """Unit vectors float32[n, width], `count` in all."""
    world, generator = np.random.default_rng(0), np.random.default_rng(seed)
    directions = world.standard_normal((LATENT, width), np.float32) / np.sqrt(width)
    centres = world.standard_normal((CLUSTERS, LATENT), np.float32)
    for first in range(0, count, BLOCK):
        n = min(BLOCK, count - first)
        latent = 0.7 * (
            centres[generator.integers(0, CLUSTERS, n)] + generator.standard_normal((n, LATENT), np.float32)
        )
        vectors = latent @ directions + 0.3 * generator.standard_normal((n, width), np.float32) / np.sqrt(width)
        yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_features(place: Path, count: int, width: int) -> None:
    """Features of `count` pictures."""

    def blocks() -> Iterator[tuple[list[bytes], Matrix]]:
        row = 0
        for vectors in drawn(count, width, 1):
            yield [(row + i).to_bytes(16, "big") for i in range(len(vectors))], vectors
            row += len(vectors)

    write_features(place, blocks(), width)


def texts_of(place: Path) -> Matrix:
    """Features of texts, drawn from all of them."""
    found = []
    for table in open_features(place).parts():
        texts, there = text_matrix(table)
        found.append(texts[there])
    texts = np.concatenate(found)
    return texts[np.random.default_rng(0).permutation(len(texts))[: QUERIES + WARM]]


def blocks_of(place: Path) -> Iterator[Matrix]:
    """Features of pictures, part by part."""
    for table in open_features(place).parts():
        images, there = image_matrix(table)
        yield images[there]


def truth(place: Path, queries: Matrix) -> npt.NDArray[np.int64]:
    """int64[Q, K]: by brute force, in float32."""
    rows, scores, begin = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32), 0
    for block in blocks_of(place):
        found = queries @ block.T
        best = np.argsort(-found, axis=1)[:, :K]
        rows = np.concatenate([rows, best + begin], axis=1)
        scores = np.concatenate([scores, np.take_along_axis(found, best, 1)], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        rows, scores = np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
        begin += len(block)
    return rows


# --- the peers ------------------------------------------------------------------------------------


def build_faiss(name: str, place: Path, width: int, count: int, path: Path) -> None:
    """Write one of faiss's indices."""
    import faiss  # type: ignore[import-not-found]

    kind = faiss.ScalarQuantizer.QT_fp16
    if "hnsw" in name:
        index = faiss.IndexHNSWSQ(width, kind, 16, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 128
    else:
        lists = 1 << int(np.log2(4 * np.sqrt(count)))
        quantiser = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFScalarQuantizer(quantiser, width, lists, kind, faiss.METRIC_INNER_PRODUCT, False)
        index.cp.niter = 8
    sample = np.concatenate([block[:: max(1, count // 200_000)] for block in blocks_of(place)])
    index.train(sample)
    for block in blocks_of(place):
        index.add(block)
    faiss.write_index(index, str(path))


def search_faiss(name: str, path: Path) -> Callable[[Matrix, int], npt.NDArray[np.int64]]:
    """What answers one query with a given effort."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP if "ivf" in name else faiss.IO_FLAG_MMAP_IFC)

    def find(query: Matrix, effort: int) -> npt.NDArray[np.int64]:
        if "ivf" in name:
            index.nprobe = effort
        else:
            index.hnsw.efSearch = effort
        found: npt.NDArray[np.int64] = index.search(query[None], K)[1][0]
        return found

    return find


def search_ours(path: Path) -> Callable[[Matrix, int], npt.NDArray[np.int64]]:
    """The same of ours."""
    vectors = nearest.Vectors(open_index(path))
    return lambda query, effort: vectors.nearest(query, K, effort=effort).rows


# --- one index in a fresh process -----------------------------------------------------------------


def anonymous_mb() -> float:
    """Of this process, by the kernel."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def measure(name: str, path: Path, folder: Path) -> None:
    """Print a line of JSON for each effort."""
    queries, expected = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
    before = anonymous_mb()
    find = search_ours(path) if name == "ours" else search_faiss(name, path)
    for effort in EFFORTS[name]:
        for query in queries[QUERIES:]:
            find(query, effort)
        cpu, clock = time.process_time(), time.perf_counter()
        found = [find(query, effort) for query in queries[:QUERIES]]
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
        recall = np.mean([len(set(f.tolist()) & set(e.tolist())) / K for f, e in zip(found, expected, strict=False)])
        facts = {"effort": effort, "recall": float(recall), "cpu": QUERIES / cpu, "clock": QUERIES / clock}
        print(json.dumps(facts | {"anonymous": anonymous_mb() - before}), flush=True)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--queries", type=Path)
    parser.add_argument("--faiss", type=Path)
    parser.add_argument("--only", nargs="+", default=list(EFFORTS), choices=list(EFFORTS))
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.faiss is not None:
        sys.path.append(str(options.faiss))
    nearest.EXACT_ROWS = 0  # a graph over any number
    if options.measure is not None:
        name, path, folder = options.measure
        measure(name, Path(path), Path(folder))
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch)
        place = options.features or folder / "features"
        if options.features is None:
            make_features(place, options.vectors, options.width)
            queries = next(drawn(QUERIES + WARM, options.width, 2))
        else:
            queries = texts_of(options.queries or place)
        np.save(folder / "queries.npy", queries)
        np.save(folder / "truth.npy", truth(place, queries[:QUERIES]))
        about = open_features(place).about
        print(f"{about.images:,} vectors of width {about.width}, {QUERIES} queries, recall@{K}")
        whole = np.concatenate(list(blocks_of(place))) if about.images <= 100_000 else None
        if whole is not None:
            cpu = time.process_time()
            for query in queries[:20]:
                np.argpartition(-(whole @ query), K)
            print(
                f"brute force in float32, all in memory: {20 / (time.process_time() - cpu):,.0f} queries/s of CPU time"
            )
            del whole
        for name in options.only:
            if name != "ours" and options.faiss is None:
                continue
            path, cpu, clock = folder / name.replace(" ", "-"), time.process_time(), time.perf_counter()
            if name == "ours":
                found = build.build_index(IndexConfig(features=str(place), to=str(path)))
                size = sum(found.about.num_bytes.values())
            else:
                build_faiss(name, place, about.width, about.images, path)
                size = path.stat().st_size
            cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
            print(f"{name}: made in {cpu:,.0f} s of CPU time ({clock:,.0f} s), {size / 1e6:,.0f} MB", flush=True)
            words = [sys.executable, "-m", "benchmarks.search", "--measure", name, str(path), str(folder)]
            words += [] if options.faiss is None else ["--faiss", str(options.faiss)]
            told: Any = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            for line in map(json.loads, told.splitlines()):
                print(
                    f"   effort {line['effort']:>4}   recall {line['recall']:.4f}   {line['cpu']:>6,.0f} queries/s of "
                    f"CPU time ({line['clock']:,.0f} by the clock)   {line['anonymous']:,.0f} MB anonymous",
                    flush=True,
                )


if __name__ == "__main__":
    main()

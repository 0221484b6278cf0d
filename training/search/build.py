"""An index of features: its vectors and rows, part by part, and a graph over them where they are many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from configs.load import fingerprint
from pipeline.storage.atomic import sweep
from pipeline.storage.copies import scratch_files
from pipeline.storage.place import files_in, place_of
from pipeline.storage.written import written
from training.embedding.feature_files import FeatureFacts, FeatureSet, image_matrix, open_features, text_matrix
from training.errors import FeaturesError, OutputError
from training.search import nearest
from training.search.config import IndexConfig
from training.search.graph import build_graph, check_usearch
from training.search.index_files import (
    INDEX_FILE,
    ROWS,
    IndexFacts,
    IndexPlace,
    facts_of_index,
    open_index,
    write_index_facts,
)

__all__ = ["build_index"]

_BLOCK = 4096


def build_index(config: IndexConfig, *, tell: Callable[[int, int], None] = lambda done, total: None) -> IndexPlace:
    """The index that `config` asks for; one that is there and fresh stays. `tell` hears how many vectors of how many
    are in the graph.

    Raises FeaturesError where there are no features, or none of that kind; TrainingError without usearch where a graph
    is needed; OutputError.
    """
    features = open_features(config.features)
    about = features.about
    count = about.images if config.of == "image" else about.texts
    if not count:
        raise FeaturesError(
            f"{config.features}: has no features of {config.of}s; run embed with --what both, or index with --of "
            f"{'text' if config.of == 'image' else 'image'}"
        )
    with_graph = count > nearest.EXACT_ROWS
    if with_graph:
        check_usearch()
    place = features.place / "index" if config.to is None else place_of(config.to)
    if isinstance(place, Path) and place.is_dir() and any(place.iterdir()) and not _is_ours(place):
        raise OutputError(f"{place}: not empty, and holds no index; set --to to another directory")
    name = fingerprint(about.content, config.of, config.neighbours, config.effort, with_graph)[:12]
    files = {"vectors": f"vectors-{name}.npy", "rows": f"rows-{name}.arrow"}
    files |= {"graph": f"graph-{name}.usearch"} if with_graph else {}
    if facts_of_index(place).get("files") == files:
        try:
            found = open_index(place)
            for what in files:
                found.file(what)
        except FeaturesError:
            pass  # damaged: made again
        else:
            return found
    sweep(place)
    sizes = {}
    with scratch_files() as scratch:
        vectors = scratch / "vectors.npy" if not isinstance(place, Path) else place / f"{files['vectors']}.tmp-made"
        vectors.parent.mkdir(parents=True, exist_ok=True)
        with written(place / files["rows"]) as rows:
            _write_vectors(features, config.of, count, vectors, rows)
            sizes["rows"] = rows.stat().st_size
        sizes["vectors"] = vectors.stat().st_size
        if with_graph:
            with written(place / files["graph"]) as graph:
                build_graph(
                    _blocks(vectors, tell),
                    graph,
                    width=about.width,
                    neighbours=config.neighbours,
                    effort=config.effort,
                    threads=config.threads,
                )
                sizes["graph"] = graph.stat().st_size
        with written(place / files["vectors"]) as to:
            vectors.rename(to)
    made = _facts(config, about, count, files, sizes)
    write_index_facts(place, made)
    for path in files_in(place, "*-*"):
        if path.name not in files.values() and path.name.startswith(("vectors-", "rows-", "graph-")):
            path.unlink()
    return IndexPlace(place=place, about=made)


def _is_ours(place: Path) -> bool:
    names = [path.name for path in place.iterdir()]
    return INDEX_FILE in names or all(name.startswith(("vectors-", "rows-", "graph-")) for name in names)


def _facts(
    config: IndexConfig, about: FeatureFacts, count: int, files: dict[str, str], sizes: dict[str, int]
) -> IndexFacts:
    return IndexFacts(
        features=config.features,
        content=about.content,
        of=config.of,
        rows=count,
        width=about.width,
        model=about.model,
        model_fingerprint=about.model_fingerprint,
        model_name=about.model_name,
        source=about.source,
        kind=about.kind,
        columns=dict(about.columns),
        parts=tuple(part.name for part in about.parts),
        neighbours=config.neighbours,
        effort=config.effort,
        files=files,
        num_bytes=sizes,
    )


def _write_vectors(features: FeatureSet, of: str, count: int, vectors: Path, rows: Path) -> None:
    matrix_of = image_matrix if of == "image" else text_matrix
    with vectors.open("wb") as file, pa.OSFile(str(rows), "wb") as sink, pa.ipc.new_file(sink, ROWS) as writer:
        _write_header(file, (count, features.about.width))
        for number, table in enumerate(features.parts()):
            matrix, there = matrix_of(table)
            file.write(np.ascontiguousarray(matrix[there].astype(np.float16)).data)
            which = np.flatnonzero(there)
            columns = [
                table["uid"].take(pa.array(which)).combine_chunks(),
                table["name"].take(pa.array(which)).combine_chunks(),
                pa.array(np.full(len(which), number, np.int32)),
                pa.array(which.astype(np.int32)),
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=ROWS))


def _write_header(file: BinaryIO, shape: tuple[int, int]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _blocks(path: Path, tell: Callable[[int, int], None]) -> Iterator[npt.NDArray[np.float32]]:
    vectors: npt.NDArray[np.float16] = np.load(path, mmap_mode="r", allow_pickle=False)
    for first in range(0, len(vectors), _BLOCK):
        yield vectors[first : first + _BLOCK].astype(np.float32)
        tell(min(first + _BLOCK, len(vectors)), len(vectors))

"""Which pictures of a whole set say the same: SemDeDup (`duplicates.py`) over more than fits in memory.

    parts --drawn by uid, k-means--> centroids                                     one task
    parts --nearest centroid--> PART.assigned.parquet: rows sorted by cluster      a task a part
    some clusters of all of these --compared within each--> alike.parquet          a task for each range of clusters

In memory are the rows that k-means learns from, one part, or the clusters of a range: never the set. The second step
writes the features once more to the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.engine import Info, Needs, Task, apart, output
from pipeline.records.identity import first_64_bits, keyed_hash
from pipeline.storage.checked import load_vector, read_part
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import parquet_writer, save_vector, write_parquet
from pipeline.watching import counting
from training.distributed import place_of as device_of
from training.embedding.feature_files import image_matrix
from training.scores.config import Keep
from training.scores.cosine import unit_rows
from training.scores.duplicates import in_order, nearest_before, stand_ins
from training.scores.k_means import centroids_of, nearest
from training.scores.parts import features_of_part

__all__ = ["ALIKE", "Alike", "AssignPart", "Assigned", "Centroids", "CompareClusters", "FindClusters"]

ALIKE = pa.schema(
    [
        pa.field("uid", pa.binary(16), nullable=False),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("similarity", pa.float32()),  # highest cosine with a row that stands before it; null for the first
        pa.field("duplicate_of", pa.binary(16)),  # uid of a row that stays; null where it stays itself
    ]
)
_ROW_GROUP_ROWS = 4096
"""Of rows sorted by cluster: what is read of a part for a range of clusters is little more than the range."""
_Uids = npt.NDArray[np.void]


def _pictures(part: Location) -> tuple[_Uids, npt.NDArray[np.float16]]:
    """(V16[N], float16[N, D]): the rows of a part whose picture has a direction, as they are stored."""
    table = features_of_part(part, ("uid", "image"))
    rows_ND, there_N = image_matrix(table)
    usable_N = there_N & ~np.isnan(unit_rows(rows_ND)[:, 0])
    return _uids_of(table["uid"])[usable_N], rows_ND[usable_N].astype(np.float16)


def _uids_of(column: pa.ChunkedArray) -> _Uids:
    return np.frombuffer(b"".join(column.to_pylist()), np.dtype("V16"))


def _in_uid_order(uids: _Uids) -> npt.NDArray[np.int64]:
    halves = uids.view(np.dtype(">u8")).reshape(-1, 2)
    return np.lexsort((halves[:, 1], halves[:, 0]))


# --- centroids ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Centroids:
    """float32[K, D] of length 1."""

    centroids: Location = output("centroids.npy")


@dataclass(frozen=True, kw_only=True)
class FindClusters(Task[Centroids]):
    """Spherical k-means over rows that are drawn by their uids; parts and their order play no part."""

    parts_read: Files
    clusters: int
    share: float
    """Of all rows, that are learnt from."""
    iterations: int
    seed: int
    device: str
    memory_mb: int = apart()

    @property
    def needs(self) -> Needs:
        return Needs(memory_mb=self.memory_mb)

    def work(self, out: Centroids) -> Info:
        tally = counting("part", total=len(self.parts_read))
        uids, rows = [], []
        for part in self.parts_read:
            uids_N, rows_ND = _pictures(part)
            drawn_N = keyed_hash(self.seed, first_64_bits(uids_N)) <= np.uint64(min(self.share, 1.0) * (2.0**64 - 2048))
            uids.append(uids_N[drawn_N])
            rows.append(rows_ND[drawn_N])
            tally.done += 1
        order_N = _in_uid_order(np.concatenate(uids))
        rows_MD = _tensor(np.concatenate(rows)[order_N], self.device)
        centroids_KD = centroids_of(rows_MD, self.clusters, iterations=self.iterations, seed=self.seed)
        save_vector(out.centroids.local, centroids_KD.cpu().numpy())
        return {"rows": len(order_N), "clusters": len(centroids_KD)}


def _tensor(rows_ND: npt.NDArray[np.float16], device: str) -> Tensor:
    """float32[N, D] of length 1, on the device."""
    chosen: Any = device
    rows: Tensor = torch.from_numpy(rows_ND).to(device_of(chosen)).float()
    return rows.div_(rows.norm(dim=1, keepdim=True))


# --- rows by cluster ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Assigned:
    """A part's pictures sorted by cluster: uid, cluster, to_centre (the cosine), image (float16, as bytes)."""

    rows: Location = output("assigned.parquet")


@dataclass(frozen=True, kw_only=True)
class AssignPart(Task[Assigned]):
    """The nearest centroid of each picture of a part."""

    part: Location
    centroids: Location
    device: str

    def work(self, out: Assigned) -> Info:
        uids_N, rows_ND = _pictures(self.part)
        tally = counting("row", total=len(rows_ND))
        centroids_KD = torch.from_numpy(np.array(load_vector(self.centroids)))
        rows = _tensor(rows_ND, self.device)
        cluster_N, to_centre_N = (found.cpu().numpy() for found in nearest(rows, centroids_KD.to(rows.device)))
        order_N = np.argsort(cluster_N, kind="stable")
        as_bytes = pa.binary(2 * rows_ND.shape[1])
        table = pa.table(
            {
                "uid": _fixed(uids_N[order_N], pa.binary(16)),
                "cluster": pa.array(cluster_N[order_N], pa.int32()),
                "to_centre": pa.array(to_centre_N[order_N], pa.float32()),
                "image": _fixed(rows_ND[order_N], as_bytes),
            }
        )
        with parquet_writer(out.rows.local, table.schema) as writer:
            writer.write_table(table, row_group_size=_ROW_GROUP_ROWS)
        tally.done = len(rows_ND)
        return {"rows": len(rows_ND)}


def _fixed(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """One value of fixed size a row."""
    buffer = pa.py_buffer(np.ascontiguousarray(values).tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(values), [None, buffer])


# --- what is alike --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Alike:
    """The rows of some clusters, of ALIKE, cluster after cluster."""

    alike: Location = output("alike.parquet", ALIKE)


@dataclass(frozen=True, kw_only=True)
class CompareClusters(Task[Alike]):
    """The clusters `first` to `last` - 1, each by itself."""

    assigned: Files
    first: int
    last: int
    eps: float
    keep: Keep
    seed: int
    device: str
    memory_mb: int = apart()

    @property
    def needs(self) -> Needs:
        return Needs(memory_mb=self.memory_mb)

    def work(self, out: Alike) -> Info:
        wanted = [("cluster", ">=", self.first), ("cluster", "<", self.last)]
        table = pa.concat_tables([read_part(part, wanted) for part in self.assigned]).combine_chunks()
        tally = counting("row", total=len(table))
        uids_N, cluster_N = _uids_of(table["uid"]), table["cluster"].to_numpy()
        order_N = np.argsort(cluster_N, kind="stable")
        starts = np.searchsorted(cluster_N[order_N], np.arange(self.first, self.last + 1))

        def rows() -> Iterator[pa.RecordBatch]:
            for number, first, last in zip(range(self.first, self.last), starts[:-1], starts[1:], strict=True):
                if first < last:
                    yield self._compared(number, table.take(pa.array(order_N[first:last])), uids_N[order_N[first:last]])
                    tally.done += int(last - first)

        written = write_parquet(out.alike.local, rows(), ALIKE)
        return {"rows": written, "largest": int(np.diff(starts).max(initial=0))}

    def _compared(self, cluster: int, table: pa.Table, uids_N: _Uids) -> pa.RecordBatch:
        order_N = in_order(table["to_centre"].to_numpy(), uids_N, self.keep, seed=self.seed)
        halves = np.frombuffer(b"".join(table["image"].to_pylist()), np.float16).reshape(len(table), -1)
        found = nearest_before(_tensor(halves[order_N], self.device))
        stays_N = stand_ins(found, self.eps)
        uids_N = uids_N[order_N]
        places_N = np.arange(len(uids_N))
        duplicate_of = [None if stays == place else uids_N[stays].tobytes() for place, stays in enumerate(stays_N)]
        return pa.RecordBatch.from_arrays(
            [
                _fixed(uids_N, pa.binary(16)),
                pa.array(np.full(len(uids_N), cluster), pa.int32()),
                pa.array(found.similarity, pa.float32(), mask=places_N == 0),
                pa.array(duplicate_of, pa.binary(16)),
            ],
            schema=ALIKE,
        )

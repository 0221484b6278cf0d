"""Tasks travel in small parcels: lists of files that many of them share go once."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import Info, Needs, Task, apart, open_engine, output, parcel
from pipeline.engine.config import EngineConfig
from pipeline.engine.parcel import Packer, unpack
from pipeline.storage.location import Files, Location


def files(count: int, name: str = "f") -> Files:
    return Files(Location(f"/set/work/step/{name}{i:06d}.parquet", f"{i:032x}") for i in range(count))


@dataclass(frozen=True, kw_only=True)
class Text:
    text: Location = output("txt")


@dataclass(frozen=True, kw_only=True)
class Both:
    left: Files
    right: Files


@dataclass(frozen=True, kw_only=True)
class Read(Task[Text]):
    """Writes what it is told to read."""

    both: Both
    number: int

    def work(self, out: Text) -> Info:
        assert type(self.both.left) is Files
        out.text.local.write_text(f"{self.number} {self.both.left.digest} {[f.path for f in self.both.right[:3]]}")
        return {"left": len(self.both.left), "right": len(self.both.right)}


class Store:
    """Stands for Ray's."""

    def __init__(self) -> None:
        import ray.cloudpickle

        self.cloudpickle = ray.cloudpickle
        self.kept: list[bytes] = []

    def put(self, value: Any) -> int:
        self.kept.append(pickle.dumps(value))
        return len(self.kept) - 1

    def get(self, references: Sequence[int]) -> list[Any]:
        return [pickle.loads(self.kept[reference]) for reference in references]


def test_a_list_that_tasks_share_is_kept_once_and_what_is_unpacked_is_the_same() -> None:
    store = Store()
    packer = Packer(store)
    both = Both(left=files(1000), right=files(200, "g"))
    tasks = [Read(partition=str(i), both=both, number=i) for i in range(5)]
    packed = [packer.pack(("directory", task)) for task in tasks]
    assert len(store.kept) == 2
    assert all(len(references) == 2 and len(body) < 1000 for body, references in packed[1:])
    assert [unpack(body, store.get(references)) for body, references in packed] == [("directory", t) for t in tasks]
    unpacked = unpack(packed[4][0], store.get(packed[4][1]))[1]
    assert unpacked.key == tasks[4].key


def test_lists_of_one_task_and_short_ones_go_with_it() -> None:
    store = Store()
    packer = Packer(store)
    short = files(parcel._LEAST_FILES - 1)
    tasks = [Read(partition=str(i), both=Both(left=files(150), right=short), number=i) for i in range(40)]
    for task in tasks:
        body, references = packer.pack(task)
        assert references == []
        assert unpack(body, ()) == task
    assert not store.kept
    assert len(packer._met) == parcel._REMEMBERED


def test_a_list_that_one_task_has_twice_is_no_shared_one() -> None:
    store = Store()
    each = files(150)
    task = Read(partition="a", both=Both(left=each, right=each), number=0)
    body, references = Packer(store).pack(task)
    assert references == []
    assert unpack(body, ()) == task


def test_workers_read_what_was_shared(tmp_path: Path, ray_engine: Any) -> None:
    both = Both(left=files(3000), right=files(120, "g"))
    tasks = [Read(partition=str(i), both=both, number=i) for i in range(6)]
    with open_engine(EngineConfig(kind="inline")) as engine:
        inline = engine.run_step(tmp_path / "inline", tasks)
    assert ray_engine.run_step(tmp_path / "ray", tasks) == inline


@dataclass(frozen=True, kw_only=True)
class TellMuch(Task[Text]):
    def work(self, out: Text) -> Info:
        out.text.local.write_text("x")
        return {"much": "x" * 300_000}


def test_records_too_large_for_a_message_come_back(tmp_path: Path, ray_engine: Any) -> None:
    records = ray_engine.run_step(tmp_path / "step", [TellMuch(partition=str(i)) for i in range(3)])
    assert [len(record.info["much"]) for record in records] == [300_000] * 3


# --- what tasks ask for ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Meet(Task[Text]):
    """Waits until all are there."""

    here: str
    count: int
    asks: Needs = apart()

    @property
    def needs(self) -> Needs:
        return self.asks

    def work(self, out: Text) -> Info:
        import time

        (Path(self.here) / self.partition).touch()
        until = time.monotonic() + 120
        while len(list(Path(self.here).iterdir())) < self.count:
            assert time.monotonic() < until
            time.sleep(0.05)
        out.text.local.write_text("met")
        return {}


@pytest.mark.parametrize(
    ("count", "asks"), [(4, Needs(cpus=0.5, memory_mb=100)), (1, Needs(cpus=64, memory_mb=1_000_000_000))]
)
def test_tasks_run_as_many_at_once_as_fit(tmp_path: Path, ray_engine: Any, count: int, asks: Needs) -> None:
    (tmp_path / "here").mkdir()
    tasks = [Meet(partition=str(i), here=str(tmp_path / "here"), count=count, asks=asks) for i in range(count)]
    assert len(ray_engine.run_step(tmp_path / "step", tasks)) == count

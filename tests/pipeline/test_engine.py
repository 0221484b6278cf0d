from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import (
    Data,
    EngineConfig,
    Info,
    Task,
    TaskOfParts,
    apart,
    forget,
    open_engine,
    output,
    record_of,
    records_in,
)
from pipeline.engine.on_ray import run_task_in
from pipeline.errors import DamagedFileError, EngineError, LockedError, OutputError
from pipeline.storage.atomic import read_json, sweep, write_bytes, write_json
from pipeline.storage.location import Files, Location
from pipeline.storage.output import open_output

INLINE = EngineConfig(kind="inline")


@dataclass(frozen=True, kw_only=True)
class Text:
    text: Location = output("txt")


@dataclass(frozen=True, kw_only=True)
class Write(Task[Text]):
    text: str = "x"
    log: str = apart()

    def work(self, out: Text) -> Info:
        out.text.local.write_text(self.text)
        with open(self.log, "a") as log:
            log.write("ran\n")
        return {"rows": 1}


@dataclass(frozen=True, kw_only=True)
class FailHalfWay(Task[Text]):
    def work(self, out: Text) -> Info:
        out.text.local.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")


@dataclass(frozen=True, kw_only=True)
class DieOnce(Task[Text]):
    flag: str
    always: bool

    def work(self, out: Text) -> Info:
        flag = Path(self.flag)
        out.text.local.write_text("whole")
        if not flag.exists() or self.always:
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {}


@dataclass(frozen=True, kw_only=True)
class MeetDamage(Task[Text]):
    def work(self, out: Text) -> Info:
        raise DamagedFileError("/set/work/x.npy", "its bytes are not those that were written")


def _task(name: str, log: Path, *, text: str = "x") -> Write:
    return Write(partition=name, text=text, log=str(log))


def test_done_tasks_are_skipped_and_changed_ones_redone(tmp_path: Path) -> None:
    step, log = tmp_path / "step", tmp_path / "log"
    with open_engine(INLINE) as engine:
        first = engine.run_step(step, [_task("a", log), _task("b", log)])
        again = engine.run_step(step, [_task("a", log), _task("b", log)])
        assert first == again
        assert log.read_text().count("ran") == 2
        engine.run_step(step, [_task("a", log), _task("b", log, text="y")])
    assert log.read_text().count("ran") == 3
    assert (step / "b.txt").read_text() == "y"


def test_lost_or_shortened_output_is_made_again(tmp_path: Path) -> None:
    step, log = tmp_path / "step", tmp_path / "log"
    with open_engine(INLINE) as engine:
        engine.run_step(step, [_task("a", log, text="long")])
        (step / "a.txt").write_text("")
        engine.run_step(step, [_task("a", log, text="long")])
        (step / "a.txt").unlink()
        engine.run_step(step, [_task("a", log, text="long")])
    assert log.read_text().count("ran") == 3


def test_outputs_of_partitions_no_longer_planned_are_removed(tmp_path: Path) -> None:
    step, log = tmp_path / "step", tmp_path / "log"
    with open_engine(INLINE) as engine:
        engine.run_step(step, [_task("a", log), _task("b", log)])
        engine.run_step(step, [_task("a", log)])
    assert sorted(p.name for p in step.rglob("*") if p.is_file()) == ["a.json", "a.txt", "manifest.json"]


def test_full_disk_is_one_clear_line_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    task = FailHalfWay(partition="a")
    with open_engine(INLINE) as engine, pytest.raises(OutputError, match="no space left"):
        engine.run_step(tmp_path / "step", [task])
    assert not [p for p in (tmp_path / "step").rglob("*") if p.is_file()]


def test_damaged_record_counts_as_not_done(tmp_path: Path) -> None:
    step, log = tmp_path / "step", tmp_path / "log"
    with open_engine(INLINE) as engine:
        engine.run_step(step, [_task("a", log)])
        (step / "done" / "a.json").write_text('{"key": "k", "outp')
        engine.run_step(step, [_task("a", log)])
    assert log.read_text().count("ran") == 2


@pytest.mark.parametrize("content", [{}, {"tasks": None}, {"tasks": [{}]}, {"tasks": [7]}])
def test_manifest_of_another_form_is_written_anew(tmp_path: Path, content: dict[str, Any]) -> None:
    with open_engine(INLINE) as engine:
        tasks = [_task("a", tmp_path / "log")]
        engine.run_step(tmp_path / "step", tasks)
        manifest = (tmp_path / "step/manifest.json").read_bytes()
        write_json(tmp_path / "step/manifest.json", content)  # without a hash, as earlier versions wrote it
        engine.run_step(tmp_path / "step", tasks)
    assert (tmp_path / "step/manifest.json").read_bytes() == manifest
    assert (tmp_path / "log").read_text() == "ran\n"


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> int:
    """So many tasks are many."""
    monkeypatch.setattr("pipeline.engine.record._TOGETHER_FROM", 4)
    return 5


def _ran(log: Path) -> int:
    ran = log.read_text().count("ran") if log.exists() else 0
    log.unlink(missing_ok=True)
    return ran


def test_records_of_a_step_of_many_tasks_are_one_file(tmp_path: Path, many: int) -> None:
    step, log = tmp_path / "step", tmp_path / "log"
    tasks = [_task(f"t{i}", log) for i in range(many)]
    with open_engine(INLINE) as engine:
        first = engine.run_step(step, tasks)
        assert _ran(log) == many
        assert [p.name for p in (step / "done").iterdir()] == []
        assert len((step / "records.jsonl").read_bytes().splitlines()) == many
        state = {p: p.stat().st_mtime_ns for p in step.rglob("*")}
        assert engine.run_step(step, tasks) == first
        assert {p: p.stat().st_mtime_ns for p in step.rglob("*")} == state
        assert [r.partition for r in records_in(step)] == [t.partition for t in tasks]
        assert record_of(step, "t3") == first[3]
        forget(step, "t3")
        assert record_of(step, "t3") is None
        assert engine.run_step(step, tasks) == first
        assert _ran(log) == 1
        assert engine.run_step(step, tasks[:2]) == first[:2]
    assert _ran(log) == 0
    assert sorted(p.name for p in step.rglob("*") if p.is_file()) == [
        "manifest.json",
        "records.jsonl",
        "t0.txt",
        "t1.txt",
    ]


def test_many_that_are_forgotten_cost_one_file(tmp_path: Path, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a crawl, each would be a hundred megabytes to read and to write."""
    step, log, written = tmp_path / "step", tmp_path / "log", []
    tasks = [_task(f"t{i}", log) for i in range(many)]
    with open_engine(INLINE) as engine:
        engine.run_step(step, tasks)

        def counted(path: Path, data: bytes) -> None:
            written.append(path)
            write_bytes(path, data)

        monkeypatch.setattr("pipeline.engine.record.write_bytes", counted)
        forget(step, "t0", "t2", "t3")
        assert len(written) == 1
        assert [r.partition for r in records_in(step)] == ["t1", "t4"]


def test_task_that_is_done_again_has_no_older_record(tmp_path: Path, many: int) -> None:
    """A kill in its middle must not leave the new bytes with the old record."""
    step, log = tmp_path / "step", tmp_path / "log"
    tasks = [_task(f"t{i}", log) for i in range(many)]
    with open_engine(INLINE) as engine:
        engine.run_step(step, tasks)
        with pytest.raises(OutputError):
            engine.run_step(step, [*tasks[:-1], FailHalfWay(partition=tasks[-1].partition)])
        assert record_of(step, tasks[-1].partition) is None
        _ran(log)
        engine.run_step(step, tasks)
    assert _ran(log) == 1


@pytest.mark.parametrize("place", [0, 20, -3])
def test_damaged_line_of_the_records_costs_its_task_alone(tmp_path: Path, many: int, place: int) -> None:
    step, log = tmp_path / "step", tmp_path / "log"
    tasks = [_task(f"t{i}", log) for i in range(many)]
    with open_engine(INLINE) as engine:
        first = engine.run_step(step, tasks)
        lines = (step / "records.jsonl").read_bytes().split(b"\n")
        line = bytearray(lines[2])
        line[place] ^= 1
        lines[2] = bytes(line)
        (step / "records.jsonl").write_bytes(b"\n".join(lines))
        _ran(log)
        assert engine.run_step(step, tasks) == first
        assert _ran(log) == 1
        data = (step / "records.jsonl").read_bytes()
        (step / "records.jsonl").write_bytes(data[: len(data) // 2])
        assert engine.run_step(step, tasks) == first
    assert 2 <= _ran(log) <= 3


def test_facts_that_stay_keep_a_record_each(tmp_path: Path, many: int) -> None:
    step, log = tmp_path / "step", tmp_path / "log"
    with open_engine(INLINE) as engine:
        engine.run_step(step, [_task(f"t{i}", log) for i in range(many)], keep=True)
    assert len(list((step / "done").iterdir())) == many
    assert not (step / "records.jsonl").exists()


def test_result_of_a_worker_whose_driver_is_gone_is_not_committed(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    driver = (os.uname().nodename, gone.pid)
    with pytest.raises(EngineError, match="is gone"):
        run_task_in(os.getcwd(), driver, str(tmp_path / "step"), _task("a", tmp_path / "log"))
    assert not [p for p in (tmp_path / "step").rglob("*") if p.is_file()]


def test_ray_and_inline_write_the_same_files(tmp_path: Path, ray_engine: Any) -> None:
    tasks = [_task(f"p{i}", tmp_path / "log", text=str(i)) for i in range(8)]
    with open_engine(INLINE) as engine:
        inline = engine.run_step(tmp_path / "inline", tasks)
    on_ray = ray_engine.run_step(tmp_path / "ray", tasks)
    assert inline == on_ray
    for name in ("manifest.json", *(f"p{i}.txt" for i in range(8))):
        assert (tmp_path / "inline" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()


def test_killed_worker_costs_a_retry_and_nothing_else(tmp_path: Path, ray_engine: Any) -> None:
    task = DieOnce(partition="a", flag=str(tmp_path / "flag"), always=False)
    ray_engine.run_step(tmp_path / "step", [task])
    assert (tmp_path / "step" / "a.txt").read_text() == "whole"
    assert not [p for p in (tmp_path / "step").iterdir() if ".tmp-" in p.name]


def test_worker_that_always_dies_is_an_engine_error(tmp_path: Path, ray_engine: Any) -> None:
    task = DieOnce(partition="a", flag=str(tmp_path / "flag"), always=True)
    with pytest.raises(EngineError, match="its process died"):
        ray_engine.run_step(tmp_path / "step", [task])


def test_error_in_a_task_comes_back_as_itself(tmp_path: Path, ray_engine: Any) -> None:
    task = FailHalfWay(partition="a")
    with pytest.raises(OutputError, match="no space left") as caught:
        ray_engine.run_step(tmp_path / "step", [task])
    assert "\n" not in str(caught.value)


def test_damage_that_a_worker_meets_comes_back_with_the_name_of_the_file(tmp_path: Path, ray_engine: Any) -> None:
    task = MeetDamage(partition="a")
    with pytest.raises(DamagedFileError) as caught:
        ray_engine.run_step(tmp_path / "step", [task])
    assert (caught.value.path, caught.value.what) == ("/set/work/x.npy", "its bytes are not those that were written")


def test_unreachable_cluster_is_one_clear_line(tmp_path: Path) -> None:
    config = EngineConfig(address="127.0.0.1:1")
    with open_engine(config) as engine, pytest.raises(EngineError, match="cannot start or reach the cluster at 127"):
        engine.run_step(tmp_path / "step", [_task("a", tmp_path / "log")])


def test_output_directory_is_ours_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds files that are not ours \(thesis.txt\)"), open_output(foreign):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"), open_output(tmp_path / "file" / "x"):
        pass
    newer = tmp_path / "newer"
    newer.mkdir()
    write_json(newer / "openwit.json", {"layout_version": 99})
    with pytest.raises(OutputError, match="written by a newer openwit"), open_output(newer):
        pass


def test_live_run_locks_its_directory(tmp_path: Path) -> None:
    held = open_output(tmp_path / "out")
    with held, pytest.raises(LockedError, match=f"process {os.getpid()}"), open_output(tmp_path / "out"):
        pass
    with open_output(tmp_path / "out"):  # the lock goes with its holder
        pass


def test_sweep_removes_only_unfinished_files(tmp_path: Path) -> None:
    (tmp_path / "a.parquet.tmp-0123456789ab").write_text("half")
    (tmp_path / "a.parquet").write_text("whole")
    sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [1]})
    assert json.loads((tmp_path / "a.json").read_text()) == read_json(tmp_path / "a.json") == {"a": [1], "b": 1}
    (tmp_path / "broken.json").write_text("{")
    assert read_json(tmp_path / "broken.json") is None


# --- keys and parts -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rule:
    words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Keyed(Task[Text]):
    one: Location
    many: Files
    rule: Rule
    memory_mb: int = apart(default=1)

    def work(self, out: Text) -> Info:
        return {}


def _keyed(**changes: Any) -> str:
    fields: dict[str, Any] = {"one": Location("/a", "1"), "many": Files([Location("/b", "2")]), "rule": Rule()}
    return Keyed(partition="p", **{**fields, **changes}).key


def test_key_is_of_content_and_settings_and_of_no_place() -> None:
    key = _keyed()
    assert key == _keyed(one=Location("/elsewhere", "1"), memory_mb=7)
    changed = [
        _keyed(one=Location("/a", "9")),
        _keyed(many=Files([Location("/b", "9")])),
        _keyed(many=Files([Location("/b", "2"), Location("/b", "2")])),
        _keyed(rule=Rule(words=("a",))),
    ]
    assert len({key, *changed}) == 5
    with pytest.raises(TypeError, match="says nothing"):
        _keyed(rule=object())
    for unknown in ({"one": Location("/a")}, {"many": Files([Location("/b", "2"), Location("/c")])}):
        with pytest.raises(TypeError, match="nothing tells its content"):
            _keyed(**unknown)


def test_key_is_of_the_version_and_of_the_kind_of_task() -> None:
    class Later(Keyed):
        version = 2

    class Other(Keyed):
        pass

    fields: dict[str, Any] = {"one": Location("/a", "1"), "many": Files(), "rule": Rule(), "partition": "p"}
    assert len({kind(**fields).key for kind in (Keyed, Later, Other)}) == 3


@dataclass(frozen=True, kw_only=True)
class Halves(TaskOfParts[Text]):
    names: tuple[str, ...]

    @property
    def parts(self) -> Sequence[str]:
        return self.names

    def work(self, outs: Mapping[str, Text]) -> Info:
        for name, out in outs.items():
            out.text.local.write_text(name)
        return {"parts": [{"name": name, "length": len(name)} for name in outs]}


def test_parts_of_a_task_are_parts_of_the_data(tmp_path: Path) -> None:
    data = Data("halves", Text)
    data.directory = tmp_path / "step"
    with pytest.raises(RuntimeError, match="before it is done"):
        _ = data.parts
    with open_engine(INLINE) as engine:
        data.finish(engine.run_step(data.directory, [Halves(partition="both", names=("left", "right"))]))
    assert [(p.name, p.files.text.local.read_text(), p.info["length"]) for p in data.parts] == [
        ("left", "left", 4),
        ("right", "right", 5),
    ]
    assert data.total("length") == 9
    assert data.present("text") == data.files(lambda out: out.text)


def test_parts_keep_their_order_when_they_are_read_again(tmp_path: Path) -> None:
    task = Halves(partition="both", names=("99999", "100000"))
    for _ in ("done", "found done"):
        data = Data("halves", Text)
        data.directory = tmp_path / "step"
        with open_engine(INLINE) as engine:
            data.finish(engine.run_step(data.directory, [task]))
        assert [part.name for part in data.parts] == ["99999", "100000"]

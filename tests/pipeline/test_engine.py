from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import EngineConfig, Task, open_engine
from pipeline.engine.on_ray import run_task_in
from pipeline.errors import DamagedFileError, EngineError, LockedError, OutputError
from pipeline.storage import open_output, read_json, sweep, write_json

INLINE = EngineConfig(kind="inline")


def _write(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    for path in outputs.values():
        path.write_text(arguments["text"])
    with open(arguments["log"], "a") as log:
        log.write("ran\n")
    return {"rows": 1}


def _fail_half_way(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    next(iter(outputs.values())).write_text("half")
    raise OSError(errno.ENOSPC, "No space left on device")


def _die_once(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    flag = Path(arguments["flag"])
    next(iter(outputs.values())).write_text("whole")
    if not flag.exists() or arguments["always"]:
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


def _task(name: str, log: Path, *, text: str = "x", key: str = "k") -> Task:
    return Task(
        partition=name, work=_write, arguments={"text": text, "log": str(log)}, outputs=(f"{name}.txt",), key=key
    )


def test_done_tasks_are_skipped_and_changed_ones_redone(tmp_path: Path) -> None:
    step, log = tmp_path / "step", tmp_path / "log"
    with open_engine(INLINE) as engine:
        first = engine.run_step(step, [_task("a", log), _task("b", log)])
        again = engine.run_step(step, [_task("a", log), _task("b", log)])
        assert first == again
        assert log.read_text().count("ran") == 2
        engine.run_step(step, [_task("a", log), _task("b", log, text="y", key="other")])
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
    task = Task(partition="a", work=_fail_half_way, arguments={}, outputs=("a.txt",), key="k")
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
    arguments = {"flag": str(tmp_path / "flag"), "always": False}
    task = Task(partition="a", work=_die_once, arguments=arguments, outputs=("a.txt",), key="k")
    ray_engine.run_step(tmp_path / "step", [task])
    assert (tmp_path / "step" / "a.txt").read_text() == "whole"
    assert not [p for p in (tmp_path / "step").iterdir() if ".tmp-" in p.name]


def test_worker_that_always_dies_is_an_engine_error(tmp_path: Path, ray_engine: Any) -> None:
    arguments = {"flag": str(tmp_path / "flag"), "always": True}
    task = Task(partition="a", work=_die_once, arguments=arguments, outputs=("a.txt",), key="k")
    with pytest.raises(EngineError, match="its process died"):
        ray_engine.run_step(tmp_path / "step", [task])


def test_error_in_a_task_comes_back_as_itself(tmp_path: Path, ray_engine: Any) -> None:
    task = Task(partition="a", work=_fail_half_way, arguments={}, outputs=("a.txt",), key="k")
    with pytest.raises(OutputError, match="no space left") as caught:
        ray_engine.run_step(tmp_path / "step", [task])
    assert "\n" not in str(caught.value)


def _meet_damage(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    raise DamagedFileError("/set/work/x.npy", "its bytes are not those that were written")


def test_damage_that_a_worker_meets_comes_back_with_the_name_of_the_file(tmp_path: Path, ray_engine: Any) -> None:
    task = Task(partition="a", work=_meet_damage, arguments={}, outputs=("a.txt",), key="k")
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

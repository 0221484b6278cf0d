"""The one script for a GPU, as far as a CPU can tell: what it runs, what it judges, and what it leaves alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from benchmarks import gpu_check, gpu_parts, train_gpu
from tests.conftest import REPOSITORY
from training.learning.learner import Learner

SPEED = {"source": "shards", "compile": False, "device": "NVIDIA H100 80GB HBM3", "samples_per_s": 8000.0}
SPEED |= {"data_wait_share": 0.002, "model_flops_utilisation": 0.36}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In place of running parts: their names, in the order in which they would be run."""
    names: list[str] = []

    def run_part(part: gpu_check.Part, limit_s: float, out: Path) -> dict[str, Any]:
        names.append(part.name)
        if part.name == "shards":
            (out / "shards").mkdir(exist_ok=True)
            (out / "shards" / "00000.tar").touch()
            gpu_check._note_shards(out, True)
        return {"seconds": 1.0, "found": [{"limit_s": limit_s}]}

    monkeypatch.setattr(gpu_check, "run_part", run_part)
    return names


def small(out: Path, *words: str) -> int:
    return gpu_check.main(["--out", str(out), "--small", *words])


def judged(*results: dict[str, Any], small: bool = False) -> tuple[str, bool]:
    lines, failed = gpu_check.verdict([{"seconds": 1.0, **result} for result in results], small=small)
    return "\n".join(lines), failed


def test_parts_have_the_whole_time_and_names_that_can_be_asked_for(tmp_path: Path, ran: list[str]) -> None:
    parts = gpu_check.parts(tmp_path, small=False)
    assert sum(part.limit_s for part in parts) == gpu_check.LIMIT_S <= 9 * 60
    assert all(part.name.replace("_", "").isalnum() for part in parts)
    small(tmp_path / "out", "--only", " b32, resume")
    assert ran == ["shards", "b32", "resume"]


def test_a_part_that_is_none_is_refused_with_those_that_are(
    tmp_path: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        small(tmp_path / "out", "--only", "B/32, step alone")
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "there is no part B/32, step alone; the parts are:" in said
    assert "\n  b32_compiled       ViT-B/32 from shards with model.compile\n" in said
    assert not ran
    assert not (tmp_path / "out").exists()


def test_a_folder_of_others_is_refused_and_left_as_it_is(tmp_path: Path, ran: list[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    for place, says in ((tmp_path, "no earlier run made it"), (tmp_path / "thesis.txt", "is a file")):
        with pytest.raises(SystemExit, match=says):
            small(place)
    assert not ran
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert (tmp_path / "thesis.txt").read_text() == "years"


def test_a_rerun_of_a_part_keeps_the_shards_and_all_that_is_not_its_own(tmp_path: Path, ran: list[str]) -> None:
    out = tmp_path / "out"
    small(out)
    (out / "notes.txt").touch()
    (out / "shards/00000.tar").write_text("made")
    ran.clear()
    small(out, "--only", "b16")
    assert ran == ["b16"]
    assert (out / "shards/00000.tar").read_text() == "made"
    assert len(json.loads((out / "gpu_check.json").read_text())) == len(gpu_check.parts(out, small=True))
    ran.clear()
    gpu_check.main(["--out", str(out), "--only", "b16"])  # the small shards are no use to it
    assert ran == ["shards", "b16"]
    small(out)
    assert (out / "notes.txt").exists()
    assert not (out / "shards/00000.tar").read_text()


def test_unfinished_shards_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parts(out: Path, *, small: bool) -> list[gpu_check.Part]:
        dies = ["sh", "-c", f"mkdir '{out}/shards'; touch '{out}/shards/00000.tar'; echo '{{\"a\": 1}}'; exit 3"]
        reads = ["sh", "-c", "echo '{\"b\": 2}'"]
        return [
            gpu_check.Part(name="shards", limit_s=5, finds="", command=dies),
            gpu_check.Part(name="b32", limit_s=5, finds="", command=reads, reads_shards=True),
        ]

    monkeypatch.setattr(gpu_check, "parts", parts)
    assert small(tmp_path / "out") == 1
    assert not gpu_check.has_shards(tmp_path / "out")
    assert small(tmp_path / "out", "--only", "b32") == 1
    entries = json.loads((tmp_path / "out/gpu_check.json").read_text())
    assert [entry.get("error") for entry in entries] == ['{"a": 1}', None]


def test_no_part_takes_what_later_ones_are_promised(tmp_path: Path, ran: list[str]) -> None:
    out = tmp_path / "out"
    small(out)
    entries = {entry["part"]: entry for entry in json.loads((out / "gpu_check.json").read_text())}
    limits = [entries[part.name]["found"][0]["limit_s"] for part in gpu_check.parts(out, small=True)]
    # Here they take no time, so that each has its own share and all that was left before it.
    shares = [part.limit_s * gpu_check.SLOWER for part in gpu_check.parts(out, small=True)]
    assert limits == [pytest.approx(sum(shares[: number + 1]), abs=5) for number in range(len(shares))]


def test_what_no_time_was_left_for_is_said_and_fails(
    tmp_path: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert small(tmp_path / "out", "--limit_s", "1", "--only", "machine,peer") == 1
    assert not ran
    said = capsys.readouterr().out
    assert "NOT RUN for want of time: machine, peer; --only machine,peer runs them alone" in said


def test_a_check_that_does_not_hold_fails_the_whole_after_all_parts() -> None:
    good, bad = (gpu_parts.check("gradient of sharded weights", value, at_most=1e-4) for value in (1e-5, 0.3))
    assert judged({"part": "sharded", "found": [good]}, small=True) == (
        "\n1 of 1 checks hold\npublished figures: not judged at tiny sizes",
        False,
    )
    said, failed = judged({"part": "sharded", "found": [bad, good]}, small=True)
    assert failed
    assert "FAILED  sharded: gradient of sharded weights: 0.3, 0.0001 is asked" in said
    assert not gpu_parts.check("", float("nan"), at_most=1.0)["holds"]
    assert not gpu_parts.check("", False)["holds"]
    assert gpu_parts.check("", 0.0, at_most=0.0)["holds"]


@pytest.mark.parametrize(
    ("changes", "says", "fails"),
    [
        ({}, "b32, not compiled: 8000 pairs/s, >= 7800 is asked: met", False),
        ({"samples_per_s": 7799.0}, "7799 pairs/s, >= 7800 is asked: NOT MET", True),
        ({"data_wait_share": 0.01}, "0.01 of it waiting for data, < 0.01 is asked: NOT MET", True),
        ({"model_flops_utilisation": 0.3}, "0.3 model FLOPs utilisation, >= 0.35 is asked: NOT MET", False),
        ({"samples_per_s": 100.0, "device": "NVIDIA L4"}, "100 pairs/s, >= 7800 is asked: NOT MET", False),
    ],
)
def test_published_figures_are_met_or_not(changes: dict[str, Any], says: str, fails: bool) -> None:
    said, failed = judged({"part": "b32", "found": [SPEED | changes, SPEED | {"source": "memory"}]})
    assert says in said
    assert failed == fails
    assert "b16: not measured from shards" in said


def test_the_fastest_run_from_shards_is_the_one_that_counts() -> None:
    slow, fast = SPEED | {"samples_per_s": 5000.0}, SPEED | {"compile": True}
    said, failed = judged({"part": "b32", "found": [slow]}, {"part": "b32_compiled", "found": [fast]})
    assert "b32, compiled: 8000 pairs/s, >= 7800 is asked: met" in said
    assert not failed


@pytest.fixture
def options(tmp_path: Path) -> Namespace:
    """Of a part, in a folder that is ready for it."""
    out = gpu_check.open_folder(tmp_path / "out", small=True, whole=True)
    (out / "work").mkdir()
    return Namespace(out=out, small=True)


def checks(found: Sequence[dict[str, Any]]) -> dict[str, bool]:
    return {entry["check"]: entry["holds"] for entry in found if "check" in entry}


def test_wrong_sharding_and_a_wrong_checkpoint_do_not_pass(options: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    one_step, load_checkpoint = gpu_parts.one_step, gpu_parts.load_checkpoint

    def halved(learner: Learner, *arguments: Any) -> Tensor:
        return one_step(learner, *arguments) * (0.5 if learner.mesh is not None else 1.0)

    def forgetful(path: Path, clip: Any, optimiser: Any) -> None:
        load_checkpoint(path, clip, optimiser)
        next(iter(optimiser.state.values()))["exp_avg"].zero_()

    monkeypatch.setattr(gpu_parts, "one_step", halved)
    monkeypatch.setattr(gpu_parts, "load_checkpoint", forgetful)
    with gpu_parts.group_of_one(options) as world:
        found = checks(list(gpu_parts.sharded_against_whole(options, world, "fp32", compiled=False)))
    assert found == {
        "fp32: gradient of sharded weights": False,
        "fp32: weights and moments are loaded to the bit": False,
        "fp32: gradient of the step after loading": True,
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_resumed_run_that_ends_elsewhere_does_not_pass(options: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    list(gpu_parts.shards(options))
    assert all(checks(list(gpu_parts.resume(options))).values())
    differences = iter([0.25, 0.1, 0.25, 0.2])
    monkeypatch.setattr(gpu_parts, "train", lambda config: None)
    monkeypatch.setattr(gpu_parts, "largest_difference", lambda *_: next(differences))
    for holds in (False, True):  # more than twice what two whole runs differ by, and less
        for name in ("resumed", "again"):
            shutil.rmtree(options.out / "work" / name, ignore_errors=True)
        assert list(checks(list(gpu_parts.resume(options))).values()) == [holds]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_measured_are_steps_of_the_trainer(options: Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    list(gpu_parts.shards(options))
    words = ["--precision", "fp32", "--data.num_workers", "1", "--model.name", str(options.out / "tiny.json")]
    settings = Namespace(
        config=gpu_check.CONFIGS["b32"], data=str(options.out / "shards"), batch=16, windows=2, steps=2,
        peak_tflops=1.0, profile=options.out / "profile.txt", scratch=None,
    )  # fmt: skip
    for source in ("shards", "memory"):
        found = train_gpu.measure(settings, words, source)
        assert found["config"] == "configs/train/clip-vit-b-32.yaml"
        assert found["steps"] == 4
        assert found["samples_per_s"] > 0
    assert found["data_wait_share"] < 0.05
    assert "cpu_ops of 3 steps" in settings.profile.read_text()


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_prepared_script_runs_small(tmp_path: Path) -> None:
    found = subprocess.run(
        [REPOSITORY / "benchmarks/gpu_check.sh", "--limit_s", "2300"],
        env={"SMALL": "1", "OUT": str(tmp_path / "out"), "PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True,
    )  # fmt: skip
    assert "FAIL" not in found.stdout, found.stdout
    assert "NOT RUN" not in found.stdout, found.stdout
    assert found.returncode == 0, found.stderr

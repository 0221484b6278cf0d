"""One config, several seeds."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import yaml

from tests.training.conftest import tiny_run
from training.__main__ import main


def test_seeds_give_the_mean_and_the_spread(
    tmp_path: Path,
    tiny_data: Path,
    tiny_vit: Path,
    tiny_evaluation: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tiny_run(tmp_path / "run", tiny_data, tiny_vit) | {"evaluation": {"path": str(tiny_evaluation)}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config | {"seed": 4}))
    assert main(["run", str(tmp_path / "run.yaml"), "--seeds", "2"]) == 0
    assert "2 seeds," in " ".join(capsys.readouterr().out.split())
    found = json.loads((tmp_path / "run/seeds.json").read_text())
    runs = [json.loads((tmp_path / f"run/seed-{seed}/metrics.json").read_text())["metrics"] for seed in (4, 5)]
    assert set(found) == set(runs[0]) == set(runs[1])
    for name, spread in found.items():
        values = [run[name]["value"] for run in runs]
        assert spread["values"] == values
        assert spread["mean"] == pytest.approx(statistics.fmean(values))
        assert spread["deviation"] == pytest.approx(statistics.stdev(values))

    weights = {path: path.read_bytes() for path in (tmp_path / "run").rglob("model.safetensors")}
    of_seeds = [{content for path, content in weights.items() if seed in path.parts} for seed in ("seed-4", "seed-5")]
    assert not of_seeds[0] & of_seeds[1]
    assert main(["run", str(tmp_path / "run.yaml"), "--seeds=2"]) == 0
    assert weights == {path: path.read_bytes() for path in (tmp_path / "run").rglob("model.safetensors")}


@pytest.mark.parametrize("seeds", ["", "0", "five", "-1"])
def test_a_number_that_is_none_is_told(seeds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "sample", f"--seeds={seeds}"]) == 2
    assert "give the number of trainings, as --seeds 5" in capsys.readouterr().err

"""Sharded weights: their checkpoints, read by any number of ranks, and turned into one file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from torch import nn

from configs.load import from_mapping
from tests.training.conftest import growing_run, tiny_run
from tests.training.test_train import losses
from training.__main__ import main
from training.checkpoints.layout import find_last, holds_shards, listed_checkpoints, read_progress
from training.checkpoints.loading import load_checkpoint, read_weights
from training.config import ModelConfig, TrainConfig
from training.errors import CheckpointError
from training.learning.model import create_model
from training.learning.sharding import layers_of
from training.train import train


@pytest.fixture
def sharded(two_ranks: Path, tiny_data: Path, tiny_vit: Path, tmp_path: Path) -> TrainConfig:
    """A run of two ranks with sharded weights, which this test may change."""
    shutil.copytree(two_ranks / "sharded", tmp_path / "sharded")
    return from_mapping(TrainConfig, tiny_run(tmp_path / "sharded", tiny_data, tiny_vit) | {"distributed": "fsdp"})


def last_of(output: str | Path) -> Path:
    last, problems = find_last(Path(output) / "checkpoints")
    assert last is not None
    assert not problems
    return last


def assert_close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], *, atol: float) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=0, atol=atol, msg=name)


def test_every_rank_writes_its_part_and_the_newest_are_kept(sharded: TrainConfig) -> None:
    names = [path.name for path in listed_checkpoints(Path(sharded.output) / "checkpoints")]
    assert names == ["000000000144", "000000000160"]
    last = last_of(sharded.output)
    assert holds_shards(last)
    assert {"__0_0.distcp", "__1_0.distcp"} <= {path.name for path in last.iterdir()}
    assert not list((Path(sharded.output) / "checkpoints").glob("*.tmp*"))


def test_one_process_goes_on_from_a_sharded_checkpoint(sharded: TrainConfig) -> None:
    expected = read_weights(last_of(sharded.output))
    shutil.rmtree(last_of(sharded.output))
    assert train(sharded).progress.samples_seen == 160
    last = last_of(sharded.output)
    assert not holds_shards(last)
    assert_close(read_weights(last), expected, atol=1e-4)


def test_sharded_ranks_go_on_from_a_run_of_one_process_into_larger_pictures(
    two_ranks: Path, tiny_data: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    train(from_mapping(TrainConfig, growing_run(tmp_path / "whole", tiny_data, tiny_vit)))
    last = last_of(two_ranks / "taken-over")
    assert holds_shards(last)
    assert read_progress(last).image_size == 48
    one, two = losses(tmp_path / "whole"), losses(two_ranks / "taken-over")
    assert [seen for seen, _ in one] == [seen for seen, _ in two]
    assert [value for _, value in one] == pytest.approx([value for _, value in two], rel=2e-3)


def test_sharded_ranks_measure_what_one_process_measures(two_ranks: Path, tiny_vit: Path) -> None:
    path = two_ranks / "taken-over" / "metrics.json"
    of_two = json.loads(path.read_text())["metrics"]
    words = ["--output", str(two_ranks / "taken-over"), "--data.path", "x", "--model.name", str(tiny_vit)]
    assert main(["evaluate", *words, "--samples", "1", "--precision", "fp32",
                 "--evaluation.path", str(two_ranks / "odd")]) == 0  # fmt: skip
    assert json.loads(path.read_text())["metrics"] == of_two


def test_a_damaged_part_is_skipped_with_a_warning(sharded: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    expected = read_weights(last_of(sharded.output))
    part = last_of(sharded.output) / "__1_0.distcp"
    part.write_bytes(part.read_bytes()[:-8] + bytes(8))
    train(sharded)
    assert "damaged checkpoint skipped (__1_0.distcp is not what was written)" in " ".join(
        capsys.readouterr().err.split()
    )
    assert_close(read_weights(last_of(sharded.output)), expected, atol=1e-4)


def test_a_sharded_checkpoint_exports_to_one_file_for_open_clip(sharded: TrainConfig) -> None:
    words = ["--output", sharded.output, "--data.path", "x", "--model.name", sharded.model.name, "--samples", "1"]
    assert main(["export", *words]) == 0
    exported, _, _ = open_clip.create_model_and_transforms(f"local-dir:{sharded.output}/export")
    assert_close(exported.state_dict(), read_weights(last_of(sharded.output)), atol=0)


def test_a_run_starts_from_the_weights_of_a_sharded_one(sharded: TrainConfig) -> None:
    for towers in ("both", "image"):
        made = create_model(
            ModelConfig(name=sharded.model.name, init_from=sharded.output, init_towers=towers),
            device=torch.device("cpu"), precision="fp32", init_logit_scale=2.0, init_logit_bias=None, seed=7,
        )  # fmt: skip
        weights = read_weights(last_of(sharded.output))
        assert torch.equal(made.clip.state_dict()["visual.proj"], weights["visual.proj"])
        assert torch.equal(made.clip.state_dict()["text_projection"], weights["text_projection"]) == (towers == "both")


def test_a_sharded_checkpoint_of_another_model_is_one_clear_line(sharded: TrainConfig, tiny_resnet: Path) -> None:
    made = create_model(
        ModelConfig(name=str(tiny_resnet)),
        device=torch.device("cpu"), precision="fp32", init_logit_scale=2.0, init_logit_bias=None, seed=7,
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="holds a openwit-test-vit, which does not fit this model") as caught:
        load_checkpoint(last_of(sharded.output), made.clip)
    assert "\n" not in str(caught.value)


def test_layers_are_found_in_models_of_every_make(tiny_vit: Path, tiny_resnet: Path) -> None:
    def count(name: str) -> int:
        made = create_model(
            ModelConfig(name=name),
            device=torch.device("meta"), precision="fp32", init_logit_scale=2.0, init_logit_bias=None, seed=7,
        )  # fmt: skip
        return len(list(layers_of(made.clip)))

    assert count(str(tiny_vit)) == 3
    assert count(str(tiny_resnet)) == 1 + 4
    plain = nn.Sequential(nn.Linear(2, 2), nn.GELU())
    assert list(layers_of(nn.ModuleDict({"mlp": plain}))) == []

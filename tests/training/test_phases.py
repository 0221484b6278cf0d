"""Phases of other picture sizes and text lengths."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from configs.load import ConfigError, from_mapping
from tests.training.conftest import tiny_run
from tests.training.test_snapshots import crash_in
from tests.training.test_train import assert_same_run, losses, weights_of
from training.__main__ import main
from training.checkpoints.layout import find_last, read_progress
from training.config import EvaluationConfig, Phase, TrainConfig
from training.learning.resizing import resize_positions
from training.run.phases import next_phase_start, phase_at
from training.train import train


@pytest.fixture
def config(tiny_data: Path, tiny_vit: Path, tmp_path: Path) -> TrainConfig:
    return from_mapping(TrainConfig, tiny_run(tmp_path / "run", tiny_data, tiny_vit))


@pytest.fixture
def larger(config: TrainConfig) -> TrainConfig:
    """The last three of ten steps at 48 instead of 32 pixels, after short texts."""
    phases = (Phase(begins_at=0.0, context_length=8), Phase(begins_at=0.65, image_size=48, micro_batches=2))
    return replace(config, phases=phases)


def test_phases_begin_with_a_batch() -> None:
    phases = (Phase(begins_at=0.25), Phase(begins_at=0.9, image_size=48))
    found = [phase_at(phases, p, total=160, batch=16).begins_at for p in range(0, 160, 16)]
    assert found == [0, 0, 0, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.9]
    assert [next_phase_start(phases, p, total=160, batch=16) for p in (0, 48, 144)] == [48, 144, 160]


def test_a_last_phase_with_larger_pictures_ends_in_a_larger_model(
    larger: TrainConfig, tiny_evaluation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(replace(larger, evaluation=EvaluationConfig(path=str(tiny_evaluation))))
    assert result.progress.image_size == 48
    weights = weights_of(larger.output)
    assert weights["visual.positional_embedding"].shape == (1 + 3 * 3, 32)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    words = ["--output", larger.output, "--data.path", "x", "--model.name", larger.model.name, "--samples", "1"]
    assert main(["export", *words]) == 0
    content = json.loads((Path(larger.output) / "export" / "open_clip_config.json").read_text())
    assert content["model_cfg"]["vision_cfg"]["image_size"] == content["preprocess_cfg"]["size"] == 48
    exported, _, _ = open_clip.create_model_and_transforms(f"local-dir:{larger.output}/export")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in exported.state_dict().items())
    capsys.readouterr()
    status = main(["evaluate", *words, "--precision", "fp32", "--evaluation.path", str(tiny_evaluation)])
    assert status == 0
    written = json.loads((Path(larger.output) / "metrics.json").read_text())
    assert [m["value"] for m in written["metrics"].values()] == [m.value for m in result.metrics]


@pytest.mark.parametrize("step", [5, 7, 8])  # 7: right where the pictures grow
def test_a_run_stopped_in_any_phase_resumes_exactly(
    step: int, larger: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(replace(larger, output=str(tmp_path / "whole")))
    often = replace(larger, checkpoint=replace(larger.checkpoint, every_samples=16))
    with monkeypatch.context() as patch:
        crash_in(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train(often)
    last, _ = find_last(Path(larger.output) / "checkpoints")
    assert last is not None
    assert read_progress(last).image_size == (48 if step > 7 else None)
    train(often)
    assert losses(larger.output) == losses(tmp_path / "whole")
    assert_same_run(larger.output, tmp_path / "whole")


def test_a_position_embedding_keeps_its_class_token_and_its_picture() -> None:
    old = torch.randn(1 + 16, 3)
    again = resize_positions(resize_positions(old, torch.empty(1 + 64, 3), mode="bicubic"), old, mode="bicubic")
    assert torch.equal(again[0], old[0])
    smooth = torch.cat([torch.zeros(1, 1), torch.arange(16.0).view(4, 4).repeat_interleave(1, 0).reshape(16, 1)])
    larger = resize_positions(smooth, torch.empty(1 + 64, 1), mode="bilinear")[1:].view(8, 8)
    assert (larger.diff(dim=0) >= -1e-5).all()
    assert (larger.diff(dim=1) >= -1e-5).all()
    moments = resize_positions(torch.rand(1, 17, 3), torch.empty(1, 50, 3), mode="bilinear")
    assert moments.shape == (1, 50, 3)
    assert (moments >= 0).all()
    with pytest.raises(ConfigError, match="cannot become"):
        resize_positions(torch.rand(4, 3, 3), torch.empty(4, 3, 5), mode="bilinear")


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{"begins_at": 0.5}, {"begins_at": 0.5}], "one after the other"),
        ([{"begins_at": 1.0}], "must lie in"),
        ([{"begins_at": 0.5, "image_size": 0}], "image_size must be at least 1, or be null"),
    ],
)
def test_mistakes_in_phases_are_named(phases: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    run = tiny_run(tmp_path, tmp_path, tmp_path)
    with pytest.raises(ConfigError, match=message):
        from_mapping(TrainConfig, {**run, "phases": phases})


def test_a_context_longer_than_the_models_is_refused(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="context_length 25 exceeds the 24"):
        train(replace(config, phases=(Phase(begins_at=0.5, context_length=25),)))

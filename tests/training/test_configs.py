"""The shipped configs: they load, and the models have their published sizes."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch

from configs.load import load
from training.config import ModelConfig, TrainConfig
from training.learning.model import create_model, register_model

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "train"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_config_loads_and_names_a_model(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parents[1])
    config = load(TrainConfig, path)
    assert open_clip.get_model_config(register_model(config.model.name)) is not None
    assert config.output == f"runs/{path.stem}"


def test_sample_model_is_small_and_can_be_cut_into_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from training.learning.batch_norm.graph import has_batch_norm

    monkeypatch.chdir(CONFIGS.parents[1])
    config = load(TrainConfig, CONFIGS / "sample.yaml")
    model = create_model(
        ModelConfig(name=config.model.name), device=torch.device("cpu"), precision="fp32",
        init_logit_scale=1.0, init_logit_bias=None, seed=0,
    )  # fmt: skip
    assert sum(parameter.numel() for parameter in model.clip.parameters()) < 15_000_000
    assert not has_batch_norm(model.clip)
    assert model.can_trim

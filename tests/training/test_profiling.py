"""Traces of a few steps."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from configs.load import ConfigError, from_mapping
from tests.training.conftest import tiny_run
from training.config import ProfileConfig, TrainConfig
from training.train import train


def test_the_steps_asked_for_are_traced_once(tiny_data: Path, tiny_vit: Path, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", tiny_data, tiny_vit) | {"profile": {"steps": 2, "after": 3}}
    train(from_mapping(TrainConfig, run))
    assert [path.name for path in (tmp_path / "run" / "profile").iterdir()] == ["step-000005.rank-0.json.gz"]
    with gzip.open(tmp_path / "run" / "profile" / "step-000005.rank-0.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert [event["name"] for event in events if event.get("name", "").startswith("ProfilerStep#")].count(
        "ProfilerStep#3"
    )
    assert any("addmm" in event.get("name", "") for event in events)


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="steps must not be negative"):
        from_mapping(ProfileConfig, {"steps": -1})
    with pytest.raises(ConfigError, match="after must be at least 1"):
        from_mapping(ProfileConfig, {"after": 0})

"""Checkpoints beside damaged ones; the layout that they have, which later versions go on reading."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from configs.load import from_mapping
from tests.training.conftest import tiny_run
from training.checkpoints.layout import Progress, commit, find_last
from training.config import TrainConfig
from training.errors import CheckpointError
from training.train import train


def _commit(directory: Path, samples: int, *, keep: int) -> Path:
    temporary = directory / f"{samples}.tmp"
    temporary.mkdir()
    (temporary / "model.safetensors").write_bytes(b"weights")
    final = directory / f"{samples:012d}"
    commit(temporary, final, Progress(samples_seen=samples), keep=keep)
    return final


def test_a_damaged_later_checkpoint_does_not_push_out_a_new_one(tmp_path: Path) -> None:
    damaged = _commit(tmp_path, 200, keep=1)
    (damaged / "model.safetensors").write_bytes(b"weight")
    new = _commit(tmp_path, 50, keep=1)
    found, problems = find_last(tmp_path)
    assert found == new
    assert len(problems) == 1
    assert problems[0].startswith(str(damaged))
    newer = _commit(tmp_path, 100, keep=1)
    assert find_last(tmp_path)[0] == newer
    assert not new.exists()


# --- the layout, as versions up to now have written it -----------------------------------------------

STATE = {
    "format", "samples_seen", "steps_skipped", "samples_replaced", "data_fingerprint", "config_fingerprint",
    "model_name", "image_size", "segments", "files",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_data: Path, tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Two steps, with a checkpoint after each."""
    run = tiny_run(tmp_path_factory.mktemp("trained") / "run", tiny_data, tiny_vit) | {"samples": 32}
    run["checkpoint"] = {"every_samples": 16, "keep": 9}
    config = from_mapping(TrainConfig, {**run, "optimiser": {**run["optimiser"], "ema_decay": 0.9}})
    train(config)
    return config


@pytest.fixture
def config(trained: TrainConfig, tmp_path: Path) -> TrainConfig:
    """The same, to be changed."""
    shutil.copytree(trained.output, tmp_path / "run")
    return replace(trained, output=str(tmp_path / "run"))


def checkpoint_of(config: TrainConfig, samples: int) -> Path:
    return Path(config.output) / "checkpoints" / f"{samples:012d}"


def test_a_checkpoint_is_laid_out_as_ever(config: TrainConfig) -> None:
    """Who changes this changes what yesterday's version reads: then format becomes 2, and 1 goes on being read."""
    path = checkpoint_of(config, 32)
    assert {file.name for file in path.iterdir()} == {
        "model.safetensors", "averaged.safetensors", "optimiser.pt", "state.json",
    }  # fmt: skip
    state = json.loads((path / "state.json").read_text())
    assert (state.keys(), state["format"], state["samples_seen"]) == (STATE, 1, 32)
    assert set(state["segments"][0]) == {"sizes", "start", "first_epoch", "snapshot", "first_sample"}
    assert set(state["files"]["model.safetensors"]) == {"bytes", "sha256"}
    for name in ("model.safetensors", "averaged.safetensors"):
        with safe_open(path / name, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            weights = {
                key: (list(file.get_slice(key).get_shape()), file.get_slice(key).get_dtype())
                for key in file.keys()  # noqa: SIM118 - it is no dict
            }
        assert weights["visual.positional_embedding"] == ([5, 32], "F32")
        assert weights["transformer.resblocks.0.attn.in_proj_weight"] == ([96, 32], "F32")
        assert weights["logit_scale"] == ([], "F32")
    extra = torch.load(path / "optimiser.pt", weights_only=True)
    assert extra.keys() == {"optimiser", "names"}
    assert extra["optimiser"].keys() == {"state", "param_groups"}
    assert set(extra["names"]) <= weights.keys()
    assert extra["optimiser"]["state"][0].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert extra["optimiser"]["state"].keys() == set(range(len(extra["names"])))


@pytest.mark.parametrize("is_sharded", [False, True])
def test_a_run_goes_on_from_a_checkpoint_of_that_layout(is_sharded: bool, config: TrainConfig) -> None:
    """One written here by other code than the trainer's, of nothing but what the layout says."""
    expected, path = load_file(checkpoint_of(config, 32) / "averaged.safetensors"), checkpoint_of(config, 16)
    files: dict[str, dict[str, Tensor]] = {
        part: {name: value.clone() for name, value in load_file(path / f"{part}.safetensors").items()}
        for part in ("model", "averaged")
    }
    extra = torch.load(path / "optimiser.pt", weights_only=True)
    state = json.loads((path / "state.json").read_text())
    shutil.rmtree(checkpoint_of(config, 32))
    for file in path.iterdir():
        file.unlink()
    if is_sharded:
        moments = {
            f"{name}.{key}": value
            for number, name in enumerate(extra["names"])
            for key, value in extra["optimiser"]["state"][number].items()
        }
        averaged = {name: files["averaged"][name] for name in extra["names"]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts: dict[str, Any] = {"model": files["model"], "moments": moments, "averaged": averaged}
            save(parts, storage_writer=FileSystemWriter(path), no_dist=True)
    else:
        for part, weights in files.items():
            save_file(weights, path / f"{part}.safetensors", metadata={"format": "pt"})
        moments_by_number = {
            number: dict(extra["optimiser"]["state"][number]) for number in extra["optimiser"]["state"]
        }
        torch.save({"optimiser": {"state": moments_by_number}, "names": extra["names"]}, path / "optimiser.pt")
    facts = {
        file.name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in path.iterdir()
    }
    (path / "state.json").write_text(json.dumps({**{name: state[name] for name in STATE}, "files": facts}))
    assert train(config).progress.samples_seen == 32
    again = load_file(checkpoint_of(config, 32) / "averaged.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in expected.items())


def test_a_newer_versions_checkpoint_is_refused_and_not_passed_over(config: TrainConfig) -> None:
    path = checkpoint_of(config, 32) / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(CheckpointError, match=r"written by a newer version \(format 2, this one reads 1\)") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": "two"}))
    found, problems = find_last(path.parents[1])
    assert (found, len(problems)) == (checkpoint_of(config, 16), 1)

"""A checkpoint may come from anywhere: whatever it says, nothing of it is run, and the user reads one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex
from torch.distributed.checkpoint.state_dict_saver import save

from configs.load import from_mapping
from tests.training.conftest import tiny_run
from training.__main__ import main
from training.checkpoints.layout import Progress, commit
from training.checkpoints.loading import load_checkpoint, read_weights
from training.config import EvaluationConfig, LossConfig, MethodConfig, ModelConfig, TrainConfig
from training.errors import CheckpointError, ModelError, TrainingError
from training.evaluation.evaluate import evaluate_checkpoint
from training.exports.open_clip import export
from training.learning.model import create_model
from training.train import train


class _Runs:
    """Pickled, it makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "run-by-a-checkpoint"


@pytest.fixture
def sharded(tmp_path: Path, tiny_vit: Path) -> Path:
    """RUN/checkpoints/N: a sharded checkpoint of random weights, as one rank writes it."""
    model = _model(tiny_vit)
    path = tmp_path / "run" / "checkpoints" / "000000000016"
    temporary = path.with_name("new")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save({"model": model.clip.state_dict()}, storage_writer=FileSystemWriter(temporary), no_dist=True)
    commit(temporary, path, Progress(samples_seen=16, model_name=model.name), keep=2)
    return path


def _model(tiny_vit: Path, **options: Any) -> Any:
    return create_model(
        ModelConfig(name=str(tiny_vit), **options),
        device=torch.device("cpu"),
        precision="fp32",
        init_logit_scale=1.0,
        init_logit_bias=None,
        seed=0,
    )


def _replace(checkpoint: Path, content: bytes, name: str = ".metadata") -> None:
    """Change a file and everything that vouches for it."""
    (checkpoint / name).write_bytes(content)
    state = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").unlink()
    progress = Progress(samples_seen=state["samples_seen"], model_name=state["model_name"])
    copy = checkpoint.with_name("new")
    checkpoint.rename(copy)
    commit(copy, checkpoint, progress, keep=9)


def _metadata(checkpoint: Path) -> Metadata:
    with (checkpoint / ".metadata").open("rb") as file:
        found: Metadata = pickle.load(file)
    return found


def _of_a_class(checkpoint: Path, mark: Path) -> str:
    _replace(checkpoint, pickle.dumps(_Runs(mark)))
    return "names posix.mkdir"


def _inside_the_list(checkpoint: Path, mark: Path) -> str:
    found = _metadata(checkpoint)
    found.planner_data = _Runs(mark)
    _replace(checkpoint, pickle.dumps(found))
    return "names posix.mkdir"


def _of_bytes(checkpoint: Path, mark: Path) -> str:
    """What is no tensor, torch unpickles from the parts themselves."""
    found = _metadata(checkpoint)
    name = next(iter(found.state_dict_metadata))
    part = checkpoint / "evil.distcp"
    torch.save(_Runs(mark), part)
    found.state_dict_metadata[name] = BytesStorageMetadata()
    for index in [index for index in found.storage_data if index.fqn == name]:
        del found.storage_data[index]
    found.storage_data[MetadataIndex(name)] = _StorageInfo("evil.distcp", 0, part.stat().st_size)
    _replace(checkpoint, pickle.dumps(found))
    return "BytesStorageMetadata"


def _of_another_directory(checkpoint: Path, mark: Path) -> str:
    found = _metadata(checkpoint)
    for info in found.storage_data.values():
        info.relative_path = f"../{info.relative_path}"
    _replace(checkpoint, pickle.dumps(found))
    return "not beside it"


def _of_a_part(checkpoint: Path, mark: Path) -> str:
    torch.save(_Runs(mark), checkpoint / "__0_0.distcp")
    size = (checkpoint / "__0_0.distcp").stat().st_size
    found = _metadata(checkpoint)
    for info in found.storage_data.values():
        info.offset, info.length = 0, size
    _replace(checkpoint, pickle.dumps(found))
    return "posix.mkdir"


def _of_noise(checkpoint: Path, mark: Path) -> str:
    _replace(checkpoint, b"\x80\x05noise")
    return "cannot read"


HOSTILE = [_of_a_class, _inside_the_list, _of_bytes, _of_another_directory, _of_a_part, _of_noise]


@pytest.mark.parametrize("make", HOSTILE)
def test_no_reader_runs_what_a_sharded_checkpoint_names(
    make: Callable[[Path, Path], str],
    sharded: Path,
    mark: Path,
    tmp_path: Path,
    tiny_vit: Path,
    tiny_data: Path,
    tiny_evaluation: Path,
) -> None:
    told = make(sharded, mark)
    model = _model(tiny_vit)
    run = tiny_run(sharded.parents[1], tiny_data, tiny_vit)
    shutil.copytree(sharded, tmp_path / "foreign")
    readers: dict[str, Callable[[], object]] = {
        "resume": lambda: load_checkpoint(sharded, model.clip, torch.optim.AdamW(model.clip.parameters())),
        "run": lambda: train(from_mapping(TrainConfig, run)),
        "weights": lambda: read_weights(sharded),
        "init_from": lambda: _model(tiny_vit, init_from=str(tmp_path / "foreign")),
        "export": lambda: export(sharded, model=str(tiny_vit), directory=tmp_path / "export"),
        "evaluate": lambda: evaluate_checkpoint(
            EvaluationConfig(path=str(tiny_evaluation)),
            sharded,
            ModelConfig(name=str(tiny_vit)),
            MethodConfig(),
            LossConfig(),
            "fp32",
        ),
    }
    (sharded.parents[1] / "run.json").unlink(missing_ok=True)
    (sharded.parents[1] / ".lock").touch()
    for name, read in readers.items():
        with pytest.raises(TrainingError) as caught:
            read()
        assert told in str(caught.value) or "cannot read" in str(caught.value), name
        assert "\n" not in str(caught.value)
        assert not mark.exists(), name


@pytest.mark.parametrize("name", ["weights.pt", "weights.npz", "weights.safetensors", "weights.bin"])
def test_no_file_of_weights_is_run(name: str, mark: Path, tmp_path: Path, tiny_vit: Path) -> None:
    path = tmp_path / name
    for data in (pickle.dumps({"state_dict": _Runs(mark)}), b"PK\x03\x04noise", b""):
        path.write_bytes(data)
        with pytest.raises(ModelError, match="does not fit"):
            _model(tiny_vit, init_from=str(path))
        assert not mark.exists()
    torch.save({"state_dict": _Runs(mark)}, path)
    with pytest.raises(ModelError, match="does not fit"):
        _model(tiny_vit, init_from=str(path))
    assert not mark.exists()


def test_moments_of_a_whole_checkpoint_are_not_run(mark: Path, tmp_path: Path, tiny_vit: Path, tiny_data: Path) -> None:
    run = tiny_run(tmp_path / "whole", tiny_data, tiny_vit) | {"samples": 16}
    train(from_mapping(TrainConfig, run))
    (checkpoint,) = (tmp_path / "whole" / "checkpoints").iterdir()
    torch.save(_Runs(mark), checkpoint / "optimiser.pt")
    _replace(checkpoint, (checkpoint / "optimiser.pt").read_bytes(), "optimiser.pt")
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        train(from_mapping(TrainConfig, run))
    assert not mark.exists()


def test_honest_sharded_checkpoint_is_read(sharded: Path, tiny_vit: Path) -> None:
    model = _model(tiny_vit)
    weights = read_weights(sharded)
    assert all(torch.equal(value, weights[name]) for name, value in model.clip.state_dict().items())


def test_command_tells_it_in_one_line(
    sharded: Path, mark: Path, tmp_path: Path, tiny_vit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _of_a_class(sharded, mark)
    words = ["--output", str(sharded.parents[1]), "--model.name", str(tiny_vit), "--data.path", "x", "--samples", "16"]
    assert main(["export", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "names posix.mkdir" in line
    assert not mark.exists()

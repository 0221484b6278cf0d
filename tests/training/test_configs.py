"""The shipped configs: they load, and the models have their published sizes; every number has its bounds."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import open_clip
import pytest
import torch

from configs.load import load
from tests.configs.numbers import Number, assert_bounds_are_held, config_classes, name_of, numbers_of
from training.__main__ import main
from training.config import ModelConfig, TrainConfig
from training.learning.method import METHODS
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


# --- numbers ----------------------------------------------------------------------------------------


def own_numbers() -> list[Number]:
    """Those of every section and command, and of the methods' options."""
    places = [place.partition(":") for place in METHODS.values()]
    options = [getattr(import_module(module), name).Options for module, _, name in places]
    return numbers_of([*config_classes("training"), *options])


def test_every_section_of_a_training_is_looked_at() -> None:
    found = {cls.__qualname__ for cls, _, _ in own_numbers()}
    assert found >= {"TrainConfig", "LossConfig", "OptimiserConfig", "Phase", "DataSet", "RayConfig", "Blip.Options"}
    assert len(own_numbers()) > 140


@pytest.mark.parametrize("number", own_numbers(), ids=name_of)
def test_every_number_has_bounds_that_are_held(number: Number) -> None:
    assert_bounds_are_held(number)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("loss.chunk_rows", "-1"), ("loss.chunk_rows", "0"), ("loss.max_logit_scale", "-5"),
        ("loss.max_logit_scale", "0"), ("loss.init_temperature", "0"), ("loss.init_temperature", "-1"),
        ("optimiser.beta2", "1.5"), ("optimiser.eps", "-1"), ("optimiser.weight_decay", "-1"),
        ("optimiser.learning_rate", ".nan"), ("optimiser.learning_rate", ".inf"), ("epochs", "1e300"),
        ("method.options.weight", "2"),
    ],
)  # fmt: skip
def test_a_number_that_makes_no_sense_is_one_line_and_writes_nothing(
    option: str, value: str, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(CONFIGS / "clip-small.yaml"), "--output", f"{tmp_path}/run", "--data.path", str(tiny_data)]
    words += ["--method.name", "distillation", "--method.options.teacher", "none"] if "method" in option else []
    assert main(["run", *words, f"--{option}", value]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    assert option.rpartition(".")[2] in line
    assert not (tmp_path / "run").exists()

"""The shipped configs: they load, and the models have their published sizes; every number has its bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import open_clip
import pytest
import torch

from configs.bounds import bounds_of
from configs.load import ConfigError, load
from configs.options import is_required
from training.__main__ import main
from training.config import ModelConfig, TrainConfig
from training.learning.method import METHODS
from training.learning.model import create_model, register_model

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "train"
TRAINING = Path(__file__).resolve().parents[2] / "training"


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


def parts_of(kind: Any) -> Iterator[Any]:
    """A type and all that it is made of."""
    yield kind
    for part in get_args(kind):
        yield from parts_of(part)


def config_classes() -> list[type[Any]]:
    """Every class that YAML or a command line is read into: those of the rooms' config files, and methods' options."""
    files = sorted(TRAINING.rglob("*config.py"))
    modules = [import_module(".".join(file.relative_to(TRAINING.parent).with_suffix("").parts)) for file in files]
    found = [cls for module in modules for cls in vars(module).values() if isinstance(cls, type)]
    for place in METHODS.values():
        module, _, name = place.partition(":")
        found.append(getattr(import_module(module), name).Options)
    return sorted({cls for cls in found if is_dataclass(cls) and cls.__module__.startswith("training.")}, key=str)


def numbers() -> list[tuple[type[Any], str, Any]]:
    """The numeric fields: class, name, type."""
    return [
        (cls, name, kind)
        for cls in config_classes()
        for name, kind in get_type_hints(cls, include_extras=True).items()
        if name in {each.name for each in fields(cls)} and {int, float} & set(parts_of(kind))
    ]


def test_every_section_of_a_training_is_looked_at() -> None:
    found = {cls.__qualname__ for cls, _, _ in numbers()}
    assert found >= {"TrainConfig", "LossConfig", "OptimiserConfig", "Phase", "DataSet", "RayConfig", "Blip.Options"}
    assert len(numbers()) > 140


@pytest.mark.parametrize(
    ("cls", "name", "kind"), [pytest.param(*each, id=f"{each[0].__qualname__}.{each[1]}") for each in numbers()]
)
def test_every_number_has_bounds_that_are_held(cls: type[Any], name: str, kind: Any) -> None:
    """A number for which any will do says so: `Annotated[float, Bounds()]`."""
    bounds = next((found for part in parts_of(kind) if (found := bounds_of(part)) is not None), None)
    assert bounds is not None, f"{cls.__qualname__}.{name}: say what numbers it takes, by Annotated[..., Bounds(...)]"
    outside = [math.nan, math.inf, -math.inf, 10**19]
    outside += [edge for edge in (bounds.above, bounds.below) if edge is not None]
    outside += [bounds.least - 1] if bounds.least is not None else []
    outside += [bounds.most + 1] if bounds.most is not None else []
    needed = {each.name: None for each in fields(cls) if is_required(each)}
    is_list = any(get_origin(part) is tuple for part in parts_of(kind))
    for value in outside:
        with pytest.raises(ConfigError, match=rf"^{name} must .*, got {re.escape(str(value))}"):
            cls(**{**needed, name: (value,) if is_list else value})


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

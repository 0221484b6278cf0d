"""MobileCLIP's recipes against what was published, and the twin on pictures that the test makes.

- MobileCLIP: README.md, training/configs/run_datacompdr1b.sh and datacompdr1b.json of apple/ml-mobileclip
  (arXiv 2311.17049). MobileCLIP2: training/configs/run_dfndr2b.sh there (arXiv 2508.20691).
"""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from configs.load import load
from tests.conftest import REPOSITORY
from tests.training.test_train import losses
from tests.training.tiny_shards import make_evaluation, make_shards
from training.commands.words import options_with_places
from training.config import MethodConfig, TrainConfig
from training.data.augmentations_config import StrongAugmentConfig
from training.learning.memory import MARGIN, needs_of
from training.learning.methods.distillation.distillation import Distillation
from training.reinforcement.config import ReinforceConfig
from training.reinforcement.reinforce import reinforce
from training.train import train

CONFIGS = REPOSITORY / "configs/train"
PAGE = REPOSITORY / "docs/reinforce.md"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize(
    ("name", "millions", "size", "text"),
    [
        ("MobileCLIP2-S0", (11.4, 63.4), 256, (12, 512)),
        pytest.param("MobileCLIP-S1", (21.5, 63.4), 256, (12, 512), marks=pytest.mark.slow),
        ("MobileCLIP-S2", (35.7, 63.4), 256, (12, 512)),
        pytest.param("MobileCLIP2-S2", (35.7, 63.4), 256, (12, 512), marks=pytest.mark.slow),
        pytest.param("MobileCLIP-B", (86.3, 63.4), 224, (12, 512), marks=pytest.mark.slow),
        ("MobileCLIP2-B", (86.3, 63.4), 224, (12, 512)),
    ],
)
def test_towers_have_their_published_sizes(
    name: str, millions: tuple[float, float], size: int, text: tuple[int, int]
) -> None:
    """Of S2 theirs are 35.7 million, without the branches that training has; of S0 the text tower is open_clip's."""
    with torch.device("meta"):
        clip: Any = open_clip.create_model(name, device="meta", pretrained_text=False)
    counts = [sum(p.numel() for p in tower.parameters()) / 1e6 for tower in (clip.visual, clip.text)]
    assert counts == pytest.approx(millions, abs=0.12)
    assert (len(clip.text.transformer.resblocks), clip.text.token_embedding.embedding_dim) == text
    assert clip.visual(torch.empty(2, 3, size, size, device="meta")).shape == (2, 512)
    assert clip.encode_text(torch.zeros(2, 77, dtype=torch.int64, device="meta")).shape == (2, 512)


@pytest.mark.parametrize(("stem", "scales"), [("mobileclip-s2", [100, 100]), ("mobileclip2-b", [70, 60])])
def test_settings_are_the_published_ones(stem: str, scales: list[int]) -> None:
    config = load(TrainConfig, CONFIGS / f"{stem}.yaml")
    assert config.global_batch_size == 2**13 * 8
    assert config.samples == 200 * 1000 * 2**13 * 8
    optimiser = config.optimiser
    assert (optimiser.learning_rate, optimiser.weight_decay, optimiser.beta2) == (1e-3, 0.2, 0.95)
    assert (optimiser.warmup_samples, optimiser.max_gradient_norm) == (1000 * 2**13 * 8, 1.0)
    assert config.method.options == {"weight": 1.0, "synthetic_weight": 1.0, "teacher_scales": scales}
    defaults = ReinforceConfig(data="x", teachers=("y",))
    assert (defaults.augmentations, defaults.max_captions) == (10, 5)
    assert (defaults.augment.min_crop_area, defaults.augment.operations, defaults.augment.magnitude) == (0.08, 2, 9)


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["mobileclip-s2", "mobileclip2-b"])
def test_a_run_fits_on_the_gpus_that_its_config_names(stem: str) -> None:
    config = load(TrainConfig, CONFIGS / f"{stem}.yaml")
    assert needs_of(config).total <= (1 - MARGIN) * config.plan.gpu_memory_gb * 1e9
    head = (CONFIGS / f"{stem}.yaml").read_text()
    assert f"# For {config.plan.gpus} x GPU of {config.plan.gpu_memory_gb:g} GB (python -m training plan" in head


# --- the small twin --------------------------------------------------------------------------------


def small(output: Path, data: Path, reinforced: Path, **changes: Any) -> TrainConfig:
    config = load(TrainConfig, CONFIGS / "mobileclip-small.yaml")
    return replace(
        config,
        output=str(output),
        data=replace(config.data, path=str(data), reinforced=(str(reinforced),), num_workers=0),
        device="cpu",
        precision="fp32",
        threads=1,
        evaluation=replace(config.evaluation, path=None),
        **changes,
    )


def test_small_twin_takes_two_steps(tiny_data: Path, tiny_model: str, tmp_path: Path) -> None:
    reinforce(
        ReinforceConfig(
            data=str(tiny_data), teachers=(tiny_model,), to=str(tmp_path / "reinforced"), augmentations=2,
            device="cpu", precision="fp32",
        ),
        quiet=True,
    )  # fmt: skip
    log = replace(load(TrainConfig, CONFIGS / "mobileclip-small.yaml").log, every_steps=1, tensorboard=False)
    config = small(
        tmp_path / "run", tiny_data, tmp_path / "reinforced", global_batch_size=16, epochs=None, samples=32, log=log
    )
    assert train(config).progress.samples_seen == 32
    assert all(0 <= loss < 12 for _, loss in losses(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_small_twin_learns(tmp_path: Path) -> None:
    """From a teacher that has learnt; on shapes in colours as the sample has them, chance is 1 of 80."""
    make_shards(tmp_path / "data", counts=(800, 800, 800, 884))
    make_evaluation(tmp_path / "evaluation", per_class=2)
    first = load(TrainConfig, CONFIGS / "sample.yaml")
    teacher = replace(
        first, output=str(tmp_path / "teacher"), data=replace(first.data, path=str(tmp_path / "data"), num_workers=0),
        evaluation=replace(first.evaluation, path=None), device="cpu", precision="fp32", threads=1,
    )  # fmt: skip
    train(teacher)
    reinforce(
        ReinforceConfig(
            data=str(tmp_path / "data"), teachers=(teacher.output,), to=str(tmp_path / "reinforced"), device="cpu",
            precision="fp32", augmentations=4, augment=StrongAugmentConfig(min_crop_area=0.9, operations=0),
        ),
        quiet=True,
    )  # fmt: skip
    config = small(tmp_path / "run", tmp_path / "data", tmp_path / "reinforced")
    result = train(replace(config, evaluation=replace(config.evaluation, path=str(tmp_path / "evaluation"))))
    top1 = next(metric.value for metric in result.metrics if metric.name == "zeroshot_top1")
    assert top1 > 8 / 80


# --- docs/reinforce.md -----------------------------------------------------------------------------


def test_commands_of_the_page_are_taken() -> None:
    found = re.findall(r"^    (?:torchrun .*|python) -m training (\S+) (.*)$", PAGE.read_text(), re.MULTILINE)
    assert {verb for verb, _ in found} == {"reinforce", "run"}
    for verb, rest in found:
        words = shlex.split(rest.partition("  #")[0])
        if verb == "reinforce":
            assert options_with_places(ReinforceConfig, words, ("data", "teachers...")).teachers
        else:
            path, *options = words
            config = load(TrainConfig, path, options)
            if config.method.name == "distillation":
                assert isinstance(Distillation.Options(**config.method.options), Distillation.Options)
            else:
                assert config.method == MethodConfig()

"""The recipes of CoCa against what was published, and the small twin on pictures that the test makes.

- https://laion.ai/blog/coca ("Training Contrastive Captioners"): table 3 and the section Training Notes.
- Yu et al., arXiv 2205.01917, section 4.1, and open_clip's `params.py`: the weights of the terms.
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
from training.config import TrainConfig, total_samples
from training.learning.memory import MARGIN, needs_of
from training.learning.method import make_method
from training.train import train

CONFIGS = REPOSITORY / "configs/train"
MILLIONS = {"coca-vit-b-32": (89.16, 63.42, 100.96), "coca-vit-l-14": (306.72, 123.65, 208.07)}
"""Table 3: image encoder, text encoder, text decoder; cut after two places there."""


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("stem", MILLIONS)
def test_settings_and_sizes_are_the_published_ones(stem: str) -> None:
    config = load(TrainConfig, CONFIGS / f"{stem}.yaml")
    batch, optimiser = config.global_batch_size, config.optimiser
    assert round(batch, -4) == 90_000
    assert 0 <= total_samples(config, 0) - 13_000_000_000 < batch
    assert (optimiser.learning_rate, optimiser.schedule, optimiser.final_learning_rate) == (1e-3, "cosine", 0)
    assert optimiser.warmup_samples == 10_000 * batch  # ours
    assert (optimiser.weight_decay, optimiser.beta1, optimiser.beta2, optimiser.eps) == (0.2, 0.9, 0.98, 1e-6)
    options = make_method(config.method, config.loss).options
    assert (options.contrastive_weight, options.caption_weight) == (1.0, 2.0)
    with torch.device("meta"):
        clip: Any = open_clip.create_model(config.model.name, device="meta", pretrained_text=False)
    parts = [sum(p.numel() for p in part.parameters()) for part in (clip.visual, clip.text, clip.text_decoder)]
    assert [part // 10_000 / 100 for part in parts] == list(MILLIONS[stem])
    assert clip.text.num_pos == 77  # 76 tokens, and room for the class token
    assert stem in (REPOSITORY / "docs/recipes.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("stem", MILLIONS)
def test_a_run_fits_on_the_gpus_that_its_config_names(stem: str) -> None:
    config = load(TrainConfig, CONFIGS / f"{stem}.yaml")
    assert needs_of(config).total <= (1 - MARGIN) * config.plan.gpu_memory_gb * 1e9


def small(output: Path, data: Path, **changes: Any) -> TrainConfig:
    """coca-small over `data`, evaluated nowhere."""
    config = load(TrainConfig, CONFIGS / "coca-small.yaml")
    return replace(
        config,
        output=str(output), data=replace(config.data, path=str(data), num_workers=0), device="cpu", precision="fp32",
        threads=1, evaluation=replace(config.evaluation, path=None), **changes,
    )  # fmt: skip


def test_small_twin_takes_two_steps(tiny_data: Path, tmp_path: Path) -> None:
    log = replace(load(TrainConfig, CONFIGS / "coca-small.yaml").log, every_steps=1, tensorboard=False)
    train(small(tmp_path / "run", tiny_data, global_batch_size=8, epochs=None, samples=16, log=log))
    found = [loss for _, loss in losses(tmp_path / "run")]
    assert len(found) == 2
    assert all(20 < loss < 28 for loss in found)  # ln 8 and twice ln 49,408


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_small_twin_learns(tmp_path: Path) -> None:
    """On shapes in colours as the sample has them; chance is 1 of 80."""
    make_shards(tmp_path / "data", counts=(800, 800, 800, 884))
    make_evaluation(tmp_path / "evaluation", per_class=2)
    config = small(tmp_path / "run", tmp_path / "data")
    result = train(replace(config, evaluation=replace(config.evaluation, path=str(tmp_path / "evaluation"))))
    found = {metric.name: metric for metric in result.metrics}
    assert found["zeroshot_top1"].value > 8 / 80
    assert found["caption_likelihood"].value > 1.3 * found["caption_likelihood"].chance


def test_every_command_of_the_docs_names_a_config_that_takes_its_options() -> None:
    text = (REPOSITORY / "docs/recipes.md").read_text()
    section = text.partition("\n## CoCa\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^    (?:torchrun .*|python) -m training run (\S+)(.*)$", section, re.MULTILINE)
    assert len(lines) >= 3
    for path, words in lines:
        load(TrainConfig, path, shlex.split(words.partition("  #")[0]))

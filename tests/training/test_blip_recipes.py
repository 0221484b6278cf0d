"""BLIP's configs against what was published, and its twin on pictures that the test makes.

Figures: Li et al., arXiv 2201.12086, section 4.1; pretrain.py, models/blip_pretrain.py, models/med.py and
configs/pretrain.yaml of salesforce/BLIP. ViT-B/16: Dosovitskiy et al., arXiv 2010.11929, table 1 (12 layers of 768, 86
M). BERT-base: Devlin et al., arXiv 1810.04805, section 3 (12 layers of 768, 12 heads, 110 M), of which 512 places, two
kinds of segments and the pooler (0.39 + 0.59 M) have no use in texts of 30 tokens that stand alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.load import load
from tests.conftest import REPOSITORY
from tests.training.test_train import losses
from tests.training.tiny_shards import make_evaluation, make_shards
from training.config import TrainConfig, total_samples
from training.learning.memory import MARGIN, needs_of
from training.learning.method import make_method
from training.learning.model import create_model
from training.train import train


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def config_of(stem: str) -> TrainConfig:
    return load(TrainConfig, REPOSITORY / f"configs/train/{stem}.yaml")


def test_settings_are_the_published_ones() -> None:
    config = config_of("blip-vit-b-16")
    method, optimiser, pairs = make_method(config.method, config.loss), config.optimiser, 14_000_000
    assert vars(method.options) == {
        "queue": 57_600, "momentum": 0.995, "alpha": 0.4, "ramp_samples": 2 * pairs, "label_smoothing": 0.1,
    }  # fmt: skip
    assert config.global_batch_size == 2_880
    assert 57_600 % config.global_batch_size == 0  # asserted there
    assert total_samples(config, pairs) == -(-20 * pairs // 2_880) * 2_880
    assert (optimiser.learning_rate, optimiser.weight_decay) == (3e-4, 0.05)
    assert optimiser.final_learning_rate == pytest.approx(3e-4 * 0.9**19, rel=1e-3)
    assert optimiser.warmup_samples == 3_000 * 2_880
    assert (optimiser.beta1, optimiser.beta2, optimiser.eps) == (0.9, 0.999, 1e-8)
    assert (config.loss.init_temperature, 1 / config.loss.max_logit_scale) == (0.07, 0.001)
    assert (config.data.augment.min_crop_area, config.data.augment.flip_probability) == (0.2, 0.5)
    head = (REPOSITORY / "configs/train/blip-vit-b-16.yaml").read_text()
    assert f"# For {config.plan.gpus} x GPU of {config.plan.gpu_memory_gb:g} GB (python -m training plan" in head
    recipes = (REPOSITORY / "docs/recipes.md").read_text()
    assert "`blip-vit-b-16.yaml`, `blip-small.yaml`" in recipes


class _NoWords:
    """In the tokenizer's place, which is brought along."""

    context_length = 30

    def __call__(self, texts: list[str], context_length: int = 0) -> torch.Tensor:
        raise NotImplementedError


def test_model_has_its_published_size_and_shapes() -> None:
    config = config_of("blip-vit-b-16")
    method = make_method(config.method, config.loss)
    with torch.device("meta"):
        model = create_model(
            config.model, device=torch.device("meta"), precision="fp32", init_logit_scale=method.init_logit_scale,
            init_logit_bias=None, seed=0, heads=method.heads, tokenizer=_NoWords(),
        )  # fmt: skip
    clip: Any = model.clip

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    projection = 768 * 256 + 256
    assert round((count(clip.visual) - projection) / 1e6) == 86
    # BERT-base without what a text of 30 tokens has no use for.
    unused = (512 - 30 + 2) * 768 + 768 * 768 + 768
    assert round((count(clip.text) - projection + unused) / 1e6, 1) == 109.5
    assert (len(clip.visual.trunk.blocks), clip.visual.trunk.embed_dim) == (12, 768)
    assert (len(clip.text.transformer.resblocks), clip.text.heads, clip.text.width) == (12, 12, 768)
    attention = 4 * (768 * 768 + 768) + 2 * 768  # four matrices and a norm
    grounding: Any = model.head("grounding")
    assert count(grounding.cross) == count(grounding.decoder) == 12 * attention
    assert count(grounding.match) == 2 * 768 + 2
    # As BERT's head over words, whose matrix is the embedding's, and [Encode], [Decode].
    assert count(grounding.words) + grounding.word_bias.numel() == 768 * 768 + 3 * 768 + 30_522
    assert count(grounding.tasks) == 2 * 768
    assert not [p for p in model.head("follower").parameters() if p.requires_grad]
    assert count(model.head("follower")) == count(clip.visual) + count(clip.text)
    assert model.head("queue").image.shape == model.head("queue").text.shape == (57_600, 256)


@pytest.mark.slow
def test_a_run_fits_on_the_gpus_that_its_config_names() -> None:
    config = config_of("blip-vit-b-16")
    assert needs_of(config).total <= (1 - MARGIN) * config.plan.gpu_memory_gb * 1e9


def small(output: Path, data: Path, **changes: Any) -> TrainConfig:
    config = config_of("blip-small")
    return replace(
        config,
        output=str(output), data=replace(config.data, path=str(data), num_workers=0), device="cpu", precision="fp32",
        threads=1, evaluation=replace(config.evaluation, path=None), **changes,
    )  # fmt: skip


@pytest.mark.slow  # two steps over 49,408 words
def test_small_twin_takes_two_steps(tiny_data: Path, tmp_path: Path) -> None:
    log = replace(config_of("blip-small").log, every_steps=1, tensorboard=False)
    result = train(small(tmp_path / "run", tiny_data, global_batch_size=16, epochs=None, samples=32, log=log))
    assert result.progress.samples_seen == 32
    assert all(0 < loss < 25 for _, loss in losses(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_small_twin_learns(tmp_path: Path) -> None:
    """On shapes in colours as the sample has them; chance is 1 of 80."""
    make_shards(tmp_path / "data", counts=(800, 800, 800, 884))
    make_evaluation(tmp_path / "evaluation", per_class=2)
    config = small(tmp_path / "run", tmp_path / "data")
    result = train(replace(config, evaluation=replace(config.evaluation, path=str(tmp_path / "evaluation"))))
    top1 = next(metric.value for metric in result.metrics if metric.name == "zeroshot_top1")
    assert top1 > 8 / 80

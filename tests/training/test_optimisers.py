"""Optimisers, schedules, rates of towers and layers, averaged weights: each against its source, and in whole runs."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from configs.load import ConfigError, from_mapping
from configs.load import load as load_config
from tests.conftest import REPOSITORY
from tests.training.conftest import averaged_run, stop_run, tiny_run
from tests.training.test_sharding import assert_close, last_of
from tests.training.test_train import assert_same_run, losses, weights_of
from training.__main__ import main
from training.checkpoints.layout import AVERAGED
from training.checkpoints.loading import load_checkpoint, read_weights
from training.checkpoints.moments import moments_by_name, numbered_names
from training.config import ModelConfig, OptimiserConfig, TrainConfig, learns
from training.errors import CheckpointError, ModelError
from training.learning.averaging import Average
from training.learning.lamb import Lamb
from training.learning.model import create_model
from training.learning.optimiser import make_optimiser
from training.learning.pretrained import load_model
from training.learning.rates import learning_rate, rate_shares
from training.plan import plan
from training.train import train

Array = npt.NDArray[np.float64]


def clip_of(name: str | Path) -> nn.Module:
    return create_model(
        ModelConfig(name=str(name)),
        device=torch.device("cpu"), precision="fp32", init_logit_scale=2.0, init_logit_bias=None, seed=7,
    ).clip  # fmt: skip


# --- LAMB -------------------------------------------------------------------------------------------


def lamb_of_the_paper(
    weight: Array, gradients: list[Array], *, rate: float, betas: tuple[float, float], eps: float, decay: float
) -> Array:
    """Algorithm 2 of arXiv 1904.00962 with phi(z) = z; what does not decay takes Adam's step."""
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step, gradient in enumerate(gradients, 1):
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        r = (first / (1 - betas[0] ** step)) / (np.sqrt(second / (1 - betas[1] ** step)) + eps) + decay * weight
        lengths = np.linalg.norm(weight), np.linalg.norm(r)
        trust = lengths[0] / lengths[1] if decay and all(lengths) else 1.0
        weight = weight - rate * trust * r
    return weight


def test_lamb_is_the_papers_algorithm() -> None:
    draw = np.random.default_rng(3)
    shapes = [(5, 4), (3, 2, 2), (6,), ()]
    starts = [draw.normal(size=shape) for shape in shapes] + [np.zeros((2, 3))]  # no length: its ratio is 1
    gradients = [[draw.normal(size=start.shape) for _ in range(6)] for start in starts]
    weights = [nn.Parameter(torch.from_numpy(np.array(start))) for start in starts]
    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": 0.3},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = Lamb(groups, lr=0.02, betas=(0.9, 0.98), eps=1e-6, sum_=lambda tensor: tensor)
    for step in range(6):
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = torch.from_numpy(np.array(gradient[step]))
        optimiser.step()
    for weight, start, gradient in zip(weights, starts, gradients, strict=True):
        expected = lamb_of_the_paper(
            start, gradient, rate=0.02, betas=(0.9, 0.98), eps=1e-6, decay=0.3 if weight.ndim >= 2 else 0.0
        )
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-12, atol=1e-14)


def test_lamb_leaves_out_a_step_that_is_not_finite() -> None:
    weights = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(3))]
    groups = [{"params": [weights[0]], "weight_decay": 0.1}, {"params": [weights[1]], "weight_decay": 0.0}]
    optimiser = Lamb(groups, lr=0.1, betas=(0.9, 0.98), eps=1e-6, sum_=lambda tensor: tensor)

    def state() -> list[torch.Tensor]:
        moments = [value for weight in weights for value in optimiser.state[weight].values()]
        return [value.detach().clone() for value in (*weights, *moments)]

    def step(*, broken: bool) -> list[torch.Tensor]:
        for weight in weights:
            weight.grad = torch.full_like(weight, torch.nan if broken else 0.5)
        optimiser.found_inf = torch.tensor(float(broken))
        optimiser.step()
        return state()

    begun = [weight.detach().clone() for weight in weights]
    first = step(broken=True)  # before there are moments
    assert all(torch.equal(*pair) for pair in zip(begun, first, strict=False))
    good = step(broken=False)
    assert not torch.equal(good[0], first[0])
    assert all(torch.equal(*pair) for pair in zip(good, step(broken=True), strict=True))


# --- schedules --------------------------------------------------------------------------------------


def rates(config: OptimiserConfig, *, batch: int, total: int) -> list[float]:
    """The rate of each step."""
    return [learning_rate(config, samples=seen, total_samples=total) for seen in range(batch, total + 1, batch)]


def test_rates_fall_in_a_line_or_at_the_end_alone() -> None:
    line = OptimiserConfig(learning_rate=1.0, final_learning_rate=0.2, warmup_samples=20, schedule="linear")
    assert rates(line, batch=10, total=100) == pytest.approx([0.5, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    flat = OptimiserConfig(learning_rate=1.0, warmup_samples=20, schedule="constant", cooldown_samples=40)
    assert rates(flat, batch=10, total=100) == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0.0])
    assert rates(replace(flat, cooldown_samples=0), batch=10, total=100) == pytest.approx([0.5] + [1.0] * 9)


def test_cosine_comes_a_step_before_open_clips() -> None:
    """open_clip's `cosine_lr` (open_clip_train/scheduler.py), by its formula: `step` counts from 0."""
    batch, steps, warmup = 32, 200, 20

    def theirs(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))

    config = OptimiserConfig(learning_rate=1.0, warmup_samples=warmup * batch)
    ours = rates(config, batch=batch, total=steps * batch)
    assert ours[:warmup] == pytest.approx([theirs(step) for step in range(warmup)])
    assert ours[warmup:] == pytest.approx([theirs(step + 1) for step in range(warmup, steps)], abs=1e-15)
    assert (ours[-1], theirs(steps - 1)) == (pytest.approx(0, abs=1e-15), pytest.approx(7.6e-5, rel=0.01))
    furthest = max(abs(our - theirs(step)) for step, our in enumerate(ours))
    assert furthest <= math.pi / (2 * (steps - warmup))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cooldown_samples": 5}, "cooldown_samples is of schedule constant, and schedule is cosine"),
        ({"image_layer_decay": 1.5}, r"image_layer_decay must lie in \(0, 1\]"),
        ({"text_learning_rate": 0.0}, "text_learning_rate must be positive"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in \(0, 1\), or be null"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(OptimiserConfig, options)


def test_a_cool_down_longer_than_the_run_stops_it_and_its_plan(tiny_data: Path, tiny_vit: Path, tmp_path: Path) -> None:
    config = from_mapping(TrainConfig, tiny_run(tmp_path / "run", tiny_data, tiny_vit))
    config = replace(config, optimiser=replace(config.optimiser, schedule="constant", cooldown_samples=150))
    for refused in (lambda: train(config), lambda: list(plan(config))):
        with pytest.raises(ConfigError, match="warmup_samples 32 and cooldown_samples 150 are more than the run's 160"):
            refused()
    assert not (tmp_path / "run" / "config.yaml").exists()


# --- rates of towers and layers ---------------------------------------------------------------------


def test_layers_learn_at_rates_that_decay_downwards(tiny_vit: Path, tiny_dropout: Path, tiny_resnet: Path) -> None:
    config = OptimiserConfig(learning_rate=1e-3, image_learning_rate=4e-4, image_layer_decay=0.5, text_layer_decay=0.8)

    def found(path: Path) -> dict[str, float]:
        clip = clip_of(path)
        shares = rate_shares(clip, config)
        return {name: shares[parameter] for name, parameter in clip.named_parameters()}

    vit = found(tiny_vit)
    expected = {
        "visual.conv1.weight": 0.4 * 0.5**3,
        "visual.class_embedding": 0.4 * 0.5**3,
        "visual.positional_embedding": 0.4 * 0.5**3,
        "visual.ln_pre.bias": 0.4 * 0.5**3,
        "visual.transformer.resblocks.0.mlp.c_fc.weight": 0.4 * 0.5**2,
        "visual.transformer.resblocks.1.ln_1.weight": 0.4 * 0.5,
        "visual.ln_post.weight": 0.4,
        "visual.proj": 0.4,
        "token_embedding.weight": 0.8**2,
        "positional_embedding": 0.8**2,
        "transformer.resblocks.0.attn.in_proj_weight": 0.8,
        "ln_final.weight": 1.0,
        "text_projection": 1.0,
        "logit_scale": 1.0,
    }
    assert {name: vit[name] for name in expected} == pytest.approx(expected)
    trunk = found(tiny_dropout)  # timm's, whose head is a stack of one matrix
    blocks = 1 + max(int(name.split(".")[3]) for name in trunk if name.startswith("visual.trunk.blocks."))
    assert trunk["visual.trunk.patch_embed.proj.weight"] == pytest.approx(0.4 * 0.5 ** (blocks + 1))
    assert trunk["visual.trunk.blocks.0.attn.qkv.weight"] == pytest.approx(0.4 * 0.5**blocks)
    assert trunk["visual.head.proj.weight"] == pytest.approx(0.4)
    resnet = found(tiny_resnet)
    assert resnet["visual.conv1.weight"] == pytest.approx(0.4 * 0.5**5)
    assert resnet["visual.layer4.0.conv1.weight"] == pytest.approx(0.4 * 0.5)
    assert resnet["visual.attnpool.c_proj.weight"] == pytest.approx(0.4)


def test_groups_have_each_parameter_once_and_those_that_decay_first(tiny_vit: Path) -> None:
    clip = clip_of(tiny_vit)
    plain = make_optimiser(clip, OptimiserConfig())
    assert [len(plain.param_groups), {group["rate_share"] for group in plain.param_groups}] == [2, {1.0}]
    own = make_optimiser(clip, OptimiserConfig(image_layer_decay=0.5, image_learning_rate=1e-4))
    found = [parameter for group in own.param_groups for parameter in group["params"]]
    assert len(found) == len(set(found)) == len(list(clip.parameters()))
    decays = [group["weight_decay"] > 0 for group in own.param_groups]
    assert decays == sorted(decays, reverse=True)
    assert [parameter.ndim >= 2 for parameter in found] == sorted((p.ndim >= 2 for p in found), reverse=True)


def test_a_tower_without_layers_has_no_layer_decay() -> None:
    clip = nn.ModuleDict({"visual": nn.Linear(3, 2), "text": nn.Linear(3, 2)})
    with pytest.raises(ModelError, match="image_layer_decay: the image tower has no layers that are alike"):
        rate_shares(clip, OptimiserConfig(image_layer_decay=0.5))


# --- averaged weights -------------------------------------------------------------------------------


def test_average_follows_the_weights_and_gives_them_back() -> None:
    module = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2).requires_grad_(False)})
    average = Average(module, 0.5)
    expected = module["a"].weight.detach().double()
    drawn = torch.Generator().manual_seed(0)
    for steps in (1, 2, 30):
        with torch.no_grad():
            module["a"].weight.copy_(torch.randn(2, 2, generator=drawn))
        stays = min(0.5, (1 + steps) / (10 + steps))
        expected = stays * expected + (1 - stays) * module["a"].weight.double()
        average.follow(steps=steps, is_finite=torch.tensor(True))
    torch.testing.assert_close(average.weights["a.weight"].double(), expected.detach(), rtol=1e-6, atol=1e-7)
    assert set(average.weights) == {"a.weight", "a.bias"}
    before = average.weights["a.weight"].clone()
    own = module["a"].weight.detach().clone()
    average.follow(steps=31, is_finite=torch.tensor(False))
    assert torch.equal(average.weights["a.weight"], before)
    with average.in_place():
        assert torch.equal(module["a"].weight, before)
    assert torch.equal(module["a"].weight, own)
    assert torch.equal(average.weights["a.weight"], before)


@pytest.fixture(scope="module")
def averaged(tiny_data: Path, tiny_vit: Path, two_ranks: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A whole run with LAMB, rates by layer and averaged weights."""
    run = averaged_run(tmp_path_factory.mktemp("averaged") / "run", tiny_data, tiny_vit)
    run["evaluation"] = {"path": str(two_ranks / "odd"), "batch_size": 3, "every_samples": 48}
    config = from_mapping(TrainConfig, run)
    train(config)
    return config


@pytest.mark.parametrize("step", [pytest.param(4, marks=pytest.mark.slow), 9])
def test_a_resumed_run_has_the_same_weights_moments_and_averages(
    averaged: TrainConfig, step: int, tmp_path: Path, tiny_data: Path, tiny_vit: Path
) -> None:
    """Stopped before and after the pictures grew."""
    run = averaged_run(tmp_path / "run", tiny_data, tiny_vit)
    stop_run(run, step=step)
    train(from_mapping(TrainConfig, run))
    assert_same_run(run["output"], averaged.output)
    left, right = (load_file(last_of(output) / AVERAGED) for output in (run["output"], averaged.output))
    assert left.keys() == right.keys()
    assert all(torch.equal(value, right[name]) for name, value in left.items())


def test_what_is_measured_exported_and_begun_from_is_the_average(
    averaged: TrainConfig, tmp_path: Path, tiny_data: Path, tiny_vit: Path
) -> None:
    last = last_of(averaged.output)
    mean, own = load_file(last / AVERAGED), weights_of(averaged.output)
    assert not torch.equal(mean["text_projection"], own["text_projection"])
    assert_close(read_weights(last), mean, atol=0)
    assert_close(dict(load_model(averaged.output, device="cpu", precision="fp32").clip.state_dict()), mean, atol=0)
    words = ["--output", averaged.output, "--data.path", "x", "--model.name", str(tiny_vit), "--samples", "1"]
    assert main(["export", *words, "--directory", str(tmp_path / "export")]) == 0
    assert_close(load_file(tmp_path / "export/open_clip_model.safetensors"), mean, atol=0)
    metrics = Path(averaged.output) / "metrics.json"
    measured = json.loads(metrics.read_text())["metrics"]
    assert main(["evaluate", *words, "--precision", "fp32", "--evaluation.path", averaged.evaluation.path or ""]) == 0
    assert json.loads(metrics.read_text())["metrics"] == measured


def test_sharded_ranks_learn_what_one_process_learns(two_ranks: Path, averaged: TrainConfig) -> None:
    one, two = losses(averaged.output), losses(two_ranks / "averaged")
    assert [seen for seen, _ in one] == [seen for seen, _ in two]
    assert [value for _, value in one] == pytest.approx([value for _, value in two], rel=2e-3)
    assert_close(read_weights(last_of(two_ranks / "averaged")), read_weights(last_of(averaged.output)), atol=2e-4)
    metrics = [
        json.loads((Path(o) / "metrics.json").read_text())["metrics"] for o in (averaged.output, two_ranks / "averaged")
    ]
    assert metrics[0] == metrics[1]


def test_one_process_goes_on_with_the_averages_of_sharded_ranks(
    two_ranks: Path, averaged: TrainConfig, tmp_path: Path
) -> None:
    shutil.copytree(two_ranks / "averaged", tmp_path / "run")
    shutil.rmtree(last_of(tmp_path / "run"))
    train(replace(averaged, output=str(tmp_path / "run")))
    assert_close(read_weights(last_of(tmp_path / "run")), read_weights(last_of(averaged.output)), atol=2e-4)


# --- what was before --------------------------------------------------------------------------------


def test_checkpoints_without_names_are_read_as_they_were_written(tiny_vit: Path) -> None:
    clip = clip_of(tiny_vit)
    optimiser = make_optimiser(clip, OptimiserConfig())
    for number, parameter in enumerate(clip.parameters()):
        parameter.grad = torch.full_like(parameter, float(number + 1))
    optimiser.step()
    state = optimiser.state_dict()
    named, by_rule = (moments_by_name(clip, state, names) for names in (numbered_names(clip, optimiser), None))
    assert named.keys() == by_rule.keys()
    assert all(value is by_rule[name] for name, value in named.items())
    assert float(named["text_projection.exp_avg"][0, 0]) == pytest.approx(0.1 * float(clip.text_projection.grad[0, 0]))


def test_the_options_of_the_docs_are_understood() -> None:
    page = (REPOSITORY / "docs/training.md").read_text(encoding="utf-8")
    section = page.split("## Optimisers, rates, averaged weights")[1].partition("\n## ")[0]
    lines = [line.partition(" #")[0].split() for line in section.splitlines() if line.startswith("    --")]
    words = [word for line in lines for word in line]
    found = load_config(TrainConfig, REPOSITORY / "configs/train/sample.yaml", words).optimiser
    assert (found.name, found.schedule, found.cooldown_samples, found.ema_decay) == (
        "lamb",
        "constant",
        20_000_000,
        0.9999,
    )
    assert (found.image_learning_rate, found.text_learning_rate, found.image_layer_decay) == (2e-4, 2e-5, 0.75)


LEARNS_BEFORE = "ca3df814fcd9767b86ceea8d9d709a27"
"""Of the config below, by the version that had AdamW and the cosine alone."""


def test_options_that_are_as_before_leave_the_fingerprint(tiny_data: Path, tiny_vit: Path, tmp_path: Path) -> None:
    config = from_mapping(TrainConfig, tiny_run(tmp_path, tiny_data, tiny_vit))
    assert learns(replace(config, model=replace(config.model, name="m"), seed=1)) == LEARNS_BEFORE
    for change in ({"name": "lamb"}, {"schedule": "linear"}, {"ema_decay": 0.9}, {"image_layer_decay": 0.5}):
        assert learns(replace(config, optimiser=replace(config.optimiser, **change))) != learns(config)


def test_a_checkpoint_without_averages_does_not_go_on_with_some(
    two_ranks: Path, averaged: TrainConfig, tiny_vit: Path
) -> None:
    clip = clip_of(tiny_vit)
    optimiser = make_optimiser(clip, OptimiserConfig())
    average = Average(clip, 0.9)
    for run in ("plain", "sharded"):
        with pytest.raises(CheckpointError, match="averaged weights are missing"):
            load_checkpoint(last_of(two_ranks / run), clip, optimiser, averages=average.weights)

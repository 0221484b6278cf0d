"""BLIP: its losses are those of the whole batch, its queue and averages the same however the batch is cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.load import ConfigError
from tests.conftest import REPOSITORY
from tests.ports import free_port
from tests.training.blip_reference import TINY_BLIP, make_batch, make_blip, make_model, plain_steps, steps_of
from training.config import LossConfig, MethodConfig
from training.distributed import World
from training.errors import ModelError
from training.learning.method import make_method
from training.learning.methods.blip.hard_pairs import keyed_choice, keyed_uniform, negative_weights
from training.learning.methods.blip.image_tokens import feature_and_tokens
from training.learning.methods.blip.momentum_queue import Queue


@pytest.fixture(scope="module")
def tiny_blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON of a model whose text tower sees whole texts."""
    path = tmp_path_factory.mktemp("models") / "openwit-test-blip.json"
    path.write_text(json.dumps(TINY_BLIP))
    return path


@pytest.fixture(scope="module")
def reference(tiny_blip: Path) -> dict[str, Any]:
    return plain_steps(str(tiny_blip))


def check(found: dict[str, Any], reference: dict[str, Any]) -> None:
    for step, (ours, theirs) in enumerate(zip(found["terms"], reference["terms"], strict=True)):
        assert ours == {name: pytest.approx(value, rel=1e-11) for name, value in theirs.items()}, step
    for ours, theirs in zip(found["gradients"], reference["gradients"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    for name, value in reference["queue"].items():
        torch.testing.assert_close(found["queue"][name], value, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(found["follower"], reference["follower"], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("micro_batches", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_losses_and_gradients_are_those_of_the_whole_batch(
    micro_batches: int, tiny_blip: Path, reference: dict[str, Any]
) -> None:
    check(steps_of(str(tiny_blip), World(), micro_batches=micro_batches), reference)


@pytest.mark.slow
def test_gradient_checkpointing_keeps_the_gradient(tiny_blip: Path, reference: dict[str, Any]) -> None:
    check(steps_of(str(tiny_blip), World(), micro_batches=2, gradient_checkpointing=True), reference)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_find_the_same(ranks: int, tiny_blip: Path, reference: dict[str, Any], tmp_path: Path) -> None:
    words = [str(tmp_path), str(tiny_blip), str(ranks), str(free_port())]
    environment = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "tests.training.blip_reference", *words],
        cwd=REPOSITORY, env=os.environ | environment, check=True, timeout=240,
    )  # fmt: skip
    found = torch.load(tmp_path / f"found-{ranks}.pt")
    assert list(found) == [1, 2, 4]
    for each in found.values():
        check(each, reference)


def test_decoder_says_token_by_token_what_it_says_at_once(tiny_blip: Path) -> None:
    model = make_model(str(tiny_blip), make_blip())
    grounding: Any = model.head("grounding")
    text: Any = model.clip.text
    batch = make_batch(model.image_size).slice(0, 3)
    picture = torch.randn(3, 5, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens = batch.tokens[:, :6]
    with torch.no_grad():
        at_once, kept = grounding.decode(text, tokens, picture), grounding.begin(picture)
        for place in range(6):
            one = grounding.next_logits(text, tokens[:, place], place, kept)
            torch.testing.assert_close(one, at_once[:, place], rtol=1e-10, atol=1e-12)
        # What comes later is not looked at, and what pads a text is not, either.
        changed = tokens.clone()
        changed[:, 4:] = 7
        torch.testing.assert_close(grounding.decode(text, changed, picture)[:, :4], at_once[:, :4], rtol=0, atol=1e-14)
        padded = torch.cat([batch.tokens[:, :12], torch.zeros(3, 9, dtype=torch.int64)], dim=1)
        seen = [grounding.encode(text, each, picture) for each in (batch.tokens[:, :12], padded)]
        torch.testing.assert_close(*seen, rtol=1e-12, atol=1e-14)


def test_queue_keeps_the_newest_and_lets_nothing_in_that_is_not_finite() -> None:
    queue = Queue(5, 2)
    rows = torch.arange(28.0).view(14, 2)
    queue.push(rows[:3], -rows[:3])
    queue.push(rows[3:7], -rows[3:7])
    assert queue.image[:, 0].tolist() == [10, 12, 4, 6, 8]
    assert (queue.text == -queue.image).all()
    before = {name: value.clone() for name, value in queue.state_dict().items()}
    queue.push(rows[:2], torch.full((2, 2), torch.nan))
    assert all(torch.equal(value, before[name]) for name, value in queue.state_dict().items())
    queue.push(rows[:14], rows[:14])  # more than there is room for
    assert sorted(queue.image[:, 0].tolist()) == [18, 20, 22, 24, 26]


def test_hard_negatives_follow_their_weights_and_are_never_the_own_sample() -> None:
    weights = torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0, 0.0]).expand(20_000, 6)
    counts = keyed_choice(weights, torch.arange(20_000), salt=1).bincount(minlength=6)
    assert counts[[0, 3, 5]].sum() == 0
    assert (counts[[1, 2, 4]] / 20_000 - torch.tensor([0.25, 0.5, 0.25])).abs().max() < 0.02
    logits = torch.zeros(4, 6).index_fill(1, torch.tensor([2]), 50.0)
    chances = negative_weights(logits, first=2)
    assert chances[0, 2] == 0  # which its softmax takes for itself alone
    assert (chances[1:, 2] > 0.99).all()
    assert len({float(u) for u in keyed_uniform(torch.arange(1000), salt=3)}) == 1000
    assert not torch.equal(keyed_uniform(torch.arange(9), salt=1), keyed_uniform(torch.arange(9), salt=2))


def test_features_are_those_of_the_model_itself(tiny_blip: Path) -> None:
    model = make_model(str(tiny_blip), make_blip())
    batch = make_batch(model.image_size)
    found, tokens = feature_and_tokens(model, batch.images, batch.keys)
    torch.testing.assert_close(found, model.encode_image(batch.images, batch.keys), rtol=1e-12, atol=1e-14)
    assert tokens.shape == (18, 1 + 3, 48)  # of four patches one is left out


@pytest.mark.parametrize(
    ("options", "loss", "says"),
    [
        ({"queue": 0}, {}, "queue must be at least 1"),
        ({"momentum": 1.0}, {}, r"momentum must lie in \[0, 1\)"),
        ({"alpha": 1.5}, {}, r"alpha must lie in \[0, 1\]"),
        ({"quue": 5}, {}, "did you mean 'queue'"),
        ({}, {"name": "sigmoid"}, "leave loss.name, loss.label_smoothing and loss.features as they are"),
    ],
)
def test_a_mistake_in_the_config_is_one_line(options: dict[str, Any], loss: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        make_method(MethodConfig(name="blip", options=options), LossConfig(**loss))
    assert "\n" not in str(caught.value)


def test_models_that_cannot_be_grounded_are_refused(tiny_blip: Path, tiny_vit: Path, tiny_resnet: Path) -> None:
    method = make_blip()
    with pytest.raises(ModelError, match="no_causal_mask true, pool_type first"):
        make_model(str(tiny_vit), method)
    described = {**TINY_BLIP, "vision_cfg": json.loads(tiny_resnet.read_text())["vision_cfg"]}
    path = tiny_blip.with_name("openwit-test-blip-resnet.json")
    path.write_text(json.dumps(described))
    with pytest.raises(ModelError, match="gives no tokens to look at; take a model with a ViT"):
        make_model(str(path), method)
    model = make_model(str(tiny_blip), method)
    method.check(model)
    model.is_sharded = True
    with pytest.raises(ModelError, match="set --distributed ddp"):
        method.check(model)

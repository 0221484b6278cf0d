"""CoCa's two terms against open_clip's own loss over the whole batch, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import open_clip
import pytest
import torch
from torch import Tensor

from tests.training.conftest import run_ranks
from tests.training.families import families, model_of
from tests.training.ranks_worker import Found, gradients_of, make_batch, make_model
from tests.training.test_gradient import load
from training.config import LossConfig, MethodConfig
from training.distributed import World
from training.learning.method import make_method
from training.learning.model import Model

METHOD = make_method(MethodConfig(name="coca"), LossConfig(chunk_rows=4))


@pytest.fixture(scope="module")
def tiny_coca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_of("coca", tmp_path_factory.mktemp("coca"))


def theirs(model: Model, **weights: float) -> dict[str, Tensor]:
    """Both terms by open_clip's forward pass and loss, over the whole batch."""
    batch, clip = make_batch(model.image_size), cast(Any, model.clip)
    for dropout in model._dropouts:
        dropout.keys_B = batch.keys
    pixels = (batch.images.permute(0, 3, 1, 2).double() - model.mean_C11) / model.std_C11
    loss = open_clip.CoCaLoss(**{"caption_loss_weight": 2.0, "clip_loss_weight": 1.0, **weights})
    return cast("dict[str, Tensor]", loss(**clip(pixels, batch.tokens), output_dict=True))


@pytest.fixture(scope="module")
def reference(tiny_coca: Path) -> tuple[float, Tensor]:
    """Loss and gradient of all weights by open_clip, and plain autograd."""
    model = make_model(str(tiny_coca), METHOD)
    value = torch.stack(list(theirs(model).values())).sum()
    value.backward()
    return float(value.detach()), torch.cat([p.grad.flatten() for p in model.clip.parameters() if p.grad is not None])


def check(found: dict[tuple[str, int], Found], reference: tuple[float, Tensor]) -> None:
    assert {key[1] for key in found} == {1, 2, 4}
    for this in found.values():
        assert this.loss == pytest.approx(reference[0], rel=1e-12)
        torch.testing.assert_close(this.gradient, reference[1], rtol=1e-9, atol=1e-12)


def test_gradient_equals_that_of_open_clips_loss_over_the_whole_batch(
    tiny_coca: Path, reference: tuple[float, Tensor]
) -> None:
    check(gradients_of(str(tiny_coca), World(), methods={"coca": METHOD}), reference)


@pytest.mark.parametrize("kind", ["gradients", "sharded"])
def test_gradient_over_two_ranks_is_the_same(kind: str, two_ranks: Path, reference: tuple[float, Tensor]) -> None:
    check(load(two_ranks / f"coca-{kind}.pt"), reference)


@pytest.mark.slow
def test_gradient_over_four_ranks_is_the_same(tiny_vit: Path, tmp_path: Path, reference: tuple[float, Tensor]) -> None:
    run_ranks({"folder": str(tmp_path), "model": str(tiny_vit), "families": families(tmp_path)}, 4)
    for kind in ("gradients", "sharded"):
        check(load(tmp_path / f"coca-{kind}.pt"), reference)

"""Losses over tiles: exact, whatever the tiles, and no tensor of theirs grows with the square of the batch."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from training.config import LossConfig, MethodConfig
from training.distributed import World
from training.learning.found_gradients import BLOCK
from training.learning.method import make_method
from training.learning.peak_memory import Holding
from training.learning.similarity import sigmoid_loss, smoothing, softmax_loss
from training.learning.similarity_memory import memory_of_loss


def features(rows: int, width: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def naive(name: str, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    logits = scale * image @ text.T
    labels = torch.arange(len(image))
    if name == "softmax":
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    signs = 2 * torch.eye(len(image), dtype=image.dtype) - 1
    return -F.logsigmoid(signs * (logits + bias)).sum() / len(image)


def leaves(rows: int, scale: float, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    image, text = features(rows, 5, 1, dtype), features(rows, 5, 2, dtype)
    return [
        x.clone().requires_grad_() for x in (image, text, torch.tensor(scale).double(), torch.tensor(-2.0).double())
    ]


def in_ranks(name: str, own: list[Tensor], cuts: list[int], tile: int) -> Tensor:
    """The sum over ranks that have the rows between `cuts`; what they put together is known before."""
    image, text, scale, bias = own
    bounds = list(zip([0, *cuts], [*cuts, len(image)], strict=True))
    with torch.no_grad():
        parts = [(scale * image[a:b].double() @ text.double().T).logsumexp(0) for a, b in bounds]
        column = torch.stack(parts).logsumexp(0)
    shares = []
    for a, b in bounds:
        if name == "softmax":
            shares.append(softmax_loss(image[a:b], text, scale, first=a, tile=tile, logsumexp=lambda _: column))
        else:
            shares.append(sigmoid_loss(image[a:b], text, scale, bias, first=a, tile=tile))
    return torch.stack(shares).sum()


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["softmax", "sigmoid"]),
    rows=st.integers(1, 13),
    tile=st.integers(1, 15),
    cuts=st.lists(st.integers(0, 13), max_size=3),
    scale=st.sampled_from([1.0, 14.3, 100.0]),
)
def test_loss_and_gradient_are_those_of_the_whole_matrix(
    name: str, rows: int, tile: int, cuts: list[int], scale: float
) -> None:
    ours, plain = leaves(rows, scale), leaves(rows, scale)
    value = in_ranks(name, ours, sorted(min(cut, rows) for cut in cuts), tile)
    expected = naive(name, *plain)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    (3 * value).backward()
    (3 * expected).backward()
    for here, there in zip(ours[: 3 if name == "softmax" else 4], plain, strict=False):
        assert here.grad is not None
        torch.testing.assert_close(here.grad, there.grad, rtol=1e-9, atol=1e-12)


def test_smoothed_labels_are_torchs() -> None:
    """Loss and gradient, over ranks of other sizes, against the cross-entropy of the whole matrix."""
    own, other = leaves(7, 3.0), leaves(7, 3.0)
    image, text, scale, _ = own
    bounds = [(0, 3), (3, 4), (4, 7)]
    shares = [smoothing(image[a:b], text, scale, first=a) for a, b in bounds]
    found = in_ranks("softmax", own, [3, 4], tile=2) + 0.1 * torch.stack(shares).sum()
    image, text, scale, _ = other
    logits, labels = scale * image @ text.T, torch.arange(7)
    expected = sum(F.cross_entropy(of, labels, label_smoothing=0.1) for of in (logits, logits.T)) / 2
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for left, right in zip(torch.autograd.grad(found, own[:3]), torch.autograd.grad(expected, other[:3]), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


def test_losses_are_open_clips() -> None:
    from open_clip.loss import ClipLoss, SigLipLoss

    image, text, scale, bias = leaves(10, 9.0)
    torch.testing.assert_close(
        in_ranks("softmax", [image, text, scale, bias], [4, 5], 3), ClipLoss()(image, text, scale)
    )
    ours = in_ranks("sigmoid", [image, text, scale, bias], [4, 5], 3)
    torch.testing.assert_close(ours, SigLipLoss()(image, text, scale, bias))


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_half_precision_features_are_multiplied_in_single(name: str) -> None:
    half = leaves(40, 50.0, torch.bfloat16)
    value = in_ranks(name, half, [], 7)
    plain = [x.detach().double().requires_grad_() for x in half]
    expected = naive(name, *plain)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
    value.backward()
    expected.backward()
    for here, there in zip(half[:2], plain, strict=False):
        assert here.grad is not None
        assert here.grad.dtype == torch.bfloat16
        torch.testing.assert_close(here.grad.double(), there.grad, rtol=1e-2, atol=1e-4)  # as bf16 rounds them


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that was made."""

    numel = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.numel = max(self.numel, made.numel())
        return made


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_no_tensor_grows_with_the_square_of_the_batch(name: str) -> None:
    image, text = (features(1_000, 8, seed, torch.float32).requires_grad_() for seed in (1, 2))
    scale = torch.tensor(14.0, requires_grad=True)
    losses: dict[str, Callable[[], Tensor]] = {
        "softmax": lambda: softmax_loss(image, text, scale, first=0, tile=64),
        "sigmoid": lambda: sigmoid_loss(image, text, scale, None, first=0, tile=64),
    }
    with Largest() as largest:
        losses[name]().backward()
    assert largest.numel == 1_000 * 8


class OneOfMany(World):
    """A rank whose collectives make what they would, and wait for nobody."""

    def gather_rows(self, local_nD: Tensor, *, total: int) -> Tensor:
        out = local_nD.new_zeros((self.size * -(-total // self.size), *local_nD.shape[1:]))
        return out if len(out) == total else out[:total].clone()

    def reduce_scatter_rows(self, rows_ND: Tensor, *, total: int) -> Tensor:
        longest, (start, stop) = -(-total // self.size), self.share(total)
        if total % self.size:
            rows_ND = rows_ND.new_zeros((self.size * longest, *rows_ND.shape[1:]))
        return rows_ND.new_zeros((longest, *rows_ND.shape[1:]))[: stop - start]

    def logsumexp(self, own: Tensor) -> Tensor:
        return own


def most_held(loss: LossConfig, *, width: int, total: int, ranks: int) -> int:
    """Bytes that the last rank holds at most, from its features to their gradients."""
    world = OneOfMany(rank=ranks - 1, size=ranks)
    start, stop = world.share(total)
    bias = torch.zeros((), requires_grad=True) if loss.name == "sigmoid" else None
    model: Any = SimpleNamespace(clip=SimpleNamespace(logit_scale=torch.ones((), requires_grad=True), logit_bias=bias))
    with Holding() as holding:
        rows = {name: torch.zeros(stop - start, width).requires_grad_() for name in ("image", "text")}
        coupled = make_method(MethodConfig(), loss).coupled(model, rows, {}, world=world, total=total)
        torch.autograd.backward(list(coupled.terms.values()))
    assert all(each.grad is not None for each in rows.values())
    return holding.most


@pytest.mark.parametrize(
    "options",
    [
        {"name": "softmax"},
        {"name": "softmax", "features": "bf16"},
        {"name": "softmax", "label_smoothing": 0.1},
        {"name": "softmax", "features": "bf16", "label_smoothing": 0.1},
        {"name": "sigmoid"},
        {"name": "sigmoid", "features": "bf16"},
    ],
)
def test_as_much_memory_is_counted_as_is_held(options: dict[str, Any]) -> None:
    """What `plan` tells, for one rank and many, batches that they share evenly or not, tiles small and large."""
    loss = LossConfig(chunk_rows=128, **options)
    for width, total, ranks in [(32, 512, 1), (160, 513, 1), (160, 512, 2), (160, 1023, 8), (64, 1024, 8)]:
        samples = -(-total // ranks)
        counted = memory_of_loss(loss, width=width, samples=samples, total=total, ranks=ranks)
        held = most_held(loss, width=width, total=total, ranks=ranks)
        assert 0.97 < held / sum(counted.values()) < 1.003, (width, total, ranks)


def test_a_batch_of_a_million_in_bf16_takes_less_than_8_gb() -> None:
    """From bf16 features to their gradient: as held in small and as summed at its size, beside the tiles 12 bytes for
    each number of the features."""
    rows, width, tile = 1_024, 512, 128
    image, text = (features(rows, width, seed, torch.bfloat16).requires_grad_() for seed in (1, 2))
    with Holding() as holding:
        softmax_loss(image, text, torch.tensor(14.0, requires_grad=True), first=0, tile=tile).backward()
    inputs = 2 * 2 * rows * width
    assert inputs + holding.most < 12 * rows * width + (4 + 2) * BLOCK + 1_000
    counted = memory_of_loss(LossConfig(features="bf16"), width=512, samples=2**20, total=2**20, ranks=1)
    in_float32 = 8 * 2**20 * 512  # as the model gives them
    assert sum(counted.values()) - in_float32 < 6.8e9


def test_a_gradient_is_taken_once() -> None:
    image, text = (features(6, 4, seed).requires_grad_() for seed in (1, 2))
    value = softmax_loss(image, text, torch.tensor(5.0).double(), first=0, tile=4)
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="was taken already"):
        value.backward()


def test_nobody_who_asks_for_no_gradient_pays_for_it() -> None:
    image, text = features(6, 4, 1), features(6, 4, 2)
    with torch.no_grad():
        value = softmax_loss(image, text, torch.tensor(5.0).double(), first=0, tile=4)
    torch.testing.assert_close(value, naive("softmax", image, text, torch.tensor(5.0).double(), torch.tensor(0.0)))

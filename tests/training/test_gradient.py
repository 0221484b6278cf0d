"""The gradient equals that of the whole global batch in one plain computation."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tests.training.conftest import run_ranks
from tests.training.own_method import Everything, plain_loss
from tests.training.ranks_worker import METHODS, ORDERED, Found, gradients_of, make_batch, make_model
from training.distributed import World
from training.errors import ModelError
from training.learning.buckets import cut
from training.learning.gradient import make_gradients


def naive_softmax(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    logits = scale * image @ text.T
    labels = torch.arange(len(image))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def naive_sigmoid(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    n = len(image)
    total = torch.zeros((), dtype=image.dtype)
    for i in range(n):
        for j in range(n):
            logit = scale * image[i] @ text[j] + bias
            total = total - F.logsigmoid(logit if i == j else -logit)
    return total / n


NAIVE = {"softmax": naive_softmax, "sigmoid": naive_sigmoid}


@pytest.fixture(scope="module")
def reference(tiny_vit: Path) -> dict[str, tuple[float, Tensor]]:
    """Loss and gradient by plain autograd over the full batch, text untrimmed."""
    found = {}
    for name, method in METHODS.items():
        model = make_model(str(tiny_vit), method)
        batch = make_batch(model.image_size)
        if isinstance(method, Everything):
            value = torch.stack(list(plain_loss(method, model, batch).values())).sum()
        else:
            image, text = model.encode_image(batch.images, batch.keys), model.encode_text(batch.tokens)
            value = NAIVE[name](image, text, model.clip.logit_scale.exp(), model.clip.logit_bias)
        value.backward()
        trained = [p for p in model.clip.parameters() if p.requires_grad]
        found[name] = (float(value.detach()), torch.cat([p.grad.flatten() for p in trained]))
    return found


def check(found: dict[tuple[str, int], Found], reference: dict[str, tuple[float, Tensor]]) -> None:
    assert {key[1] for key in found} == {1, 2, 4}
    for (name, _), this in found.items():
        expected_value, expected = reference[name]
        assert this.loss == pytest.approx(expected_value, rel=1e-12)
        # Every parameter, temperature and bias among them, to float64 rounding.
        assert torch.allclose(this.gradient, expected, rtol=1e-9, atol=1e-12)
        assert this.norm == pytest.approx(float(expected.norm()), rel=1e-9)


def test_gradient_with_micro_batches_equals_full_batch_gradient(
    tiny_vit: Path, reference: dict[str, tuple[float, Tensor]]
) -> None:
    check(gradients_of(str(tiny_vit), World()), reference)


def test_gradient_checkpointing_and_patch_dropout_keep_the_gradient(
    tiny_vit: Path, reference: dict[str, tuple[float, Tensor]]
) -> None:
    # The reference drops the same half of the patches, and recomputes nothing.
    check(gradients_of(str(tiny_vit), World(), gradient_checkpointing=True), reference)


needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler on a CPU",
)


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(900)  # compiles for minutes on a busy machine
def test_compiled_towers_have_the_same_gradient(tiny_vit: Path, reference: dict[str, tuple[float, Tensor]]) -> None:
    check(gradients_of(str(tiny_vit), World(), compiled=True, methods={"sigmoid": METHODS["sigmoid"]}), reference)


@pytest.mark.parametrize("name", ["tiny_vit", "tiny_resnet"])
def test_channels_last_pictures_have_the_same_gradient(name: str, request: pytest.FixtureRequest) -> None:
    found = []
    for layout in (torch.channels_last, torch.contiguous_format):
        model = make_model(str(request.getfixturevalue(name)), METHODS["softmax"], patch_dropout=0.0)
        images = make_batch(model.image_size).images
        if layout is torch.channels_last:
            features = model.encode_image(images)  # as the trainer does it
        else:
            pixels = (images.permute(0, 3, 1, 2).double() - model.mean_C11) / model.std_C11
            features = F.normalize(model.clip.visual(pixels.contiguous()), dim=-1)
        features[:, 0].sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.clip.visual.parameters() if p.grad is not None]))
    assert found[0].abs().sum() > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("kind", ["gradients", "sharded"])
def test_gradient_over_two_ranks_equals_single_process_gradient(
    kind: str, two_ranks: Path, reference: dict[str, tuple[float, Tensor]]
) -> None:
    check(load(two_ranks / f"{kind}.pt"), reference)


def test_sharded_gradients_are_reduced_once_a_step(two_ranks: Path) -> None:
    found = load(two_ranks / "sharded.pt")
    # One for each group (two layers and the rest of the image tower, one layer of text and what is left) and one for
    # the features of texts.
    assert [found["softmax", micro_batches].reductions for micro_batches in (1, 2, 4)] == [6, 6, 6]


def test_most_gradients_are_summed_while_the_backward_pass_makes_others(two_ranks: Path) -> None:
    found = load(two_ranks / "gradients.pt")
    for (_, micro_batches), this in found.items():
        assert this.sums > 20  # buckets
        # The first step does not know yet in which order they become whole. What stays: gains and biases of all layers,
        # and the temperature among them.
        least = 0.5 if micro_batches == 1 else 0.8
        assert this.early_sums >= least * this.sums, (micro_batches, this.early_sums, this.sums)
    assert {this.sums for this in load(two_ranks / "sharded.pt").values()} == {1}  # the temperature
    assert {this.early_sums for this in load(two_ranks / "sharded.pt").values()} == {0}


def test_ranks_sum_in_one_order_though_their_backward_passes_have_others(two_ranks: Path) -> None:
    first, second = torch.load(two_ranks / "orders.pt")
    assert first[0]["came"] != second[0]["came"]
    for step, (mine, other) in enumerate(zip(first, second, strict=True)):
        assert mine["begun"] == other["begun"]
        assert len(set(mine["begun"])) == ORDERED
        gradients = [10**i * (2 * step + 3) + 4 * (i == 0) for i in range(4)]
        assert mine["gradients"] == other["gradients"] == [*gradients, 10**4 * (step + 1), 0]
    # By the buffer, then by what rank 0 came to; what nobody used goes last.
    assert first[0]["begun"] == [5, 4, 3, 2, 1, 0]
    assert first[1]["begun"] == first[2]["begun"] == [*first[0]["came"], 5]
    assert first[0]["early"] == 0
    assert first[1]["early"] == 5
    assert second[1]["early"] < 5


def test_weights_fill_buckets_and_small_ones_have_their_own() -> None:
    def weights(*shapes: tuple[int, ...]) -> list[torch.nn.Parameter]:
        return [torch.nn.Parameter(torch.empty(shape)) for shape in shapes]

    found = cut(weights((5, 2), (5, 2), (5, 3), (100, 1), (1, 1), (4,), (), (30,), (30,)), max_bytes=100)
    assert [list(each) for each in found] == [[0, 1], [2], [3], [4], [5, 6], [7], [8]]
    assert cut(weights((3,)), max_bytes=1) == [range(1)]


def test_weight_whose_gradient_comes_in_parts_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "begin_sum_", lambda self, tensor: None)
    shared, other = (torch.nn.Parameter(torch.ones(3, 3)) for _ in range(2))
    gradients = make_gradients(torch.nn.Identity(), [shared, other], World(size=2))
    gradients.last_backward(True)
    x = (torch.ones(2, 3) @ other).requires_grad_()
    for _ in range(2):
        x = checkpoint(lambda x: x @ shared, x, use_reentrant=True)
    with pytest.raises(ModelError, match=r"layers share gets .*gradient_checkpointing false"):
        x.sum().backward()


@pytest.mark.slow
def test_gradient_over_four_ranks_equals_single_process_gradient(
    tiny_vit: Path, reference: dict[str, tuple[float, Tensor]], tmp_path: Path
) -> None:
    run_ranks({"folder": str(tmp_path), "model": str(tiny_vit)}, 4)
    check(load(tmp_path / "gradients.pt"), reference)
    check(load(tmp_path / "sharded.pt"), reference)


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(900)  # as above
def test_compiled_layers_of_sharded_towers_have_the_same_gradient(
    tiny_vit: Path, reference: dict[str, tuple[float, Tensor]], tmp_path: Path
) -> None:
    run_ranks({"folder": str(tmp_path), "model": str(tiny_vit), "compiled": True}, 2, timeout_s=800)
    check(load(tmp_path / "compiled.pt"), reference)


def load(path: Path) -> dict[tuple[str, int], Found]:
    return {key: Found(**facts) for key, facts in torch.load(path).items()}


def test_trimmed_text_gives_the_same_features(tiny_vit: Path) -> None:
    from training.data.batch import trim

    model = make_model(str(tiny_vit), METHODS["softmax"])
    tokens = make_batch(model.image_size).tokens
    assert model.can_trim
    assert trim(tokens).shape[1] == 11
    torch.testing.assert_close(model.encode_text(trim(tokens)), model.encode_text(tokens), rtol=0, atol=1e-14)
    expected = model.clip.encode_text(tokens, normalize=True)
    torch.testing.assert_close(model.encode_text(tokens), expected, rtol=0, atol=1e-14)


def test_patch_dropout_depends_on_the_samples_key_alone(tiny_vit: Path) -> None:
    model = make_model(str(tiny_vit), METHODS["softmax"])
    batch = make_batch(model.image_size)
    whole = model.encode_image(batch.images, batch.keys)
    turned = model.encode_image(batch.images.flip(0), batch.keys.flip(0)).flip(0)
    other = model.encode_image(batch.images, batch.keys + 1)
    torch.testing.assert_close(whole, turned, rtol=0, atol=1e-14)
    assert not torch.allclose(whole, other)

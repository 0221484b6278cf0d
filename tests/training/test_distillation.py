"""MobileCLIP's loss: tile by tile, over ranks and micro-batches, as the paper has it over the whole batch."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import DistillClipLoss
from torch import Tensor

from configs.load import ConfigError
from tests.ports import free_port
from tests.training.ranks_worker import GLOBAL_BATCH, Found, gradients_of, make_batch, make_model
from training.config import LossConfig, MethodConfig
from training.data.batches import Batch
from training.data.taught import SYNTHETIC, TEACHER_SCALE, teacher_field
from training.distributed import World, distributed
from training.errors import ModelError
from training.learning.method import Output, Rows, make_method
from training.learning.methods.distillation.distillation import Distillation
from training.learning.methods.distillation.teaching import Taught, distillation_loss
from training.learning.model import Model

WIDTHS, SCALES = (5, 7), (20.0, 60.0)
"""Of two teachers."""


def unit(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(values, dim=-1).to(dtype)


def plain_distillation(image: Tensor, text: Tensor, scale: Tensor, teachers: list[tuple[Tensor, Tensor, float]]) -> Any:
    """Equations 2 and 3 of arXiv 2311.17049, over the whole matrix."""
    total = torch.zeros((), dtype=image.dtype)
    for their_image, their_text, their_scale in teachers:
        logits, theirs = scale * image @ text.T, their_scale * (their_image @ their_text.T).to(image.dtype)
        for student, teacher in ((logits, theirs), (logits.T, theirs.T)):
            total = total + F.kl_div(
                student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="batchmean"
            ) / (2 * len(teachers))
    return total


@pytest.mark.parametrize("tile", [4, 7, 100])
def test_loss_over_tiles_is_the_loss_over_the_matrix(tile: int) -> None:
    image, text, scale = unit(18, 6, seed=1), unit(18, 6, seed=2), torch.tensor(9.0, dtype=torch.float64)
    teachers = [(unit(18, w, seed=3 + i), unit(18, w, seed=5 + i), s) for i, (w, s) in enumerate(zip(WIDTHS, SCALES))]  # noqa: B905
    found = []
    for tiled in (True, False):
        leaves = [tensor.clone().requires_grad_() for tensor in (image, text, scale)]
        if tiled:
            taught = [Taught(image=i, text=t, scale=torch.tensor(s)) for i, t, s in teachers]
            value = distillation_loss(*leaves, taught, tile=tile)
        else:
            value = plain_distillation(*leaves, teachers)
        (3 * value).backward()
        found.append([value.detach(), *(leaf.grad for leaf in leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_a_student_that_says_what_its_teacher_says_has_no_loss() -> None:
    image, text = unit(9, 6, seed=1), unit(9, 6, seed=2)
    leaves = [image.clone().requires_grad_(), text.clone().requires_grad_()]
    taught = [Taught(image=image, text=text, scale=torch.tensor(30.0))]
    value = distillation_loss(*leaves, torch.tensor(30.0, dtype=torch.float64), taught, tile=4)
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-14)
    assert all(float(leaf.grad.abs().max()) < 1e-14 for leaf in leaves if leaf.grad is not None)


def test_gradient_of_one_teacher_is_that_of_open_clips_loss() -> None:
    """Which leaves out the teacher's entropy: a constant."""
    image, text, scale = unit(12, 6, seed=1), unit(12, 6, seed=2), torch.tensor(9.0, dtype=torch.float64)
    their_image, their_text = unit(12, 5, seed=3), unit(12, 5, seed=4)
    found = []
    for ours in (True, False):
        leaves = [tensor.clone().requires_grad_() for tensor in (image, text, scale)]
        if ours:
            taught = [Taught(image=their_image, text=their_text, scale=torch.tensor(20.0))]
            value = distillation_loss(*leaves, taught, tile=5)
        else:
            _, value = DistillClipLoss()(*leaves, their_image, their_text, 20.0)
        value.backward()
        found.append([leaf.grad for leaf in leaves])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


def test_bf16_features_of_teachers_are_taken_as_they_are() -> None:
    image, text, scale = unit(8, 6, seed=1), unit(8, 6, seed=2), torch.tensor(9.0, dtype=torch.float64)
    half = [unit(8, 5, seed=seed, dtype=torch.bfloat16) for seed in (3, 4)]
    taught = [Taught(image=half[0], text=half[1], scale=torch.tensor(20.0))]
    exact = plain_distillation(image, text, scale, [(half[0].double(), half[1].double(), 20.0)])
    assert float(distillation_loss(image, text, scale, taught, tile=3)) == pytest.approx(float(exact), rel=1e-12)


# --- the method ------------------------------------------------------------------------------------


def reinforced(batch: Batch) -> Batch:
    """`batch` with what a reinforced data set adds to it, by the samples' keys."""
    rows = [int(key) % 1000 for key in batch.keys]
    fields = {SYNTHETIC: batch.tokens.roll(1, dims=1).index_fill(1, torch.tensor([0]), 49406)}
    for number, width in enumerate(WIDTHS):
        for seed, what in enumerate(("image", "text", SYNTHETIC)):
            features = [unit(width, seed=1000 * row + 10 * number + seed, dtype=torch.bfloat16) for row in rows]
            fields[teacher_field(what, number)] = torch.stack(features)
    return batch.having({**fields, TEACHER_SCALE: torch.tensor([SCALES] * len(batch))})


class OfNoise(Distillation):
    """Taught by noise, which stands in no batch of `ranks_worker`."""

    def forward(self, model: Model, batch: Batch, *, rows_only: bool = False, known: Rows | None = None) -> Output:
        return super().forward(model, reinforced(batch), rows_only=rows_only, known=known)

    def constants(self, model: Model, batch: Batch) -> Rows:
        return super().constants(model, reinforced(batch))


def methods() -> dict[str, Distillation]:
    def of(**options: Any) -> Distillation:
        return OfNoise(Distillation.Options(**options), LossConfig(chunk_rows=4))

    return {"both": of(weight=0.75, synthetic_weight=0.5), "taught": of(teacher_scales=(70.0, 50.0))}


def plain(method: Distillation, model: Model) -> tuple[float, Tensor]:
    """Loss and gradient as the paper has them, over the whole batch."""
    batch = reinforced(make_batch(model.image_size))
    clip: Any = model.clip
    image, scale = model.encode_image(batch.images, batch.keys), clip.logit_scale.exp()
    value = torch.zeros((), dtype=torch.float64)
    labels = torch.arange(len(batch))
    for what, weight in (("text", 1.0), (SYNTHETIC, method.options.synthetic_weight)):
        text = model.encode_text(batch.tokens if what == "text" else batch.fields[SYNTHETIC])
        logits = scale * image @ text.T
        clips = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        teachers = [
            (batch.fields[teacher_field("image", i)].double(), batch.fields[teacher_field(what, i)].double(), s)
            for i, s in enumerate(method.options.teacher_scales or SCALES)
        ]
        share = method.options.weight
        value = value + weight * ((1 - share) * clips + share * plain_distillation(image, text, scale, teachers))
    value.backward()
    trained = [p for p in model.clip.parameters() if p.requires_grad]
    return float(value.detach()), torch.cat([p.grad.flatten() for p in trained if p.grad is not None])


@pytest.fixture(scope="module")
def reference(tiny_vit: Path) -> dict[str, tuple[float, Tensor]]:
    return {name: plain(method, make_model(str(tiny_vit), method)) for name, method in methods().items()}


def check(found: Mapping[tuple[str, int], Any], reference: Mapping[str, tuple[float, Tensor]]) -> None:
    assert {key[1] for key in found} == {1, 2, 4}
    for (name, _), this in found.items():
        value, gradient = reference[name]
        assert this.loss == pytest.approx(value, rel=1e-12)
        assert torch.allclose(this.gradient, gradient, rtol=1e-9, atol=1e-12)


def test_gradient_with_micro_batches_is_that_of_the_whole_batch(
    tiny_vit: Path, reference: dict[str, tuple[float, Tensor]]
) -> None:
    check(gradients_of(str(tiny_vit), World(), methods=methods()), reference)


KINDS = {2: ["sharded"], 4: ["whole", "sharded"]}
"""How the weights lie, by ranks; of two ranks that of more parts alone, for the time it takes."""


def _rank(rank: int, ranks: int, port: int, model: str, to: Path, names: list[str]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with distributed(device="cpu", timeout_s=120) as world:
        these = {name: methods()[name] for name in names}
        found = {kind: gradients_of(model, world, sharded=kind == "sharded", methods=these) for kind in KINDS[ranks]}
        if world.is_first:
            torch.save({kind: {key: asdict(f) for key, f in part.items()} for kind, part in found.items()}, to)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_gradient_over_ranks_is_that_of_one_process(
    ranks: int, tiny_vit: Path, tmp_path: Path, reference: dict[str, tuple[float, Tensor]]
) -> None:
    # Forked, so that nothing is imported anew.
    fork, port, to = multiprocessing.get_context("fork").Process, free_port(), tmp_path / "found.pt"
    names = ["both"] if ranks == 2 else list(methods())
    processes = [fork(target=_rank, args=(rank, ranks, port, str(tiny_vit), to, names)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * ranks
    for part in torch.load(to).values():
        check({key: Found(**this) for key, this in part.items()}, reference)


def of_options(loss: LossConfig | None = None, **options: Any) -> Distillation:
    method = make_method(MethodConfig(name="distillation", options=options), loss or LossConfig())
    assert isinstance(method, Distillation)
    return method


@pytest.mark.parametrize(
    ("options", "loss", "told"),
    [
        ({"weight": 1.5}, {}, r"weight must lie in \[0, 1\], got 1.5"),
        ({"synthetic_weight": -1}, {}, "synthetic_weight must not be negative"),
        ({"teacher_scales": [70, 0]}, {}, "teacher_scales must be positive"),
        ({"teacher": "ViT-B-32:x", "teacher_scales": [1, 2]}, {}, "teacher is one, and teacher_scales has 2"),
        ({"lambda": 1}, {}, "lambda"),
        ({}, {"name": "sigmoid"}, "goes with loss.name softmax, and it is sigmoid"),
        ({}, {"label_smoothing": 0.1}, "label_smoothing is of method contrastive"),
    ],
)
def test_what_it_cannot_do_is_told(options: dict[str, Any], loss: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        of_options(LossConfig(**loss), **options)


def test_scales_are_as_many_as_teachers_and_teachers_are_needed() -> None:
    of_options(teacher_scales=[70, 50]).check_reinforced(2)
    of_options(teacher="x").check_reinforced(None)
    with pytest.raises(ConfigError, match="has 3 numbers, and there are 2 teachers"):
        of_options(teacher_scales=[1, 2, 3]).check_reinforced(2)
    with pytest.raises(ConfigError, match=r"name reinforcements of the data with --data\.reinforced"):
        of_options().check_reinforced(None)


# --- a teacher at hand -----------------------------------------------------------------------------


def test_a_teacher_at_hand_teaches_as_open_clip_has_it(tiny_vit: Path, tiny_model: str) -> None:
    method = of_options(teacher=tiny_model, weight=0.5)
    model = make_model(str(tiny_vit), method, patch_dropout=0.0)
    method.check(model)
    batch = make_batch(model.image_size)
    found = gradients_of(str(tiny_vit), World(), methods={"at hand": of_options(teacher=tiny_model, weight=0.5)})
    teacher = method._teacher_for(model)
    with torch.no_grad():
        theirs = teacher.encode_image(batch.images).double(), teacher.encode_text(batch.tokens).double()
    model = make_model(str(tiny_vit), method)
    clip: Any = model.clip
    scale = clip.logit_scale.exp()
    losses = DistillClipLoss()(
        model.encode_image(batch.images, batch.keys), model.encode_text(batch.tokens), scale,
        *theirs, teacher.clip.logit_scale.exp().detach(),
    )  # fmt: skip
    (0.5 * sum(losses)).backward()
    expected = torch.cat([p.grad.flatten() for p in model.clip.parameters() if p.grad is not None])
    for this in found.values():
        # The student is float64, the teacher float32.
        assert torch.allclose(this.gradient, expected, rtol=1e-4, atol=1e-7)
    assert len(batch) == GLOBAL_BATCH
    assert math.isfinite(sum(this.loss for this in found.values()))


def test_a_teacher_of_another_resolution_is_told(tiny_vit: Path, tiny_model: str, tmp_path: Path) -> None:
    other = tmp_path / "openwit-test-larger.json"
    other.write_text(tiny_vit.read_text().replace('"image_size": 32', '"image_size": 48'))
    method = of_options(teacher=tiny_model)
    with pytest.raises(ModelError, match="sees pictures of 32 px, and openwit-test-larger of 48; take another"):
        method.check(make_model(str(other), method))


def test_a_teacher_with_other_tokens_is_told(tiny_vit: Path, tiny_model: str, tmp_path: Path) -> None:
    other = tmp_path / "openwit-test-shorter.json"
    other.write_text(tiny_vit.read_text().replace('"context_length": 24', '"context_length": 16'))
    method = of_options(teacher=tiny_model)
    with pytest.raises(ModelError, match="has other tokens than openwit-test-shorter"):
        method.check(make_model(str(other), method))


def test_a_teacher_that_is_not_there_is_told(tiny_vit: Path) -> None:
    method = of_options(teacher="runs/no-such")
    with pytest.raises(ModelError, match=r"method\.options\.teacher: runs/no-such: does not exist"):
        method.check(make_model(str(tiny_vit), of_options(teacher="x")))

"""SigLIP 2: its terms, when they begin, what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.conftest import REPOSITORY
from tests.ports import free_port
from tests.training.ranks_worker import make_batch, make_model
from tests.training.siglip2_worker import TINY, make_method_of_test
from training.data.batches import Batch
from training.distributed import World
from training.learning.keyed import draws
from training.learning.methods.siglip2 import Siglip2
from training.learning.model import Model
from training.learning.views import local_views


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON of a small vision transformer of timm's with texts as SigLIP's."""
    path = tmp_path_factory.mktemp("models") / "openwit-test-tokens.json"
    path.write_text(json.dumps(TINY))
    return path


# --- the terms, as a textbook has them ----------------------------------------------------------------


def plain_terms(method: Siglip2, model: Model, batch: Batch) -> dict[str, Tensor]:
    """Over the whole batch, sample by sample, with every matrix whole."""
    options, clip = method.options, model.clip
    pixels = (batch.images.permute(0, 3, 1, 2).double() - model.mean_C11) / model.std_C11
    image, patches = model.encode_image_and_tokens(batch.images, batch.keys)
    text = model.encode_text(batch.tokens)
    logits = clip.logit_scale.exp() * image @ text.T + clip.logit_bias
    signs = 2 * torch.eye(len(batch), dtype=torch.float64) - 1
    terms = {"contrastive": -F.logsigmoid(signs * logits).sum() / len(batch)}

    parallel = draws(batch.keys, 1, purpose=2)[:, 0] < 0.5
    assert 0 < parallel.sum() < len(batch)
    found = [
        plain_caption(model, batch.tokens[row], patches[row : row + 1], bool(parallel[row]))
        for row in range(len(batch))
    ]
    terms["caption"] = torch.stack([value for value, _ in found]).sum() / sum(count for _, count in found)

    distil, masked, teacher = model.head("distil"), model.head("masked"), model.head("teacher").module
    views = local_views(pixels, batch.keys, count=3, size=16, min_area=0.05, max_area=0.4).unflatten(0, (-1, 3))
    order = draws(batch.keys, 4, purpose=3).argsort(1)
    of_views, of_patches = [], []
    for row in range(len(batch)):
        whole = pixels[row : row + 1]
        with torch.no_grad():
            pooled, patches = teacher(whole, tokens=True, drops=False)
        for view in views[row]:
            part, _ = clip.visual(view[None], tokens=True, drops=False)
            of_views.append(cross_entropy(distil, part[0], pooled[0]) / 3)
        mask = torch.zeros(1, 4, dtype=torch.bool)
        mask[0, order[row, :2]] = True
        token = model.head("mask").token
        _, seen = clip.visual(whole, tokens=True, drops=False, mask_BP=mask, mask_token=token)
        of_patches += [cross_entropy(masked, seen[0, i], patches[0, i]) / 2 for i in order[row, :2]]
    terms["distil"] = options.size_factor * torch.stack(of_views).sum() / len(batch)
    terms["masked"] = options.size_factor * 0.25 * torch.stack(of_patches).sum() / len(batch)
    return terms


def plain_caption(model: Model, tokens: Tensor, patches: Tensor, is_parallel: bool) -> tuple[Tensor, int]:
    """Cross-entropy of one caption, and its tokens."""
    decoder: Any = model.head("decoder")
    length, end = 24, int((tokens != 0).sum())
    shown = torch.cat([torch.tensor([decoder._start]), tokens[:-1]])
    if is_parallel:
        shown = torch.full((length,), decoder._mask)
    x = (decoder.embedding.weight[shown] + decoder.positions)[None]
    hidden = torch.zeros(length, length, dtype=torch.bool) if is_parallel else torch.ones(length, length).triu(1).bool()
    for layer in decoder.layers:
        x = layer(x, decoder.bridge(patches), tgt_mask=hidden)
    logits = decoder.norm(x)[0] @ decoder.words.weight.T + decoder.words.bias
    return F.cross_entropy(logits[:end], tokens[:end], reduction="sum"), end


def cross_entropy(head: Any, student: Tensor, teacher: Tensor) -> Tensor:
    def logits(side: Any, x: Tensor) -> Tensor:
        return F.normalize(side.mlp(x), dim=-1) @ F.normalize(side.prototypes, dim=1).T

    target = ((logits(head.teacher, teacher).detach() - head.centre) / 0.04).softmax(0)
    return F.cross_entropy(logits(head.student, student)[None] / 0.1, target[None])


@pytest.fixture(scope="module")
def reference(tiny: Path) -> tuple[dict[str, float], Tensor]:
    method = make_method_of_test()
    model = make_model(str(tiny), method)
    spoil(model)
    terms = plain_terms(method, model, make_batch(model.image_size))
    torch.stack(list(terms.values())).sum().backward()
    trained = [p for p in model.clip.parameters() if p.requires_grad]
    return {name: float(term.detach()) for name, term in terms.items()}, torch.cat([p.grad.flatten() for p in trained])


def spoil(model: Model) -> None:
    from tests.training.siglip2_worker import spoil as of_worker

    of_worker(model)


def check(found: dict[int, tuple[dict[str, float], Tensor, list[Tensor]]], reference: Any, centres: Any) -> None:
    terms, gradient = reference
    assert set(found) == {1, 2, 4}
    for these, this, moved in found.values():
        assert these == {name: pytest.approx(value, rel=1e-11) for name, value in terms.items()}
        torch.testing.assert_close(this, gradient, rtol=1e-8, atol=1e-11)
        for one, other in zip(moved, centres, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.fixture(scope="module")
def centres(tiny: Path) -> list[Tensor]:
    """Where a step over the whole batch moves them: a tenth of the way to the teacher's mean logits."""
    model = make_model(str(tiny), make_method_of_test())
    spoil(model)
    batch = make_batch(model.image_size)
    pixels = (batch.images.permute(0, 3, 1, 2).double() - model.mean_C11) / model.std_C11
    with torch.no_grad():
        pooled, patches = model.head("teacher").module(pixels, tokens=True, drops=False)
        order = draws(batch.keys, 4, purpose=3).argsort(1)[:, :2]
        masked = torch.cat([patches[row, order[row]] for row in range(len(batch))])
        moved = []
        for name, rows in (("distil", pooled), ("masked", masked)):
            head: Any = model.head(name)
            mean = (F.normalize(head.teacher.mlp(rows), dim=1) @ F.normalize(head.teacher.prototypes, dim=1).T).mean(0)
            moved.append(0.9 * head.centre + 0.1 * mean)
    return moved


def test_gradient_with_micro_batches_equals_full_batch_gradient(
    tiny: Path, reference: Any, centres: list[Tensor]
) -> None:
    from tests.training.siglip2_worker import found_of

    check(found_of(str(tiny), World(), sharded=False), reference, centres)


def ranks(tiny: Path, folder: Path, count: int) -> dict[str, Any]:
    """What `count` processes found, which meet on loopback."""
    port = str(free_port())
    environment = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(count),
    }  # fmt: skip
    words = [sys.executable, "-m", "tests.training.siglip2_worker", str(tiny), str(folder / "found.pt")]
    started = [
        subprocess.Popen(
            words, cwd=REPOSITORY, env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    said = [process.communicate(timeout=600)[0] for process in started]
    assert not any(process.returncode for process in started), said
    found: dict[str, Any] = torch.load(folder / "found.pt")
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [2, 4])
def test_gradient_over_ranks_equals_single_process_gradient(
    count: int, tiny: Path, reference: Any, centres: list[Tensor], tmp_path: Path
) -> None:
    found = ranks(tiny, tmp_path, count)
    assert set(found) == {"whole", "sharded"}
    for of_kind in found.values():
        check(of_kind, reference, centres)

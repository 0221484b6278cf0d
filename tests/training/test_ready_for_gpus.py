"""What a CPU can show of how the trainer will do on GPUs: nothing waits, nothing is kept, flash attention may run."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from configs.load import load
from tests.conftest import REPOSITORY
from training.config import TrainConfig
from training.data.batch import Batch
from training.distributed import World
from training.errors import NonFiniteError
from training.learning.gradient import accumulate_gradient
from training.learning.learner import Learner, make_learner
from training.learning.sharding import mesh_of
from training.run.throughput import Window

READERS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique")
"""Operators whose answer the host waits for."""


class Reads(TorchDispatchMode):
    """Counts what is read back."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if any(name.startswith(reader) for reader in READERS):
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def learner_of(model: Path, *words: str, world: World | None = None, sharded: bool = False) -> Learner:
    config = load(
        TrainConfig,
        None,
        ["--output", "unused", "--data.path", "unused", "--samples", "8", "--global_batch_size", "8",
         "--model.name", str(model), "--precision", "fp32", *words],
    )  # fmt: skip
    world = world or World()
    return make_learner(config, world, mesh=mesh_of(world) if sharded else None, image_size=None)


def batch_of(learner: Learner, size: int = 8) -> Batch:
    side = learner.model.image_size
    tokens = torch.zeros(size, 24, dtype=torch.int64)
    tokens[:, 0], tokens[:, 1] = torch.arange(1, size + 1), 49407
    images = torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8)
    return Batch.of(images=images, tokens=tokens, keys=torch.arange(size))


def gradient_norm(learner: Learner, batch: Batch, *, micro_batches: int = 1) -> Tensor:
    accumulate_gradient(
        learner.model, learner.method, batch, learner.gradients, learner.world,
        global_batch_size=len(batch), micro_batches=micro_batches,
    )  # fmt: skip
    return learner.gradients.norm()


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_step_reads_nothing_back(micro_batches: int, tiny_vit: Path) -> None:
    learner = learner_of(tiny_vit, "--optimiser.max_gradient_norm", "0.1", "--model.patch_dropout", "0.5")
    learner.model.can_trim = False  # on a CPU texts are cut where they are read
    batch = batch_of(learner)
    with Reads() as reads:
        for _ in range(2):
            norm = gradient_norm(learner, batch, micro_batches=micro_batches)
            learner.step(rate=1e-3, norm=norm, is_finite=torch.isfinite(norm), samples_seen=8)
    assert not reads.found
    with Reads() as reads:
        float(norm)
    assert reads.found  # it counts


def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments(tiny_vit: Path) -> None:
    learner = learner_of(tiny_vit, "--optimiser.max_gradient_norm", "0.1")
    batch = batch_of(learner)
    state: list[dict[str, Tensor]] = []
    for poison in (False, True):
        norm = gradient_norm(learner, batch)
        if poison:
            next(learner.model.clip.parameters()).grad.fill_(torch.nan)  # type: ignore[union-attr]  # it has one
            norm = learner.gradients.norm()
        learner.step(rate=1e-3, norm=norm, is_finite=torch.isfinite(norm), samples_seen=8)
        moments = {
            f"{number}.{name}": value.clone()
            for number, entries in learner.optimiser.state_dict()["state"].items()
            for name, value in entries.items()
        }
        state.append({name: value.clone() for name, value in learner.model.clip.state_dict().items()} | moments)
    assert all(torch.equal(state[0][name], state[1][name]) for name in state[0])


def test_too_many_skipped_in_a_row_end_the_run_and_others_do_not() -> None:
    window = Window(max_skipped_in_a_row=2)

    def add(*, is_finite: bool) -> None:
        value = torch.tensor(1.0 if is_finite else torch.nan)
        window.add(terms={"a": value}, norm=value, is_finite=torch.tensor(is_finite), name="step 7", samples=1)

    for is_finite in (False, False, True, False, False):
        add(is_finite=is_finite)
    assert (window.num_skipped(), window.num_skipped()) == (4, 0)
    with pytest.raises(NonFiniteError, match="step 7: loss nan"):
        add(is_finite=False)


def test_causal_towers_give_attention_a_flag_and_no_mask(tiny_vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_of(tiny_vit)
    real = F.scaled_dot_product_attention
    calls: list[tuple[bool, bool]] = []

    def watched(*arguments: Any, **options: Any) -> Tensor:
        mask = arguments[3] if len(arguments) > 3 else options.get("attn_mask")
        causal = arguments[5] if len(arguments) > 5 else options.get("is_causal", False)
        calls.append((mask is None, bool(causal)))
        return real(*arguments, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    batch = batch_of(learner)
    learner.model.encode_text(batch.tokens)
    assert calls
    assert set(calls) == {(True, True)}
    calls.clear()
    learner.model.encode_image(batch.images)
    assert set(calls) == {(True, False)}


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[World]:
    """A group of one."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        yield World()
    finally:
        dist.destroy_process_group()


def test_sharded_bf16_weights_do_not_outlive_the_forward_pass(tiny_vit: Path, alone: World) -> None:
    learner = learner_of(tiny_vit, "--precision", "bf16", world=alone, sharded=True)
    batch = batch_of(learner, size=2)
    sizes = {p.numel() for p in learner.model.clip.parameters() if p.ndim == 2}
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = learner.method.forward(learner.model, batch)
    kept = {id(t): t for t in saved if t.numel() in sizes and t.requires_grad}
    whole = sum(t.numel() for t in kept.values() if t.untyped_storage().nbytes())
    total = sum(p.numel() for p in learner.model.clip.parameters())
    print(f"{whole:,} of {total:,} weights are kept whole")
    assert whole < 0.2 * total
    assert {rows.dtype for rows in output.rows.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_prepared_script_runs_small(tmp_path: Path) -> None:
    found = subprocess.run(
        [REPOSITORY / "benchmarks/gpu_check.sh", "--limit_s", "2300"],
        env={"SMALL": "1", "OUT": str(tmp_path / "out"), "PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True,
    )  # fmt: skip
    assert "FAILED" not in found.stdout, found.stdout
    assert found.returncode == 0, found.stderr

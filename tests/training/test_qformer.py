"""BLIP-2's first stage: its gradient is that of the whole batch, and who sees whom is the paper's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import REPOSITORY
from tests.ports import free_port
from tests.training import qformer_worker as worker
from training.distributed import World


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], Tensor]:
    """Terms and gradient by plain autograd over the whole batch."""
    model = worker.locked_model(tmp_path_factory.mktemp("plain"), worker.stage1())
    return worker.plain_gradient(model, worker.plain_terms(model, worker.few_words()))


def agree(found: worker.Found, reference: tuple[dict[str, float], Tensor]) -> None:
    assert set(found) == {1, 2, 4}
    for terms, gradient in found.values():
        assert terms == pytest.approx(reference[0], rel=1e-11)
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(gradient, reference[1], rtol=1e-8, atol=1e-12)


def test_micro_batches_have_the_gradient_of_the_whole_batch(
    tmp_path: Path, reference: tuple[dict[str, float], Tensor]
) -> None:
    agree(worker.gradients_of(tmp_path, worker.stage1(), World()), reference)


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_have_the_gradient_of_the_whole_batch(
    ranks: int, reference: tuple[dict[str, float], Tensor], tmp_path: Path
) -> None:
    run_worker(tmp_path, ranks)
    for name in ("whole", "sharded"):
        agree(torch.load(tmp_path / f"{name}.pt"), reference)


def run_worker(folder: Path, ranks: int) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "tests.training.qformer_worker", str(folder), str(ranks)],
        cwd=REPOSITORY,
        env={
            **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr

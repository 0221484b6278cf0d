"""One rank of the tests over several processes, which start once for all of them.

    python -m tests.training.ranks_worker SPEC.json      (RANK, WORLD_SIZE, MASTER_ADDR set)

Writes gradients.pt: {(loss, micro-batches): (loss value, flat gradient)} of a fixed global batch; then trains
the runs of the spec; then one in which rank 1 falls asleep, and writes what each rank raised.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import training.train as train_module
from configs.load import from_mapping
from training.data import Batch
from training.distributed import World, distributed
from training.errors import TrainingError
from training.gradient import FlatGradients, accumulate_gradient
from training.losses import ContrastiveLoss, Loss, SigmoidLoss
from training.model import Model, ModelConfig, create_model
from training.train import TrainConfig, train

GLOBAL_BATCH = 16
LOSSES: dict[str, Loss] = {"softmax": ContrastiveLoss(), "sigmoid": SigmoidLoss()}


def make_model(path: str, loss: Loss) -> Model:
    """The test's model in float64, with patch dropout and a temperature worth learning."""
    made = create_model(
        ModelConfig(name=path, patch_dropout=0.5),
        device=torch.device("cpu"),
        precision="fp32",
        init_logit_scale=loss.init_logit_scale,
        init_logit_bias=loss.init_logit_bias,
        seed=3,
    )
    # Wrapped again, so that the normalising constants take the weights' float64.
    return Model(made.clip.double(), name=made.name, device=made.device, precision="fp32")


def make_batch(image_size: int) -> Batch:
    """A global batch of noise and captions of different lengths."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (GLOBAL_BATCH, image_size, image_size, 3), generator=generator, dtype=torch.uint8)
    tokens = torch.zeros(GLOBAL_BATCH, 24, dtype=torch.int64)
    for row in range(GLOBAL_BATCH):
        length = 2 + row % 9
        tokens[row, :length] = torch.randint(1, 49000, (length,), generator=generator)
        tokens[row, length] = 49407
    return Batch(images=images, tokens=tokens, keys=torch.arange(GLOBAL_BATCH) * 7919 + 1, num_replaced=0)


def gradients_of(model_path: str, world: World) -> dict[tuple[str, int], tuple[float, torch.Tensor]]:
    """The global gradient under every loss and number of micro-batches."""
    found = {}
    for name, loss in LOSSES.items():
        model = make_model(model_path, loss)
        gradients = FlatGradients([p for p in model.clip.parameters() if p.requires_grad])
        local = GLOBAL_BATCH // world.size
        batch = make_batch(model.image_size).slice(world.rank * local, (world.rank + 1) * local)
        for micro_batches in (1, 2, 4):
            value = accumulate_gradient(model, loss, batch, gradients, world, micro_batches=micro_batches, chunk_rows=3)
            found[name, micro_batches] = (float(value), gradients.buffer.clone())
    return found


def stopped_answering(config: TrainConfig, rank: int) -> str:
    """Train, with rank 1 asleep in step 3 for longer than the others wait; what each rank raised."""
    real, calls = train_module.accumulate_gradient, iter(range(1000))

    def sleepy(*args: Any, **kwargs: Any) -> torch.Tensor:
        if next(calls) == 3 and rank == 1:
            time.sleep(2 * config.collective_timeout_s)
        return real(*args, **kwargs)

    train_module.accumulate_gradient = sleepy
    try:
        train(config)
    except TrainingError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        train_module.accumulate_gradient = real
    return "nothing"


def main(spec: Mapping[str, Any]) -> None:
    """Every part that the spec asks for; each meets on a port of its own."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    folder = Path(spec["folder"])
    os.environ["MASTER_PORT"] = str(spec["ports"][0])
    with distributed(device="cpu", timeout_s=120) as world:
        found = gradients_of(spec["model"], world)
        if world.is_first:
            torch.save(found, folder / "gradients.pt")
    for port, run in zip(spec["ports"][1:], spec.get("runs", ()), strict=False):
        os.environ["MASTER_PORT"] = str(port)
        train(from_mapping(TrainConfig, run))
    if "asleep" in spec:
        os.environ["MASTER_PORT"] = str(spec["ports"][-1])
        raised = stopped_answering(from_mapping(TrainConfig, spec["asleep"]), rank)
        (folder / f"raised-{rank}.txt").write_text(raised)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))

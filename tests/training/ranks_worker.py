"""One rank of the tests over several processes, which start once for all of them.

    python -m tests.training.ranks_worker SPEC.json      (RANK, WORLD_SIZE, MASTER_ADDR set)

Writes gradients.pt and, with sharded weights, sharded.pt: {(loss, micro-batches): Found} of a fixed global batch;
then trains the runs of the spec; then those in which rank 1 falls asleep, and writes what each rank raised.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor.debug import CommDebugMode

import training.distributed as distributed_module
import training.train as train_module
from configs.load import from_mapping
from training.config import TrainConfig
from training.data import Batch
from training.distributed import World, distributed
from training.errors import TrainingError
from training.gradient import accumulate_gradient, make_gradients
from training.losses import ContrastiveLoss, Loss, SigmoidLoss
from training.model import Model, ModelConfig, create_model
from training.saving import CheckpointWriter
from training.shard import is_sharded, mesh_of
from training.train import train

GLOBAL_BATCH = 18
"""Cannot be shared evenly by four ranks, nor cut evenly into four micro-batches by two."""
LOSSES: dict[str, Loss] = {"softmax": ContrastiveLoss(), "sigmoid": SigmoidLoss()}


@dataclass(frozen=True)
class Found:
    """The global gradient as one rank sees it."""

    loss: float
    gradient: torch.Tensor
    """float64[P], all parameters in their order."""
    norm: float
    reductions: int
    """Collectives that summed gradients of parameters."""


def make_model(path: str, loss: Loss, **options: Any) -> Model:
    """The test's model in float64, with patch dropout and a temperature worth learning."""
    made = create_model(
        ModelConfig(**{"name": path, "patch_dropout": 0.5, **options}),
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


def gradients_of(
    model_path: str,
    world: World,
    *,
    sharded: bool = False,
    gradient_checkpointing: bool = False,
    compiled: bool = False,
    losses: Mapping[str, Loss] = LOSSES,
) -> dict[tuple[str, int], Found]:
    """The global gradient under each of `losses` and numbers of micro-batches."""
    found = {}
    for name, loss in losses.items():
        model = make_model(model_path, loss, gradient_checkpointing=gradient_checkpointing)
        if sharded:
            model.shard(mesh_of(world))
        if compiled:
            model.compile()
        parameters = [p for p in model.clip.parameters() if p.requires_grad]
        gradients = make_gradients(model.clip, parameters, world)
        batch = make_batch(model.image_size).slice(*world.share(GLOBAL_BATCH))
        for micro_batches in (1, 2, 4):
            collectives = CommDebugMode()
            # Only where it is needed: under it, torch.compile would not compile.
            with collectives if sharded else nullcontext():
                value = accumulate_gradient(
                    model, loss, batch, gradients, world,
                    global_batch_size=GLOBAL_BATCH, micro_batches=micro_batches, chunk_rows=3,
                )  # fmt: skip
            flat = [p.grad.full_tensor() if is_sharded(p) else p.grad for p in parameters]
            found[name, micro_batches] = Found(
                loss=float(value),
                gradient=torch.cat([gradient.flatten() for gradient in flat]),
                norm=float(gradients.norm()),
                reductions=sum(
                    count for name, count in collectives.get_comm_counts().items() if "reduce_scatter" in str(name)
                ),
            )
    return found


SLEEPERS = {
    "step": (train_module, "accumulate_gradient", 3),
    "evaluation": (train_module, "evaluate", 0),
    "checkpoint": (CheckpointWriter, "save", 0),
}
"""Where rank 1 falls asleep: before which call (counted from 0) of what."""


def stopped_answering(config: TrainConfig, rank: int, where: str) -> str:
    """Train, with rank 1 asleep for longer than the others wait; what this rank raised."""
    owner, name, call = SLEEPERS[where]
    real, calls = getattr(owner, name), iter(range(1000))

    def sleepy(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call and rank == 1:
            time.sleep(config.collective_timeout_s + 3)
        return real(*args, **kwargs)

    setattr(owner, name, sleepy)
    try:
        train(config)
    except TrainingError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        setattr(owner, name, real)
    return "nothing"


def main(spec: Mapping[str, Any]) -> None:
    """Every part that the spec asks for; each meets on a port of its own."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    folder = Path(spec["folder"])
    os.environ["MASTER_PORT"] = str(spec["ports"][0])
    with distributed(device="cpu", timeout_s=120) as world:
        found = {"gradients": gradients_of(spec["model"], world)}
        found["sharded"] = gradients_of(spec["model"], world, sharded=True, gradient_checkpointing=True)
        if world.is_first:
            for name, part in found.items():
                torch.save({key: asdict(found) for key, found in part.items()}, folder / f"{name}.pt")
    for port, run in zip(spec["ports"][1:], spec.get("runs", ()), strict=False):
        os.environ["MASTER_PORT"] = str(port)
        train(from_mapping(TrainConfig, run))
    distributed_module._SIGNING_S = 0.5
    ports = spec["ports"][1 + len(spec.get("runs", ())) :]
    for port, (name, run) in zip(ports, spec.get("asleep", {}).items(), strict=True):
        os.environ["MASTER_PORT"] = str(port)
        raised = stopped_answering(from_mapping(TrainConfig, run), rank, name)
        (folder / f"raised-{name}-{rank}.txt").write_text(raised)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))

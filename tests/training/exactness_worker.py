"""One rank of the exactness test: gradients of a fixed global batch, for several numbers of micro-batches.

    python -m tests.training.exactness_worker MODEL.json OUTPUT.pt      (RANK, WORLD_SIZE, MASTER_* set)

Rank 0 writes {(loss, micro-batches): (loss value, flat gradient)}.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from training.data import Batch
from training.distributed import World, distributed
from training.gradient import FlatGradients, accumulate_gradient
from training.losses import ContrastiveLoss, Loss, SigmoidLoss
from training.model import Model, ModelConfig, create_model

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


if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed(device="cpu", timeout_s=60) as world:
        result = gradients_of(sys.argv[1], world)
        if world.is_first:
            torch.save(result, Path(sys.argv[2]))

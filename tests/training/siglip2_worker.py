"""The gradient of SigLIP 2 as each of several ranks sees it.

    python -m tests.training.siglip2_worker MODEL.json OUT.pt      (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT set)

Writes {(kind, micro-batches): (terms, gradient, centres)}, of whole weights and of sharded ones.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from tests.training.ranks_worker import GLOBAL_BATCH, make_batch, make_model
from training.config import LossConfig, MethodConfig
from training.distributed import World, distributed
from training.learning.gradient import accumulate_gradient, make_gradients
from training.learning.method import make_method
from training.learning.methods.siglip2.siglip2 import Siglip2
from training.learning.model import Model
from training.learning.sharding import is_sharded, mesh_of

TINY: dict[str, Any] = {
    "embed_dim": 64,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {
        "context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2, "no_causal_mask": True,
        "proj_bias": True, "pool_type": "last",
    },
}  # fmt: skip
OPTIONS: dict[str, Any] = {
    "views": 3,
    "view_size": 16,
    "prototypes": 12,
    "head_width": 10,
    "head_output": 6,
    "size_factor": 0.5,
}


def make_method_of_test(**options: Any) -> Siglip2:
    config = MethodConfig(name="siglip2", options=OPTIONS | options)
    return cast(Siglip2, make_method(config, LossConfig(name="sigmoid", chunk_rows=5)))


def spoil(model: Model) -> None:
    """Make what begins as zero, or as a copy, something that a mistake would show in."""
    generator = torch.Generator().manual_seed(8)

    def noise(like: Tensor, scale: float) -> Tensor:
        return scale * torch.randn(like.shape, generator=generator, dtype=like.dtype)

    with torch.no_grad():
        decoder = cast(Any, model.head("decoder"))
        decoder.words.weight.copy_(noise(decoder.words.weight, 0.1))
        for name in ("distil", "masked"):
            head = cast(Any, model.head(name))
            head.centre.copy_(noise(head.centre, 0.05))
            for weight in head.teacher.parameters():
                weight.add_(noise(weight, 0.1))
        for weight in model.head("teacher").parameters():
            weight.add_(noise(weight, 0.02))


def found_of(path: str, world: World, *, sharded: bool) -> dict[int, tuple[dict[str, float], Tensor, list[Tensor]]]:
    """By the number of micro-batches."""
    found = {}
    for micro_batches in (1, 2, 4):
        method = make_method_of_test()
        model = make_model(path, method)
        spoil(model)
        if sharded:
            model.shard(mesh_of(world))
        parameters = [p for p in model.clip.parameters() if p.requires_grad]
        gradients = make_gradients(model.clip, parameters, world)
        batch = make_batch(model.image_size).slice(*world.share(GLOBAL_BATCH))
        terms = accumulate_gradient(
            model, method, batch, gradients, world, global_batch_size=GLOBAL_BATCH, micro_batches=micro_batches
        )
        flat = [p.grad.full_tensor() if is_sharded(p) else p.grad for p in parameters]
        with torch.no_grad():
            method.after_step(model, samples_seen=1)
        centres = [cast(Any, model.head(name)).centre.clone() for name in ("distil", "masked")]
        values = {name: float(value) for name, value in terms.items()}
        found[micro_batches] = values, torch.cat([gradient.flatten() for gradient in flat]), centres
    return found


def main(path: str, out: str) -> None:
    """One rank."""
    torch.set_num_threads(1)
    with distributed(device="cpu", timeout_s=120) as world:
        found = {
            kind: found_of(path, world, sharded=sharded) for kind, sharded in (("whole", False), ("sharded", True))
        }
        if world.is_first:
            torch.save(found, Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""CLIP's ResNets with activations that are computed again: the gradient and the running statistics are as without."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from configs.load import from_mapping
from tests.training.conftest import tiny_run
from tests.training.ranks_worker import GLOBAL_BATCH, METHODS, make_batch, make_model
from training.config import TrainConfig
from training.distributed import World
from training.learning.checkpointing import set_checkpointing
from training.learning.gradient import accumulate_gradient, make_gradients
from training.learning.memory import needs_of
from training.learning.model import Model


def step(model: Model) -> tuple[Tensor, dict[str, Tensor], int]:
    """One step's gradient, the state after it, and the bytes that autograd kept for it."""
    model.train()
    parameters = [parameter for parameter in model.clip.parameters() if parameter.requires_grad]
    gradients = make_gradients(model.clip, parameters, World())
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        accumulate_gradient(
            model, METHODS["softmax"], make_batch(model.image_size), gradients, World(), global_batch_size=GLOBAL_BATCH
        )
    gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    return gradient, dict(model.clip.state_dict()), sum(kept.values())


def test_blocks_that_are_computed_again_change_nothing(tiny_resnet: Path) -> None:
    plain, state, all_kept = step(make_model(str(tiny_resnet), METHODS["softmax"], patch_dropout=0.0))
    model = make_model(str(tiny_resnet), METHODS["softmax"], patch_dropout=0.0, gradient_checkpointing=True)
    again, state_again, few_kept = step(model)
    torch.testing.assert_close(again, plain, rtol=1e-12, atol=1e-14)
    for name, value in state.items():
        torch.testing.assert_close(state_again[name], value, rtol=1e-12, atol=1e-14, msg=name)
    assert int(state_again["visual.layer1.0.bn1.num_batches_tracked"]) == 1
    assert float(state_again["visual.layer1.0.bn1.running_mean"].abs().sum()) > 0  # it follows
    assert few_kept < all_kept
    set_checkpointing(model.clip, False)
    assert step(model)[2] > few_kept


def test_the_plan_counts_what_blocks_keep(tiny_resnet: Path, tiny_data: Path, tmp_path: Path) -> None:
    run = tiny_run(tmp_path, tiny_data, tiny_resnet)
    found = []
    for is_checkpointed in (False, True):
        run["model"] = {"name": str(tiny_resnet), "gradient_checkpointing": is_checkpointed}
        found.append(needs_of(from_mapping(TrainConfig, run)).memory["activations"])
    assert found[0] > found[1] > 0

"""What the host would wait for in a step on a GPU, found without one.

    a learner made on the CPU --its tensors put on the meta device--> a step without content
        tensor operations:  answers that the host reads, copies between the device and the host
        torch's functions:  tensors made of Python's numbers, which are copied to the device as they come

On the meta device tensors have shapes alone, and all that asks `device.type` goes the way of a GPU. Copies from the
host count if they are not asked for as `non_blocking`. What torch itself reads within a kernel is known by its rules:
an index by bool is a `nonzero`, an index on the host or a list of Python's is a copy.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.conftest import REPOSITORY
from training.data.batch import Batch
from training.distributed import World
from training.learning.averaging import Average
from training.learning.gradient import accumulate_gradient, make_gradients
from training.learning.learner import Learner

__all__ = ["META", "Wait", "a_step", "on_meta", "waiting"]

META = torch.device("meta")
Wait = tuple[str, str]
"""What the host waits for, and the function that asks: "file.py:function", by the innermost of the trainer's."""

_READERS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "unique_dim", "_unique2", "unique_consecutive"}
"""Operators whose answer the host waits for."""
_MAKERS = {"tensor", "as_tensor", "new_tensor", "from_numpy"}


def _asker() -> str:
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(f"{REPOSITORY}/training/"):
            return f"{frame.filename.rpartition('/')[2]}:{frame.name}"
    return "torch"


class _Operations(TorchDispatchMode):
    """What tensors are asked; with `whole_host`, where no device is another one's, on the host as well."""

    def __init__(self, found: set[Wait], *, whole_host: bool) -> None:
        super().__init__()
        self._found, self._whole_host = found, whole_host

    def _is_far(self, tensor: Tensor) -> bool:
        return self._whole_host or tensor.is_meta

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name == "_fused_adamw_" and any(tensor.is_meta for tensor in given):
            return None  # it is in place, and meta tensors have no kernel for it
        far = [tensor for tensor in given if self._is_far(tensor)]
        is_mixed = bool(far) and len(far) < len(given)
        if name in _READERS and far:
            self._found.add((name, _asker()))
            return 1 if name == "_local_scalar_dense" and far[0].is_meta else self._answered(function, args, kwargs)
        if "index" in name and far:
            places = [leaf for leaf in tree_leaves((args[1:], kwargs)) if isinstance(leaf, Tensor)]
            if is_mixed:
                self._found.add(("copy of an index", _asker()))
            if any(place.dtype in (torch.bool, torch.uint8) for place in places if place.ndim):
                self._found.add(("nonzero", _asker()))
        if name in ("where", "copy_", "cat", "stack") and is_mixed and not kwargs.get("non_blocking"):
            self._found.add(("copy", _asker()))
        if name == "_to_copy" and not self._whole_host:
            device = torch.device(kwargs.get("device") or given[0].device)
            if device.type != given[0].device.type and not (device.type == "meta" and kwargs.get("non_blocking")):
                self._found.add(("copy", _asker()))
            if given[0].is_meta and device.type != "meta":
                return torch.ones(given[0].shape, dtype=kwargs.get("dtype") or given[0].dtype)
        return function(*args, **kwargs)

    def _answered(self, function: Any, args: Any, kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (NotImplementedError, RuntimeError):  # of meta tensors nothing can be known
            return torch.zeros(1, args[0].ndim, dtype=torch.int64, device=META)


class _Functions(TorchFunctionMode):
    """What is made of Python's numbers."""

    def __init__(self, found: set[Wait]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in _MAKERS:
            self._found.add(("tensor of numbers", _asker()))
        if name in ("__getitem__", "__setitem__"):
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(place, list) for place in places):
                self._found.add(("tensor of numbers", _asker()))
        return function(*args, **(kwargs or {}))


@contextmanager
def waiting(*, whole_host: bool = False) -> Iterator[set[Wait]]:
    """What is waited for as long as it is entered. `whole_host`: of a step with content, whose device is the host:
    copies cannot be told then."""
    found: set[Wait] = set()
    with _Functions(found), _Operations(found, whole_host=whole_host):
        yield found


def on_meta(learner: Learner) -> Learner:
    """The learner, of whole weights, with all its tensors on the meta device. It is given up for that."""
    model, clip = learner.model, learner.model.clip
    names = {parameter: name for name, parameter in clip.named_parameters()}
    groups = [[names[parameter] for parameter in group["params"]] for group in learner.optimiser.param_groups]
    _put_on_meta(clip)
    model.mean_C11, model.std_C11 = model.mean_C11.to(META), model.std_C11.to(META)
    model.reads_tokens = False  # as on a GPU
    if (language_model := getattr(learner.method, "_language_model", None)) is not None:
        _put_on_meta(language_model._module)
    parameters = dict(clip.named_parameters())
    for group, members in zip(learner.optimiser.param_groups, groups, strict=True):
        group["params"] = [parameters[name] for name in members]
    if isinstance(learner.optimiser, torch.optim.AdamW):  # which would refuse to begin there
        cast(Any, learner.optimiser)._need_device_dtype_check_for_fused = False
        for parameter in (parameter for group in learner.optimiser.param_groups for parameter in group["params"]):
            learner.optimiser.state[parameter] = {
                "step": torch.zeros((), device=META),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    world = World(device=META)
    trained = [parameter for group in learner.optimiser.param_groups for parameter in group["params"]]
    return replace(
        learner,
        world=world,
        gradients=make_gradients(clip, trained, world),
        average=None if learner.average is None else Average(clip, 0.9),
    )


def _put_on_meta(module: nn.Module) -> None:
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(
                    parameter.detach().to(META), requires_grad=parameter.requires_grad
                )
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else buffer.to(META)


def a_step(learner: Learner, batch: Batch, *, micro_batches: int = 1) -> None:
    """The loop's, in the last tenth of a run."""
    learner.method.before_step(learner.model, samples_seen=900, total=1000)
    accumulate_gradient(
        learner.model, learner.method, batch, learner.gradients, learner.world,
        global_batch_size=len(batch), micro_batches=micro_batches,
    )  # fmt: skip
    norm = learner.gradients.norm()
    learner.step(rate=1e-4, norm=norm, is_finite=torch.isfinite(norm), samples_seen=900 + len(batch))

"""The ranks of the tests over several processes, which start once for all of them.

    python -m tests.training.ranks_worker SPEC.json      (MASTER_ADDR set)

Writes {(loss, micro-batches): Found} of a fixed global batch: gradients.pt, with sharded weights sharded.pt, and where
the spec asks for it compiled.pt, with compiled layers as well, and resnet.pt, with batch normalisation; both of each
of its families, which have models of their own, as NAME-gradients.pt and NAME-sharded.pt; and orders.pt, what
`sums_of_ranks_in_other_orders` found. Then trains the runs of the spec, those that it names as
apart with each rank as if on a machine of its own. Meanwhile forks train
those in which rank 1 falls asleep, which is mostly waiting, and write what each rank raised.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas  # noqa: F401  # which pyarrow loads where it is: once, before the ranks are forked
import torch
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.modules.batchnorm import _BatchNorm

import training.distributed as distributed_module
import training.learning.buckets as buckets_module
import training.run.machine as machine_module
import training.run.snapshots as snapshots_module
import training.train as train_module
from configs.load import from_mapping
from training.checkpoints.saving import CheckpointWriter
from training.config import LossConfig, MethodConfig, ModelConfig, TrainConfig
from training.data.batches import Batch
from training.distributed import World, distributed
from training.errors import TrainingError
from training.learning.gradient import Gradients, accumulate_gradient, make_gradients
from training.learning.method import Method, make_method
from training.learning.model import Model, create_model
from training.learning.sharding import is_sharded, mesh_of
from training.train import train

GLOBAL_BATCH = 18
"""Cannot be shared evenly by four ranks, nor cut evenly into four micro-batches by two."""
METHODS: dict[str, Method] = {
    "softmax": make_method(MethodConfig(), LossConfig(name="softmax", chunk_rows=4)),
    "sigmoid": make_method(MethodConfig(), LossConfig(name="sigmoid", chunk_rows=5)),
    "everything": make_method(MethodConfig(name="tests.training.own_method:Everything"), LossConfig()),
}


@dataclass(frozen=True)
class Found:
    """The global gradient as one rank sees it."""

    loss: float
    gradient: torch.Tensor
    """float64[P], all parameters in their order."""
    norm: float
    reductions: int
    """Collectives that summed gradients of sharded parameters; counted for softmax."""
    sums: int
    """Of buckets of whole gradients."""
    early_sums: int
    """Those of them that were begun before the last backward pass had ended."""


def make_model(path: str, method: Method, **options: Any) -> Model:
    """The test's model in float64, with patch dropout and a temperature worth learning."""
    made = create_model(
        ModelConfig(**{"name": path, "patch_dropout": 0.5, **options}),
        device=torch.device("cpu"),
        precision="fp32",
        init_logit_scale=method.init_logit_scale,
        init_logit_bias=method.init_logit_bias,
        heads=method.heads,
        seed=3,
    )
    for module in made.clip.modules():
        if isinstance(module, _BatchNorm):  # the last gain of a block begins as zero, and would hide what is below it
            module.weight.data += torch.linspace(0.1, 0.6, module.num_features)
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
    return Batch.of(images=images, tokens=tokens, keys=torch.arange(GLOBAL_BATCH) * 7919 + 1, num_replaced=0)


def gradients_of(
    model_path: str,
    world: World,
    *,
    sharded: bool = False,
    gradient_checkpointing: bool = False,
    compiled: bool = False,
    patch_dropout: float = 0.5,
    methods: Mapping[str, Method] = METHODS,
) -> dict[tuple[str, int], Found]:
    """The global gradient under each of `methods` and numbers of micro-batches."""
    found = {}
    for name, method in methods.items():
        options = {"gradient_checkpointing": gradient_checkpointing, "patch_dropout": patch_dropout}
        model = make_model(model_path, method, **options)
        if sharded:
            model.shard(mesh_of(world), compile_layers=compiled)
        elif compiled:
            model.compile()
        parameters = [p for p in model.clip.parameters() if p.requires_grad]
        gradients = make_gradients(model.clip, parameters, world)
        sums = SeenSums(gradients)
        batch = make_batch(model.image_size).slice(*world.share(GLOBAL_BATCH))
        for micro_batches in (1, 2, 4):
            collectives = CommDebugMode()
            # Only where it is looked at: it is slow, and under it torch.compile would not compile.
            with sums, collectives if sharded and name == "softmax" else nullcontext():
                terms = accumulate_gradient(
                    model, method, batch, gradients, world,
                    global_batch_size=GLOBAL_BATCH, micro_batches=micro_batches,
                )  # fmt: skip
            flat = [p.grad.full_tensor() if is_sharded(p) else p.grad for p in parameters]
            found[name, micro_batches] = Found(
                loss=float(sum(terms.values())),
                gradient=torch.cat([gradient.flatten() for gradient in flat]),
                norm=float(gradients.norm()),
                reductions=sum(
                    count for name, count in collectives.get_comm_counts().items() if "reduce_scatter" in str(name)
                ),
                sums=len(sums.begun),
                early_sums=sums.num_early,
            )
    return found


class SeenSums:
    """While it is entered: which sums over ranks are begun, and how many of them within the backward pass."""

    def __init__(self, gradients: Gradients) -> None:
        self._gradients = gradients
        self.begun: list[int] = []
        """Where in memory each one's part lies."""
        self.num_early = 0

    def __enter__(self) -> None:
        self.begun, self.num_early = [], 0
        real_begin, real_end = World.begin_sum_, self._gradients.sum_over_ranks

        def begin(world: World, tensor: torch.Tensor) -> Any:
            self.begun.append(tensor.data_ptr())
            return real_begin(world, tensor)

        def end() -> None:
            self.num_early = len(self.begun)
            real_end()

        self._patches = ExitStack()
        self._patches.enter_context(patch.object(World, "begin_sum_", begin))
        self._patches.enter_context(patch.object(self._gradients, "sum_over_ranks", end))

    def __exit__(self, *_: object) -> None:
        self._patches.close()


ORDERED = 6
"""Weights of `sums_of_ranks_in_other_orders`, a bucket each. Rank 0 alone uses the last but one, nobody the last."""


def sums_of_ranks_in_other_orders(world: World) -> list[dict[str, Any]]:
    """For each of three steps: the buckets in the order of their sums and of their being whole, and the gradients;
    rank 1's backward pass goes through the weights in the other direction."""
    weights = [torch.nn.Parameter(torch.full((30, 40), float(i))) for i in range(ORDERED)]
    with patch.object(buckets_module, "MAX_BYTES", 4 * 30 * 40):
        gradients = make_gradients(torch.nn.ParameterList(weights), weights, world)
    places = {weight.grad.data_ptr(): i for i, weight in enumerate(weights) if weight.grad is not None}
    came: list[int] = []
    for i, weight in enumerate(weights):
        weight.register_post_accumulate_grad_hook(lambda _, i=i: came.append(i))
    used = [0, 2, 1, 3, 4] if world.is_first else [3, 1, 2, 0]
    sums, steps = SeenSums(gradients), []
    for step in range(3):
        came.clear()
        gradients.zero_()
        with sums:
            gradients.last_backward(False)
            (weights[0] * 2).sum().backward()
            gradients.last_backward(True)
            # What was computed last comes first in the backward pass.
            torch.stack([(weights[i] * (10**i * (step + world.rank + 1))).sum() for i in used]).sum().backward()
            gradients.sum_over_ranks()
        steps.append(
            {
                "begun": [places[place] for place in sums.begun],
                "came": came[1:],
                "early": sums.num_early,
                "gradients": [float(weight.grad[0, 0]) for weight in weights if weight.grad is not None],
            }
        )
    return steps


SLEEPERS = {
    "step": (train_module, "accumulate_gradient", 3),
    "evaluation": (train_module, "evaluate", 0),
    "checkpoint": (CheckpointWriter, "save", 0),
    "index": (snapshots_module, "write_index", 0),
}
"""Where rank 1 falls asleep: before which call (counted from 0) of what. At the index rank 0 is merely slow."""


def fall_asleep(run: Mapping[str, Any], port: int, where: str, folder: Path) -> None:
    """Train, with rank 1 asleep until rank 0 gives up waiting (or rank 0 slower than a collective may be, where it
    indexes); write what this rank raised."""
    os.environ["MASTER_PORT"] = str(port)
    distributed_module._SIGNING_S = 0.5
    rank = int(os.environ["RANK"])
    raised = [folder / f"raised-{where}-{number}.txt" for number in (0, 1)]
    owner, name, call = SLEEPERS[where]
    real, calls = getattr(owner, name), iter(range(1000))

    def sleepy(*args: Any, **kwargs: Any) -> Any:
        if where == "index":
            time.sleep(1.5 * run["collective_timeout_s"])
        elif next(calls) == call and rank == 1:
            while not raised[0].exists():
                time.sleep(0.1)
        return real(*args, **kwargs)

    setattr(owner, name, sleepy)
    what = "nothing"
    try:
        train(from_mapping(TrainConfig, run))
    except TrainingError as error:
        what = f"{type(error).__name__}: {error}"
    finally:
        raised[rank].write_text(what)


def main(spec: Mapping[str, Any]) -> None:
    """Every part that the spec asks for; each meets on a port of its own."""
    torch.set_num_threads(1)
    folder, runs = Path(spec["folder"]), spec.get("runs", ())
    first, *ports = spec["ports"]
    fork = multiprocessing.get_context("fork").Process  # while there is neither a thread nor a process group
    asleep = [
        fork(target=fall_asleep, args=(run, port, where, folder))
        for port, (where, run) in zip(ports[len(runs) :], spec.get("asleep", {}).items(), strict=True)
    ]
    for process in asleep:
        process.start()
    os.environ["MASTER_PORT"] = str(first)
    with distributed(device="cpu", timeout_s=120) as world:
        orders = world.gather_objects(sums_of_ranks_in_other_orders(world))
        with patch.object(buckets_module, "MAX_BYTES", 8192):
            found = {"gradients": gradients_of(spec["model"], world)}
        found["sharded"] = gradients_of(spec["model"], world, sharded=True, gradient_checkpointing=True)
        if resnet := spec.get("resnet"):
            only = {"everything": METHODS["everything"]}
            found["resnet"] = gradients_of(resnet, world, patch_dropout=0.0, methods=only)
        if spec.get("compiled"):
            found["compiled"] = gradients_of(
                spec["model"], world, sharded=True, compiled=True, methods={"sigmoid": METHODS["sigmoid"]}
            )
        for name, made in spec.get("families", {}).items():
            own = {name: make_method(MethodConfig(name=made["method"]), LossConfig(chunk_rows=4))}
            for kind, sharded in (("gradients", False), ("sharded", True)):
                found[f"{name}-{kind}"] = gradients_of(
                    made["model"], world, sharded=sharded, gradient_checkpointing=sharded, methods=own
                )
        if world.is_first:
            torch.save(orders, folder / "orders.pt")
            for name, part in found.items():
                torch.save({key: asdict(found) for key, found in part.items()}, folder / f"{name}.pt")
    for port, run in zip(ports, runs, strict=False):
        os.environ["MASTER_PORT"] = str(port)
        see = _sees_nothing if run["output"] in spec.get("apart", ()) else machine_module._is_here
        with patch.object(machine_module, "_is_here", see):
            train(from_mapping(TrainConfig, run))
    for process in asleep:
        process.join()
    sys.exit(any(process.exitcode for process in asleep))


def _sees_nothing(mark: Path) -> bool:
    return False


def start_rank(rank: int, spec: Mapping[str, Any]) -> None:
    """`main` as torchrun would start it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(spec["ranks"])}
    main(spec)


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    # Forked, so that importing torch is paid once.
    ranks = [
        multiprocessing.get_context("fork").Process(target=start_rank, args=(n, given)) for n in range(given["ranks"])
    ]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join()
    sys.exit(any(one.exitcode for one in ranks))

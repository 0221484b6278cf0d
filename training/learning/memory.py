"""What a run will take of each GPU's memory, by kind, reckoned on a machine without one.

    the model on the meta device (nothing is drawn) --> numbers of weights
    one micro-batch of tensors without content (FakeTensorMode) --> what autograd keeps for the backward pass

Activations are not guessed: every tensor that autograd saves is counted once, as an eager forward pass saves it (fused
attention, which keeps no matrix of weights; autocast as `precision` says; what gradient checkpointing leaves out). The
pass takes a CPU's kernels. CUDA's differ where layer norms are concerned, which autocast computes in float32 there; the
count does so too. `model.compile` keeps less, which is not counted.

Not in it: kernels' workspace, buffers of collectives, the CUDA context (about 0.5 GB) and what the allocator loses to
fragments. `MARGIN` of the memory is left for these.

What a loss holds over the whole batch is that of method contrastive (`similarity_memory.py`); the features that another
method compares besides, such as teachers', are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from pipeline.errors import one_line
from training.config import Phase, TrainConfig
from training.data.batches import Batch, Tokenizer
from training.data.stream import share
from training.data.taught import SYNTHETIC
from training.distributed import World
from training.errors import ModelError
from training.learning.batch_norm.graph import has_batch_norm
from training.learning.batch_norm.segment import Cut
from training.learning.batch_norm.tower import Pictures, Tower, is_cut
from training.learning.checkpointing import set_checkpointing, stems_of
from training.learning.checks import check_model, check_sizes
from training.learning.method import Method, make_method
from training.learning.model import Model, create_model, lock_image_tower, model_json, register_model
from training.learning.patch_dropout import share_of_patches
from training.learning.peak_memory import Holding
from training.learning.sharding import layers_of
from training.learning.similarity_memory import memory_of_loss
from training.learning.tokenizer import make_tokenizer

__all__ = ["MARGIN", "Needs", "needs_of", "without_weights"]

MARGIN = 0.1
"""Share of a GPU's memory that is left for what is not counted."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a config asks of its machines."""

    model_name: str
    image_size: int
    context_length: int
    parameters: int
    of_image: int
    """Those of the image tower."""
    of_decoder: int
    """Those that write captions; 0 for a model without."""
    of_text: int
    """All others, with the temperature and what a method adds."""
    trained: int
    tokenizer_problem: str
    """Why its tokenizer cannot be made here; empty where it can."""
    can_be_cut: bool
    """Whether micro-batches are exact."""
    samples: int
    """Of each step, on the rank that has most."""
    micro_batches: int
    memory: Mapping[str, int]
    """Bytes on each GPU, by kind."""

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.memory.values())


def needs_of(config: TrainConfig) -> Needs:
    """What `config` takes on each of its `plan.gpus`; of several phases, in the one that takes most.

    Raises ModelError or ConfigError for what would stop the run for its model or its sizes.
    """
    world = World(size=config.plan.gpus, device=torch.device("cuda"))
    check_sizes(config, world)
    phases = config.phases
    if not phases or phases[0].begins_at > 0:
        phases = (Phase(begins_at=0.0), *phases)
    return max((_of_phase(config, phase, world) for phase in phases), key=lambda needs: needs.total)


def _of_phase(config: TrainConfig, phase: Phase, world: World) -> Needs:
    method = make_method(config.method, config.loss)
    name = register_model(config.model.name)
    tokenizer, problem = _tokenizer(name, config.model.tokenizer)
    model = without_weights(config, method, phase.image_size, tokenizer)
    check_model(config, model, world)
    if not problem:  # which comes first, and has no tokens to be checked
        method.check(model)
    model.set_patch_dropout(share_of_patches(phase, config.model))
    clip = model.clip
    counts = {name: _count(module.parameters()) for name, module in clip.named_children()}
    parameters = _count(clip.parameters())
    of_image = counts.get("visual", 0)
    trained = _count(p for p in clip.parameters() if p.requires_grad)
    samples = math.ceil(config.global_batch_size / world.size)
    micro_batches = phase.micro_batches or config.micro_batches
    length = phase.context_length or model.tokenizer.context_length
    is_half = model.precision == "bf16"

    is_sharded = config.distributed == "fsdp" and world.size > 1
    parts = world.size if is_sharded else 1
    gathered = 0
    if is_sharded:  # the layer that is computed and the one that is fetched meanwhile
        gathered = 2 * max((_count(layer.parameters()) for layer in layers_of(clip)), default=parameters)
    whole_gradients = micro_batches > 1 or not is_sharded  # FSDP2 sums them in the last backward pass alone
    memory = {
        "weights": 4
        * (parameters // parts + (0 if is_half else gathered)),  # which FSDP2 gathers as what is multiplied
        "weights in bf16": 2 * (gathered if is_sharded else _count(_matrices(clip))) if is_half else 0,
        "gradients": 4 * (trained if whole_gradients else trained // parts),
        "moments": 8 * (trained // parts),
        "averaged weights": 0 if config.optimiser.ema_decay is None else 4 * (trained // parts),
        "activations": _activations(config, model, method, world, samples, micro_batches, length),
        "batch, one ahead": 2 * samples * (3 * model.image_size**2 + 8 * length + 8),
        **memory_of_loss(
            config.loss,
            width=int(model_json(config.model.name)["embed_dim"]),
            samples=samples,
            total=config.global_batch_size,
            ranks=world.size,
            micro_batches=micro_batches,
        ),
    }
    return Needs(
        model_name=model.name,
        image_size=model.image_size,
        context_length=length,
        parameters=parameters,
        of_image=of_image,
        of_decoder=counts.get("text_decoder", 0),
        of_text=parameters - of_image - counts.get("text_decoder", 0),
        trained=trained,
        tokenizer_problem=problem,
        can_be_cut=_can_be_cut(model),
        samples=samples,
        micro_batches=micro_batches,
        memory={kind: num_bytes for kind, num_bytes in memory.items() if num_bytes},
    )


def _can_be_cut(model: Model) -> bool:
    try:
        return not has_batch_norm(model.clip) or bool(Tower(model).segments)
    except ModelError:
        return False


class _NoTokenizer:
    """In place of one that is not at hand."""

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length

    def __call__(self, texts: list[str], context_length: int = 0) -> Tensor:
        raise NotImplementedError("nothing is tokenised for a plan")


def _tokenizer(name: str, source: str | None) -> tuple[Tokenizer, str]:
    """That of `name`, or what stands for it and what is in the way."""
    try:
        return make_tokenizer(name, source), ""
    except ModelError as error:
        text = model_json(name)["text_cfg"]
        if "context_length" not in text:
            raise
        return _NoTokenizer(int(text["context_length"])), one_line(error, 600)


def without_weights(config: TrainConfig, method: Method, image_size: int | None, tokenizer: Tokenizer) -> Model:
    """The model of `config` on the meta device; what it starts from is not read."""
    drawn = replace(
        config.model, init_from=None, init_image_from=None, init_text_from=None, init_text_positions="interpolate",
        lock_image=False, unlocked_image_groups=0, compile=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = create_model(
            drawn,
            device=torch.device("meta"),
            precision="fp32" if config.precision == "fp32" else "bf16",
            init_logit_scale=method.init_logit_scale,
            init_logit_bias=method.init_logit_bias,
            seed=config.seed,
            image_size=image_size,
            heads=method.heads,
            tokenizer=tokenizer,
        )
    if config.model.lock_image:
        lock_image_tower(model.clip, config.model, name=model.name)
        model.image_is_locked = not any(p.requires_grad for p in cast(nn.Module, model.clip.visual).parameters())
    return model


def _count(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _matrices(clip: nn.Module) -> list[nn.Parameter]:
    """What autocast makes copies of."""
    return [parameter for parameter in clip.parameters() if parameter.ndim >= 2]


# --- activations ------------------------------------------------------------------------------------


class _AsOnGpu(TorchFunctionMode):
    """Autocast computes layer norms in float32 on CUDA, and keeps their inputs so; on a CPU in bf16."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.layer_norm and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


class _Kept:
    """The bytes that autograd keeps, each storage once; weights, which are there anyway, are left out."""

    def __init__(self, clip: nn.Module) -> None:
        self._weights = {p.untyped_storage()._cdata for p in clip.parameters()}
        self._storages: dict[int, Any] = {}  # held, so that none takes another's place
        self.num_bytes = 0

    def add(self, tensor: Tensor) -> Tensor:
        """For `saved_tensors_hooks`."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights and storage._cdata not in self._storages:
            self._storages[storage._cdata] = storage
            self.num_bytes += storage.nbytes()
        return tensor


def _activations(
    config: TrainConfig, model: Model, method: Method, world: World, samples: int, micro_batches: int, length: int
) -> int:
    """Bytes that a micro-batch keeps; with gradient checkpointing also those of the layer that is computed again. Of an
    image tower whose micro-batches are computed together, the most that there is at a time."""
    part = math.ceil(samples / micro_batches)
    with FakeTensorMode(allow_non_fake_inputs=True):
        clip = model.clip.to_empty(device="cpu")
        cpu = torch.device("cpu")
        fake = Model(clip, name=model.name, device=cpu, precision=model.precision, tokenizer=model.tokenizer)
        fake.image_is_locked = model.image_is_locked
        fake.reads_tokens = False  # texts are taken to be as long as they may be
        fake.train()
        of_pictures, held = 0, 0
        if is_cut(fake, world, micro_batches):
            of_pictures, held = _of_pictures(fake, samples, micro_batches)
            fake.pictures = _Features(int(model_json(config.model.name)["embed_dim"]))

        def kept(count: int, layers: Callable[[_Kept], None] = lambda _: None) -> int:
            counter = _Kept(clip)
            layers(counter)
            with torch.autograd.graph.saved_tensors_hooks(counter.add, lambda tensor: tensor), _AsOnGpu():
                _forward(fake, method, count, length)
            return counter.num_bytes

        # Of twice as many samples, the difference: copies of weights and masks do not grow.
        grown = kept(2 * part) - kept(part)
        if config.model.gradient_checkpointing:
            set_checkpointing(clip, False)
            grown += _largest_layer(clip, lambda layers: kept(part, layers))
        return max(of_pictures, held + grown)


class _Features:
    """In place of those of pictures that were computed at once."""

    def __init__(self, width: int) -> None:
        self._width = width

    def features(self, images_BHWC: Tensor) -> Tensor:
        return torch.empty(len(images_BHWC), self._width, requires_grad=torch.is_grad_enabled())


def _of_pictures(model: Model, samples: int, micro_batches: int) -> tuple[int, int]:
    """Bytes that all pictures take at most in both passes, and between the two; without gradients of weights."""
    size = model.image_size
    images = torch.empty(samples, size, size, 3, dtype=torch.uint8)
    bounds = [share(samples, rank=i, world_size=micro_batches) for i in range(micro_batches)]
    with Holding() as holding:
        pictures = Pictures(model, images, Cut(bounds, World(), model.autocast))
        held = holding.num_bytes
        pictures.features(images).requires_grad_()
        pictures.backward()
    visual = cast(nn.Module, model.clip.visual)
    weights = sum([p.numel() * p.element_size() for p in visual.parameters() if p.requires_grad])
    return max(holding.most - weights, held), held


def _largest_layer(clip: nn.Module, run: Callable[[Callable[[_Kept], None]], int]) -> int:
    """The most that one layer keeps in a forward pass, which `run` makes."""
    found, handles = [0], []

    def watch(counter: _Kept) -> None:
        begun = [0]

        def before(module: nn.Module, args: Any) -> None:
            begun[0] = counter.num_bytes

        def after(module: nn.Module, args: Any, output: Any) -> None:
            found.append(counter.num_bytes - begun[0])

        for first, last in [*((layer, layer) for layer in layers_of(clip)), *stems_of(clip)]:
            handles.extend([first.register_forward_pre_hook(before), last.register_forward_hook(after)])

    run(watch)
    for handle in handles:
        handle.remove()
    return max(found)


def _forward(model: Model, method: Method, samples: int, length: int) -> None:
    size = model.image_size
    images = torch.empty(samples, size, size, 3, dtype=torch.uint8)
    tokens, keys = torch.zeros(samples, length, dtype=torch.int64), torch.zeros(samples, dtype=torch.int64)
    if method.fields:  # of shapes that are not known here: the towers alone
        model.encode_image(images, keys)
        model.encode_text(tokens)
    else:
        batch = Batch.of(images=images, tokens=tokens, keys=keys)
        method.rehearse(model, batch.having({SYNTHETIC: tokens}) if method.needs_reinforcements else batch)

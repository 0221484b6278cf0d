"""Image towers with batch normalisation under micro-batches: the features of a whole batch, found at once.

    batch of a rank --segment by segment, each in micro-batches--> features of all pictures, and the segments' sources
        -> what a method asks `Model.encode_image` for, micro-batch by micro-batch, is taken from them
        -> their gradient, when all micro-batches have theirs --segment by segment, from the last--> those of weights

Statistics are those of the global batch, and so is the gradient (segment.py). What is kept are the sources
of the segments, as with gradient checkpointing, of the whole batch; all else is there for a micro-batch, or for a
segment where there is room.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm

from training.data.batches import Batch
from training.distributed import World
from training.errors import ModelError
from training.learning.batch_norm.graph import Segment, has_batch_norm, input_of, trace
from training.learning.batch_norm.segment import Cut, segment_of_batch
from training.learning.model import Model, unit

__all__ = ["ROOM", "Pictures", "Tower", "is_cut", "pictures_at_once", "room_for"]

ROOM = 1.15
"""What may be held at a time, by what the end of the forward pass takes. With it RN50 multiplies 1.05 times what it
does with gradient checkpointing; with 1.0, which leaves its last blocks little room, 1.45 times."""


def is_cut(model: Model, world: World, micro_batches: int) -> bool:
    """Whether the image tower needs the whole batch while no one computes it whole: of micro-batches, or of CPU
    processes, over which torch does not synchronise."""
    if micro_batches == 1 and (world.size == 1 or world.device.type != "cpu"):
        return False
    return not model.image_is_locked and has_batch_norm(model.clip)


class Tower:
    """An image tower as segments, and what of them there is room for."""

    def __init__(self, model: Model) -> None:
        """That of `model`. Raises ModelError where it is none that can be cut."""
        clip = model.clip
        visual = getattr(clip, "visual", None)
        if isinstance(clip, open_clip.CoCa) or not isinstance(visual, (ModifiedResNet, TimmModel)):
            raise ModelError(
                f"{model.name} has batch normalisation in a tower that is neither CLIP's ResNet nor timm's, whose "
                "statistics micro-batches would change; set --micro_batches 1"
            )
        of_images = set(visual.modules())
        if others := [n for n, m in clip.named_modules() if isinstance(m, _BatchNorm) and m not in of_images]:
            raise ModelError(
                f"{model.name} has batch normalisation in {others[0]}, outside the image tower, whose statistics "
                "micro-batches would change; set --micro_batches 1"
            )
        self.segments = trace(visual, name=model.name)
        self._kept: dict[tuple[int, ...], list[frozenset[fx.Node]]] = {}

    def kept(self, model: Model, images_BHWC: Tensor) -> list[frozenset[fx.Node]]:
        """For each segment what it may keep while it is computed (see `room_for`), of pictures of this size."""
        shape = tuple(images_BHWC.shape[1:])
        if shape not in self._kept:
            self._kept[shape] = room_for(self.segments, _sizes(self.segments, model, images_BHWC[:1]))
        return self._kept[shape]


def room_for(segments: Sequence[Segment], sizes: Mapping[fx.Node, int]) -> list[frozenset[fx.Node]]:
    """For each segment the inputs of batch normalisation that it may keep while it is computed, for little more memory
    than the end of the forward pass takes anyway, when the sources of all segments are there. The first segments have
    most to keep, and most room: what later ones kept is gone when their gradients are asked for.

    `sizes`: bytes of a sample. Of what is kept there is a gradient as well, and of source and result.
    """
    most = ROOM * (sum(sizes[segment.source] for segment in segments) + sizes[segments[-1].result])
    found, held = [], 0
    for segment in segments:
        held += sizes[segment.source]
        used, kept = held + sizes[segment.source] + sizes[segment.result], set()
        # In the order of the graph where sizes are equal: all ranks must choose the same.
        inputs = [value for value in dict.fromkeys(map(input_of, segment.norms)) if value is not segment.source]
        for value in sorted(inputs, key=lambda value: sizes[value]):
            used += 2 * sizes[value]
            if used <= most:
                kept.add(value)
        found.append(segment.enough(kept))
    return found


def _sizes(segments: Sequence[Segment], model: Model, images_1HWC: Tensor) -> dict[fx.Node, int]:
    """Bytes of each call's value for a picture; nothing is computed. Not to be called under autocast, which would keep
    its copies of weights, here without content, for what is computed after."""
    fake = images_1HWC if isinstance(images_1HWC, FakeTensor) else None
    mode = nullcontext() if fake is not None else FakeTensorMode(allow_non_fake_inputs=True)
    sizes = {segments[0].source: images_1HWC.nbytes}
    with torch.no_grad(), mode, model.autocast():
        images_1HWC = torch.empty_like(images_1HWC) if fake is None else fake
        value = model.pixels(images_1HWC)
        for segment in segments:
            targets = dict.fromkeys([*map(input_of, segment.norms), segment.result])
            closure = segment.closure([target for target in targets if target is not segment.source], [segment.source])
            made = segment.run(closure, {segment.source: value}, lambda _, x: torch.empty_like(x))
            sizes |= {node: each.nbytes for node, each in zip(closure.targets, made, strict=True)}
            value = made[closure.targets.index(segment.result)]
    return sizes


class Pictures:
    """The features of a rank's pictures."""

    def __init__(self, model: Model, images_BHWC: Tensor, cut: Cut) -> None:
        """Computes them."""
        if model.cut_tower is None:
            model.cut_tower = Tower(model)
        tower = model.cut_tower
        self._images_BHWC = images_BHWC
        value, room = images_BHWC, tower.kept(model, images_BHWC)
        with torch.enable_grad(), model.autocast():
            for segment, kept in zip(tower.segments, room, strict=True):
                prepare = model.pixels if segment is tower.segments[0] else None
                value = segment_of_batch(segment, cut, kept, value, prepare)
            self._features_BD = unit(value)
        self._asked: list[tuple[slice, Tensor]] = []

    def features(self, images_BHWC: Tensor) -> Tensor:
        """Those of some of the pictures, which must be rows of the batch itself; a leaf of the graph.

        Raises ModelError for other pictures, of which there are no statistics.
        """
        whole = self._images_BHWC
        first, odd = divmod(int(images_BHWC.storage_offset()) - int(whole.storage_offset()), whole.stride(0))
        rows = slice(first, first + len(images_BHWC))
        is_of_it = images_BHWC.untyped_storage()._cdata == whole.untyped_storage()._cdata
        if not is_of_it or odd or images_BHWC.shape[1:] != whole.shape[1:] or images_BHWC.stride() != whole.stride():
            raise ModelError(
                "the method shows the image tower other pictures than the batch's own, whose statistics micro-batches "
                "would change; set --micro_batches 1, or take a tower without batch normalisation"
            )
        found = self._features_BD[rows].detach()
        if torch.is_grad_enabled() and self._features_BD.requires_grad:
            found.requires_grad_()
            self._asked.append((rows, found))
        return found

    def backward(self) -> None:
        """The gradients of the weights, from those of all that was asked for."""
        gradient_BD = torch.zeros_like(self._features_BD)
        for rows, found in self._asked:
            if found.grad is not None:
                gradient_BD[rows] += found.grad
        if self._features_BD.requires_grad:
            torch.autograd.backward([self._features_BD], [gradient_BD])
        self._asked.clear()


@contextmanager
def pictures_at_once(
    model: Model, batch: Batch, bounds: Sequence[tuple[int, int]], world: World
) -> Iterator[Pictures | None]:
    """While it is entered, `model.encode_image` gives features of `batch` that were found at once, in micro-batches
    with these `bounds`; None, and nothing changed, where each micro-batch can be computed by itself.

    Raises ModelError for towers that cannot be cut, and for layers that are asked for another batch meanwhile.
    """
    if not is_cut(model, world, len(bounds)):
        yield None
        return
    pictures = Pictures(model, batch.images, Cut(bounds, world, model.autocast))
    with ExitStack() as stack:
        for module in model.clip.modules():
            if isinstance(module, _BatchNorm):
                handle = module.register_forward_pre_hook(_refuse)
                stack.callback(handle.remove)
        model.pictures = pictures
        try:
            yield pictures
        finally:
            model.pictures = None


def _refuse(layer: nn.Module, arguments: Any) -> None:
    if layer.training:
        raise ModelError(
            "the method calls layers of the image tower by itself, whose batch normalisation would see a micro-batch; "
            "set --micro_batches 1"
        )

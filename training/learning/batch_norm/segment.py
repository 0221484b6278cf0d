"""A segment of a tower with batch normalisation, over a whole batch that is computed in micro-batches. Exact.

    forward    for each layer of batch normalisation: micro-batches -> moments of what it takes -> those of all ranks
               micro-batches -> the segment's result; kept: its source and the statistics
    backward   micro-batches -> again what the layers take, where there is room for it (`kept`)
               for the result, then for each kept value from the last to the first, its gradient being known:
                   for each layer on the way to it, from the last: micro-batches -> the two sums of its gradient
                   micro-batches -> gradients of weights and of the kept values that it is made of

With mean m, deviation s, gain w, bias b: y = w (z - m) / s + b. With g = dL/dy, over the N values of a channel (Ioffe
and Szegedy, arXiv 1502.03167, section 3): dL/dz = w/s (g - sum(g)/N - (z - m)/s * sum(g (z - m)/s)/N). The first term
is that of constant statistics; the sums are the gradients of b and w. So all that a pass has to find out of the whole
batch are two numbers a channel. A layer whose input is not kept costs a pass of its own each way.

Shapes: n samples of a rank, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.distributed import World
from training.learning.batch_norm.graph import Closure, Segment, input_of

__all__ = ["Cut", "segment_of_batch"]

Whole = dict[fx.Node, Tensor]
"""Values of all n samples."""
Affine = Mapping[fx.Node, tuple[Tensor, Tensor]]
"""Gain and bias [C] of layers, leaves of the graph."""


@dataclass(frozen=True, eq=False)
class Cut:
    """How a batch is computed."""

    bounds: Sequence[tuple[int, int]]
    """First sample of each micro-batch, and the one after its last."""
    world: World
    autocast: Callable[[], AbstractContextManager[Any]]
    """As the tower computes."""


def segment_of_batch(
    segment: Segment,
    cut: Cut,
    kept: frozenset[fx.Node],
    source: Tensor,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """[n, ...]: the segment's result for `source` [n, ...], of which a micro-batch is taken by `prepare`.

    It has gradients for weights and source, and running statistics follow, once. `kept`: inputs of batch
    normalisation, as `Segment.enough` says; they are there only while the segment is computed. All ranks must come
    through here, forward and backward, in the same order.
    """
    layers = [segment.norm(node) for node in segment.norms]
    affine = [p for layer in layers for p in (layer.weight, layer.bias) if p is not None and p.requires_grad]
    parameters = [*segment.parameters(segment.nodes), *dict.fromkeys(affine)]
    batch = _Batch(segment, cut, kept, prepare or (lambda value: value))
    return cast(Tensor, _OfBatch.apply(batch, parameters, source, *parameters))


class _OfBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, batch: _Batch, parameters: Sequence[nn.Parameter], source: Tensor, *_: Tensor) -> Tensor:
        ctx.batch, ctx.parameters = batch, parameters
        ctx.save_for_backward(source)
        return batch.forward(source)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (source,) = ctx.saved_tensors
        backward = _Backward(ctx.batch, source, gradients[0], source_is_wanted=ctx.needs_input_grad[2])
        of_source, of_parameters = backward.run()
        return None, None, of_source, *(of_parameters.get(parameter) for parameter in ctx.parameters)


@dataclass(frozen=True, eq=False)
class _Statistics:
    """What a layer finds in the batch of all ranks."""

    count: Tensor
    """Values of each channel, a scalar; all are float64."""
    mean: Tensor
    """[C]."""
    variance: Tensor
    """[C], divided by the count."""


@dataclass(frozen=True, eq=False)
class _Part:
    """What is known of a micro-batch."""

    rows: slice
    values: dict[fx.Node, Any]


class _Batch:
    """One batch in a segment."""

    def __init__(
        self, segment: Segment, cut: Cut, kept: frozenset[fx.Node], prepare: Callable[[Tensor], Tensor]
    ) -> None:
        self.segment, self.kept, self.world = segment, kept, cut.world
        self._cut, self._prepare = cut, prepare
        self._statistics: dict[fx.Node, _Statistics] = {}

    def forward(self, source: Tensor) -> Tensor:
        """The result; measures the batch."""
        segment = self.segment
        whole: Whole = {segment.source: source}
        levels = segment.levels([segment.source])
        for level in sorted({levels[norm] for norm in segment.norms}):
            self._measure([norm for norm in segment.norms if levels[norm] == level], whole)
        (result,) = self.fill([segment.result], whole)
        return result

    def _measure(self, norms: Sequence[fx.Node], whole: Whole) -> None:
        """The statistics of `norms`, which need those of earlier layers alone; fills in what is kept."""
        inputs = list(dict.fromkeys(map(input_of, norms)))
        there = [value for value in inputs if value in whole]
        closure = self.segment.closure([value for value in inputs if value not in whole], whole)
        moments: dict[fx.Node, list[Tensor]] = {value: [] for value in inputs}
        for part in self.parts(whole, {*closure.known, *there}):
            found = {value: part.values[value] for value in there}
            made = self.segment.run(closure, part.values, self.constant)
            for value, rows in (found | dict(zip(closure.targets, made, strict=True))).items():
                moments[value].append(_moments(rows))
                if value in self.kept and value not in there:
                    self._write(whole, value, rows, part.rows)
        # Every layer's in one collective, which all ranks enter.
        own = torch.cat([_joined(torch.stack(moments[value])) for value in inputs], dim=1)
        of_all = _joined(self.world.gather_rows(own[None], total=self.world.size))
        by_input = dict(
            zip(inputs, torch.split(of_all, [moments[value][0].shape[1] for value in inputs], 1), strict=True)
        )
        for norm in norms:
            count_C, mean_C, squares_C = by_input[input_of(norm)]
            layer = self.segment.norm(norm)
            self._statistics[norm] = _Statistics(count_C[0], mean_C, squares_C / count_C)
            _follow(layer, self._statistics[norm])

    def fill(self, targets: Sequence[fx.Node], whole: Whole) -> list[Tensor]:
        """`targets` of all samples."""
        closure = self.segment.closure(targets, whole)
        filled: Whole = {}
        for part in self.parts(whole, closure.known):
            for target, rows in zip(targets, self.segment.run(closure, part.values, self.constant), strict=True):
                self._write(filled, target, rows, part.rows)
        return [filled[target] for target in targets]

    def _write(self, whole: Whole, value: fx.Node, rows: Tensor, place: slice) -> None:
        if value not in whole:
            layout = torch.contiguous_format
            if rows.ndim == 4 and rows.is_contiguous(memory_format=torch.channels_last):
                layout = torch.channels_last
            shape = (self._cut.bounds[-1][1], *rows.shape[1:])
            whole[value] = torch.empty(shape, dtype=rows.dtype, device=rows.device, memory_format=layout)
        whole[value][place] = rows

    def parts(self, whole: Whole, wanted: Iterable[fx.Node]) -> Iterator[_Part]:
        """The `wanted` of each micro-batch, in turn, under the tower's autocast."""
        wanted = list(wanted)
        for bounds in self._cut.bounds:
            rows = slice(*bounds)
            values: dict[fx.Node, Any] = {value: whole[value][rows] for value in wanted}
            with self._cut.autocast():
                if self.segment.source in values:
                    values[self.segment.source] = self._prepare(values[self.segment.source])
                yield _Part(rows, values)

    def constant(self, norm: fx.Node, value: Tensor) -> Tensor:
        """`value` after the layer, whose statistics are those of the batch, as constants."""
        layer = self.segment.norm(norm)
        return self.normalised(norm, value, layer.weight, layer.bias)

    def normalised(self, norm: fx.Node, value: Tensor, gain_C: Tensor | None, bias_C: Tensor | None) -> Tensor:
        """The same, with another gain and bias."""
        found, dtype = self._statistics[norm], torch.promote_types(value.dtype, torch.float32)
        mean_C, variance_C = found.mean.to(dtype), found.variance.to(dtype)
        return F.batch_norm(value, mean_C, variance_C, gain_C, bias_C, training=False, eps=self.segment.norm(norm).eps)

    def terms(self, norm: fx.Node, of_gain_C: Tensor, of_bias_C: Tensor) -> tuple[Tensor, Tensor]:
        """(slope, constant), float64[C]: of the layer's input z, slope * z + constant is what its statistics take off
        the gradient of z; the sums are those of all ranks."""
        found, layer = self._statistics[norm], self.segment.norm(norm)
        gain_C = torch.ones_like(of_gain_C) if layer.weight is None else layer.weight.detach().double()
        scale_C = (found.variance + layer.eps).rsqrt()
        slope_C = gain_C * scale_C.square() * of_gain_C / found.count
        return slope_C, gain_C * scale_C * of_bias_C / found.count - found.mean * slope_C


class _Backward:
    """The backward pass of a batch."""

    def __init__(self, batch: _Batch, source: Tensor, gradient: Tensor, *, source_is_wanted: bool) -> None:
        self._batch, self._segment = batch, batch.segment
        self._source_is_wanted = source_is_wanted
        self._whole: Whole = {self._segment.source: source}
        self._gradients: Whole = {self._segment.result: gradient}
        """Of kept values as if the statistics of the layers that take them were constant."""
        self._of_parameters: dict[nn.Parameter, Tensor] = {}
        self._sums: dict[fx.Node, tuple[Tensor, Tensor]] = {}
        """Of this rank, by layer: the gradients of gain and bias [C]."""
        self._terms: dict[fx.Node, tuple[Tensor, Tensor]] = {}
        """`_Batch.terms` of the layers whose sums are whole."""

    def run(self) -> tuple[Tensor | None, dict[nn.Parameter, Tensor]]:
        """Gradients of the source, where it is wanted, and of the weights."""
        segment, source = self._segment, self._segment.source
        kept = [node for node in segment.nodes if node in self._batch.kept]
        if kept:
            self._whole |= dict(zip(kept, self._batch.fill(kept, self._whole), strict=True))
        self._through(segment.result)
        for value in reversed(kept):
            if value in self._gradients:
                self._take_off(value)
                self._through(value)
                del self._gradients[value]
            del self._whole[value]
        if source in self._gradients:
            self._take_off(source)
        for norm, sums in self._sums.items():
            layer = segment.norm(norm)
            for weight, gradient in zip((layer.weight, layer.bias), sums, strict=True):
                if weight is not None and weight.requires_grad:
                    self._add_weight(weight, gradient)
        return self._gradients.get(source), self._of_parameters

    def _through(self, target: fx.Node) -> None:
        """From the gradient of `target` to those of all that it is made of."""
        segment = self._segment
        closure = segment.closure([target], self._whole)
        inner = [node for node in closure.nodes if segment.is_norm(node) and input_of(node) not in self._whole]
        levels = segment.levels(self._whole)
        for level in sorted({levels[norm] for norm in inner}, reverse=True):
            self._find_sums(target, [norm for norm in inner if levels[norm] == level])
        self._find_gradients(target, closure)

    def _find_sums(self, target: fx.Node, norms: Sequence[fx.Node]) -> None:
        """The sums of `norms`; those of all layers between them and `target` are known."""
        segment, batch = self._segment, self._batch
        inputs = list(dict.fromkeys(map(input_of, norms)))
        below = segment.closure(inputs, self._whole)
        above = segment.closure([target], [*self._whole, *inputs])
        leaves = self._leaves(norms)
        for part in batch.parts(self._whole, {*below.known, *above.known} - set(inputs)):
            values = {value: part.values[value] for value in above.known if value in part.values}
            values |= dict(zip(inputs, segment.run(below, part.values, batch.constant), strict=True))
            with torch.enable_grad():
                (rows,) = segment.run(above, values, partial(self._normalised, leaves))
            self._add_sums(leaves, torch.autograd.grad([rows], _flat(leaves), [self._gradients[target][part.rows]]))
        self._settle(norms)

    def _find_gradients(self, target: fx.Node, closure: Closure) -> None:
        """Gradients of weights and kept values that `target` is made of; sums of the layers that take the latter."""
        segment, batch = self._segment, self._batch
        wanted = [value for value in closure.known if value is not segment.source or self._source_is_wanted]
        takers = [node for node in closure.nodes if segment.is_norm(node) and input_of(node) in self._whole]
        weights = segment.parameters(closure.nodes)
        leaves = self._leaves(takers)
        if not (wanted or weights or leaves):
            return
        is_there = {target} & self._whole.keys()
        for part in batch.parts(self._whole, {*closure.known, *is_there}):
            made = part.values.pop(target, None)
            kept = {value: part.values[value].detach().requires_grad_() for value in wanted}
            known = partial(self._known_convolution, target, made)
            with torch.enable_grad():
                (rows,) = segment.run(closure, part.values | kept, partial(self._normalised, leaves), known)
            asked = [*kept.values(), *weights, *_flat(leaves)]
            found = torch.autograd.grad([rows], asked, [self._gradients[target][part.rows]], allow_unused=True)
            for value, gradient in zip(wanted, found, strict=False):
                if gradient is not None:
                    if value not in self._gradients:
                        self._gradients[value] = torch.zeros_like(self._whole[value])
                    self._gradients[value][part.rows].add_(gradient)
            for weight, gradient in zip(weights, found[len(wanted) :], strict=False):
                if gradient is not None:
                    self._add_weight(weight, gradient)
            self._add_sums(leaves, found[len(wanted) + len(weights) :])

    def _take_off(self, value: fx.Node) -> None:
        """What the statistics of the layers that take a kept value take off its gradient."""
        takers = [norm for norm in self._segment.norms if input_of(norm) is value and norm in self._sums]
        self._settle(takers)
        for part in self._batch.parts(self._whole, [value] if takers else []):
            for norm in takers:
                rows = self._gradients[value][part.rows]
                rows.copy_(_without(rows, part.values[value], *self._terms[norm]))

    def _settle(self, norms: Sequence[fx.Node]) -> None:
        """The sums of all ranks make terms, in one collective, which all ranks enter."""
        if not norms:
            return
        own = torch.cat([torch.stack(self._sums[norm]).double() for norm in norms], dim=1)
        of_all = torch.split(self._batch.world.sum_(own), [len(self._sums[norm][0]) for norm in norms], dim=1)
        for norm, sums in zip(norms, of_all, strict=True):
            self._terms[norm] = self._batch.terms(norm, sums[0], sums[1])

    def _normalised(self, leaves: Affine, norm: fx.Node, value: Tensor) -> Tensor:
        """By the statistics of the batch; as what they are, of a layer whose sums are known, else as constants."""
        if norm in self._terms:
            value = cast(Tensor, _Coupled.apply(value, *self._terms[norm]))
        gain_C, bias_C = leaves[norm] if norm in leaves else self._affine(norm)
        return self._batch.normalised(norm, value, gain_C, bias_C)

    def _leaves(self, norms: Iterable[fx.Node]) -> Affine:
        pairs = {norm: self._affine(norm) for norm in norms}
        return {norm: (gain_C.requires_grad_(), bias_C.requires_grad_()) for norm, (gain_C, bias_C) in pairs.items()}

    def _affine(self, norm: fx.Node) -> tuple[Tensor, Tensor]:
        """Gain and bias, cut out of the graph."""
        layer = self._segment.norm(norm)
        if layer.affine:
            return layer.weight.detach(), layer.bias.detach()
        like = self._whole[self._segment.source] if layer.running_mean is None else layer.running_mean
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        ones_C = torch.ones(layer.num_features, dtype=dtype, device=like.device)
        return ones_C, torch.zeros_like(ones_C)

    def _known_convolution(self, target: fx.Node, made: Tensor | None, node: fx.Node, arguments: Any) -> Tensor | None:
        """For the call that made `target`, of which the result is known: the same with its gradient alone."""
        layer = self._segment.modules.get(str(node.target)) if node is target else None
        if made is None or type(layer) is not nn.Conv2d or layer.padding_mode != "zeros":
            return None
        if isinstance(layer.padding, str):
            return None
        weight, bias = layer.weight.to(made.dtype), None if layer.bias is None else layer.bias.to(made.dtype)
        return cast(Tensor, _Known.apply(layer, made, arguments[0].to(made.dtype), weight, bias))

    def _add_sums(self, leaves: Affine, found: Sequence[Tensor]) -> None:
        for i, norm in enumerate(leaves):
            old, new = self._sums.get(norm), found[2 * i : 2 * i + 2]
            self._sums[norm] = (new[0], new[1]) if old is None else (old[0] + new[0], old[1] + new[1])

    def _add_weight(self, weight: nn.Parameter, gradient: Tensor) -> None:
        old = self._of_parameters.get(weight)
        self._of_parameters[weight] = gradient if old is None else old + gradient


class _Coupled(torch.autograd.Function):
    """The same value; its gradient without what statistics take off it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, slope_C: Tensor, constant_C: Tensor) -> Tensor:
        ctx.save_for_backward(value, slope_C, constant_C)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _without(gradients[0], *ctx.saved_tensors), None, None


class _Known(torch.autograd.Function):
    """A convolution whose result is known, so that its gradient alone is computed."""

    @staticmethod
    def forward(ctx: Any, layer: nn.Conv2d, made: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.layer, ctx.has_bias = layer, bias is not None
        ctx.save_for_backward(x, weight)
        return made.view_as(made)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        layer, sizes = ctx.layer, [len(weight)] if ctx.has_bias else None
        wanted = [ctx.needs_input_grad[2], ctx.needs_input_grad[3], ctx.has_bias and ctx.needs_input_grad[4]]
        found = torch.ops.aten.convolution_backward(
            gradients[0], x, weight, sizes, layer.stride, layer.padding, layer.dilation, False, [0, 0], layer.groups,
            wanted,
        )  # fmt: skip
        return None, None, *found


def _flat(leaves: Affine) -> list[Tensor]:
    return [leaf for pair in leaves.values() for leaf in pair]


def _without(gradient: Tensor, value: Tensor, slope_C: Tensor, constant_C: Tensor) -> Tensor:
    """`gradient` less slope * `value` + constant, by channel, in its own type."""
    shape = (1, -1, *[1] * (value.ndim - 2))
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    return (gradient - (value * slope_C.to(dtype).view(shape) + constant_C.to(dtype).view(shape))).to(gradient.dtype)


def _moments(value: Tensor) -> Tensor:
    """float64[3, C] of [B, C, ...]: how many values, their mean, their squared distances from it added up."""
    dimensions = [0, *range(2, value.ndim)]
    variance_C, mean_C = torch.var_mean(
        value.to(torch.promote_types(value.dtype, torch.float32)), dimensions, correction=0
    )
    count = value.numel() // value.shape[1]
    return torch.stack([torch.full_like(mean_C, count), mean_C, variance_C * count]).double()


def _joined(moments: Tensor) -> Tensor:
    """[3, C] of the moments [parts, 3, C] of all parts (Chan, Golub and LeVeque 1979)."""
    count_PC, mean_PC, squares_PC = moments.unbind(1)
    count_C = count_PC.sum(0)
    mean_C = (count_PC * mean_PC).sum(0) / count_C
    return torch.stack([count_C, mean_C, (squares_PC + count_PC * (mean_PC - mean_C).square()).sum(0)])


def _follow(layer: _BatchNorm, found: _Statistics) -> None:
    """The running statistics of `layer`, as torch has them follow."""
    if not layer.track_running_stats or layer.running_mean is None or layer.running_var is None:
        return
    momentum = layer.momentum
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / float(layer.num_batches_tracked)
    unbiased_C = found.variance * found.count / (found.count - 1)
    for running_C, new_C in ((layer.running_mean, found.mean), (layer.running_var, unbiased_C)):
        running_C.lerp_(new_C.to(running_C.dtype), momentum or 0.0)

"""An image tower as a graph that is cut where batch normalisation couples the samples of a batch.

    tower --fx--> calls, in order --> segments: a stem, blocks, a head, each of one value made of one value
                                      within each: what must be known of the whole batch, layer by layer

Modules without batch normalisation are single calls, so that only the forward functions of towers and blocks are
traced. Where a segment ends follows from the tower's sequences of blocks; that one value alone crosses is looked up in
the graph, and segments that more crosses are joined. So the cut is right for any tower, and fine for those of blocks.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from pipeline.errors import one_line
from training.errors import ModelError

__all__ = ["Closure", "Segment", "has_batch_norm", "input_of", "trace"]

Values = dict[fx.Node, Any]
"""What calls returned, for the samples of a micro-batch."""
_IN_PLACE = {operator.iadd, operator.isub, operator.imul, operator.itruediv}


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a layer mixes the samples of a batch."""
    return any(isinstance(m, _BatchNorm) for m in module.modules())


@dataclass(frozen=True, eq=False)
class Closure:
    """The calls that make `targets` of values that are known, in order."""

    targets: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]
    known: tuple[fx.Node, ...]
    """Those of the known values that are used."""
    last_uses: Mapping[fx.Node, tuple[fx.Node, ...]]
    """By call: the values that none needs after it."""


@dataclass(frozen=True, eq=False)
class Segment:
    """A part of the tower that takes one value and makes one."""

    modules: Mapping[str, nn.Module]
    """The tower's, by name."""
    source: fx.Node
    result: fx.Node
    nodes: tuple[fx.Node, ...]

    @property
    def norms(self) -> list[fx.Node]:
        """The calls of batch normalisation."""
        return [node for node in self.nodes if self.is_norm(node)]

    def is_norm(self, node: fx.Node) -> bool:
        """Whether `node` calls a batch normalisation that takes its statistics from the batch."""
        return node.op == "call_module" and isinstance(self.modules[str(node.target)], _BatchNorm)

    def norm(self, node: fx.Node) -> _BatchNorm:
        """The layer that `node` calls."""
        return cast(_BatchNorm, self.modules[str(node.target)])

    def parameters(self, nodes: Iterable[fx.Node]) -> list[nn.Parameter]:
        """Trained weights of `nodes`, each once; those of batch normalisation are left out."""
        found: dict[nn.Parameter, None] = {}
        for node in nodes:
            if node.op == "call_module" and not self.is_norm(node):
                found |= dict.fromkeys(self.modules[str(node.target)].parameters())
            elif node.op == "get_attr" and isinstance(value := self._attribute(node), nn.Parameter):
                found[value] = None
        return [parameter for parameter in found if parameter.requires_grad]

    def levels(self, known: Iterable[fx.Node]) -> dict[fx.Node, int]:
        """By call: how many batch normalisations one after the other lie between it and the `known` values."""
        levels = dict.fromkeys(known, 0)
        for node in self.nodes:
            if node not in levels:
                below = max((levels.get(argument, 0) for argument in node.all_input_nodes), default=0)
                levels[node] = below + self.is_norm(node)
        return levels

    def closure(self, targets: Iterable[fx.Node], known: Iterable[fx.Node]) -> Closure:
        """What makes `targets` out of `known` values; a target that is known is made nonetheless."""
        targets, known = tuple(targets), set(known)
        needed, open_ = set(targets), list(targets)
        used: dict[fx.Node, None] = {}
        while open_:
            for argument in open_.pop().all_input_nodes:
                if argument in known:
                    used[argument] = None
                elif argument not in needed:
                    needed.add(argument)
                    open_.append(argument)
        nodes = tuple(node for node in self.nodes if node in needed)
        last_use = {argument: node for node in nodes for argument in node.all_input_nodes}
        last_uses: dict[fx.Node, tuple[fx.Node, ...]] = {}
        for argument, node in last_use.items():
            if argument not in targets:
                last_uses[node] = (*last_uses.get(node, ()), argument)
        return Closure(targets, nodes, tuple(used), last_uses)

    def enough(self, kept: Iterable[fx.Node]) -> frozenset[fx.Node]:
        """`kept` inputs of batch normalisation, and those that must be so too: each other layer shall lie between
        kept values in one way alone."""
        inputs = {input_of(norm) for norm in self.norms} - {self.source}
        found = frozenset(kept) & inputs
        while True:
            known = {self.source, *found}
            closures = [self.closure([target], known) for target in (self.result, *found)]
            shared = {
                input_of(norm)
                for norm in self.norms
                if input_of(norm) not in known and sum(norm in closure.nodes for closure in closures) > 1
            }
            if not shared:
                return found
            found |= shared

    def run(
        self,
        closure: Closure,
        values: Values,
        norm: Callable[[fx.Node, Tensor], Tensor],
        known: Callable[[fx.Node, tuple[Any, ...]], Any] | None = None,
    ) -> list[Any]:
        """The targets of `closure`. `values` holds the known ones, and is used up. `norm` stands in for the layers of
        batch normalisation; `known`, where it returns something, for any other call with its arguments."""
        kept = set(closure.known)
        for node in closure.nodes:
            if node not in values:
                arguments: Any = fx.node.map_arg(node.args, values.__getitem__)
                options = fx.node.map_arg(node.kwargs, values.__getitem__)
                if self._writes(node) and node.all_input_nodes[0] in kept:
                    arguments = (arguments[0].clone(), *arguments[1:])
                found = None if known is None else known(node, arguments)
                values[node] = self._call(node, arguments, options, norm) if found is None else found
            for argument in closure.last_uses.get(node, ()):
                values.pop(argument, None)
        return [values[target] for target in closure.targets]

    def _call(self, node: fx.Node, arguments: Any, options: Any, norm: Callable[[fx.Node, Tensor], Tensor]) -> Any:
        if node.op == "get_attr":
            return self._attribute(node)
        if node.op == "call_function":
            return cast("Callable[..., Any]", node.target)(*arguments, **options)
        if node.op == "call_method":
            return getattr(arguments[0], str(node.target))(*arguments[1:], **options)
        if not self.is_norm(node):
            return self.modules[str(node.target)](*arguments, **options)
        value, layer = norm(node, arguments[0]), self.modules[str(node.target)]
        for name in ("drop", "act"):  # of timm's layers, which apply their activation as well
            if isinstance(after := getattr(layer, name, None), nn.Module):
                value = after(value)
        return value

    def _attribute(self, node: fx.Node) -> Any:
        owner, _, name = str(node.target).rpartition(".")
        return getattr(self.modules[owner], name)

    def _writes(self, node: fx.Node) -> bool:
        """Whether it may write into its first argument."""
        if node.op == "call_module":
            return any(getattr(m, "inplace", False) for m in self.modules[str(node.target)].modules())
        is_method = node.op == "call_method" and str(node.target).endswith("_")
        return is_method or node.target in _IN_PLACE or bool(node.kwargs.get("inplace"))


def input_of(norm: fx.Node) -> fx.Node:
    """What a call of batch normalisation takes."""
    return norm.all_input_nodes[0]


def trace(tower: nn.Module, *, name: str) -> list[Segment]:
    """The segments of `tower`, which takes pixels and makes features, each of which takes what the one before it made.
    Raises ModelError."""
    tracer = _Tracer()
    try:
        with torch.no_grad(), _nothing_again(tower):
            graph = tracer.trace(tower)
    except (RuntimeError, TypeError, ValueError, AttributeError, NameError, fx.proxy.TraceError) as error:
        raise ModelError(
            f"{name}: micro-batches need the order of its layers, which torch.fx cannot tell ({one_line(error, 200)}); "
            "set --micro_batches 1"
        ) from error
    modules = dict(tower.named_modules())
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    if problem := _draws(nodes, modules):
        raise ModelError(
            f"{name}: micro-batches would draw anew each time that a layer is computed again ({problem}); "
            "set it to 0, or --micro_batches 1"
        )
    (source,) = (node for node in graph.nodes if node.op == "placeholder")
    return list(_segments(nodes, source, modules))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _BatchNorm) or not has_batch_norm(m)


@contextmanager
def _nothing_again(tower: nn.Module) -> Iterator[None]:
    """timm's towers do not compute activations again for as long; ours do not without gradients anyway."""
    changed = [module for module in tower.modules() if getattr(module, "grad_checkpointing", False) is True]
    try:
        for module in changed:
            cast(Any, module).grad_checkpointing = False
        yield
    finally:
        for module in changed:
            cast(Any, module).grad_checkpointing = True


def _draws(nodes: Sequence[fx.Node], modules: Mapping[str, nn.Module]) -> str:
    """The name of what draws random numbers; empty where nothing does."""
    for node in nodes:
        if node.op == "call_module":
            for module in modules[str(node.target)].modules():
                if (isinstance(module, _DropoutNd) and module.p > 0) or getattr(module, "drop_prob", None):
                    return str(node.target)
        elif node.target in (F.dropout, F.dropout2d, torch.dropout, "bernoulli_"):
            return "dropout"
    return ""


def _segments(nodes: Sequence[fx.Node], source: fx.Node, modules: Mapping[str, nn.Module]) -> Iterator[Segment]:
    """`nodes` cut between blocks, where a single value crosses."""
    calls = [node for node in nodes if node.op != "get_attr"]
    place = {node: i for i, node in enumerate(calls)}
    last_use = {node: max((place.get(user, len(calls)) for user in node.users), default=-1) for node in calls}
    begin = 0
    for i, node in enumerate(calls):
        is_last = i + 1 == len(calls)
        if not is_last and _block_of(node, modules) == _block_of(calls[i + 1], modules):
            continue
        crossing = [one for one in calls[: i + 1] if last_use[one] > i]
        if not is_last and (crossing != [node] or any(place[user] > i for user in source.users)):
            continue
        own = calls[begin : i + 1]
        attributes = {a for one in own for a in one.all_input_nodes if a.op == "get_attr"}
        whole = tuple(one for one in nodes if one in attributes or begin <= place.get(one, -1) <= i)
        yield Segment(modules, source, node, whole)
        begin, source = i + 1, node


def _block_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """The name of the block that `node` is a part of: the innermost entry of a sequence; empty where it is of none."""
    stack = [str(name) for name in node.meta.get("nn_module_stack", {})]
    path = str(node.target) if node.op == "call_module" else (stack[-1] if stack else "")
    while path:
        parent = path.rpartition(".")[0]
        is_block = has_batch_norm(modules[path]) and not isinstance(modules[path], (nn.Sequential, _BatchNorm))
        if is_block and isinstance(modules[parent], nn.Sequential):
            return path
        path = parent
    return ""

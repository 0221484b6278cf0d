"""The most memory that a computation holds at a time, reckoned with tensors that have no content (FakeTensorMode)."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Holding"]


class Holding(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """While it is entered: the bytes of the tensors that came since, and still are there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.num_bytes = 0
        self.most = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """As autograd and FakeTensorMode have it, which see what is asked for before and after."""
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self._add(leaf, before)
        return found

    def _add(self, tensor: Tensor, before: set[int]) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in before or key in self._known:
            return
        num_bytes = storage.nbytes()
        self._known[key] = weakref.finalize(storage, self._remove, key, num_bytes)
        self.num_bytes += num_bytes
        self.most = max(self.most, self.num_bytes)

    def _remove(self, key: int, num_bytes: int) -> None:
        self.num_bytes -= num_bytes
        self._known.pop(key, None)

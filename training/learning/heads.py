"""Where a method's own modules stand in open_clip's, and the weights without theirs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["HEADS", "is_of_head", "without_heads"]

HEADS = "heads_of_method"
"""Their name in open_clip's module: their weights are saved under it."""


def is_of_head(name: str) -> bool:
    """Whether the weight `name` is of a method's own modules."""
    return name.startswith(f"{HEADS}.")


def without_heads(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those that open_clip's model has."""
    return {name: value for name, value in weights.items() if not is_of_head(name)}

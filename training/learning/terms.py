"""What a method says of its losses, held to what it gives: mistakes of one's own methods in one line."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from configs.load import ConfigError
from training.learning.method import Method, Terms

__all__ = ["check_counts", "check_loss", "check_sums"]


def check_counts(method: Method, counts: Mapping[str, object]) -> None:
    """Raise ConfigError unless `counts`, as `method` gives them, are tensors of one number by name."""
    for name, count in counts.items():
        if not isinstance(count, Tensor) or count.numel() != 1:
            raise ConfigError(
                f"{_named(method)}: counts gives no tensor of one number for {name!r}; make it one, such as "
                "torch.tensor(float(len(batch)))"
            )


def check_sums(method: Method, *, forward: Terms, second: Terms, counts: Terms) -> None:
    """Raise ConfigError where a loss of single samples, a sum of `forward` or `second`, has no count, or two have one
    name."""
    if missing := sorted((forward.keys() | second.keys()) - counts.keys()):
        of = "forward" if missing[0] in forward else "second"
        raise ConfigError(
            f"{_named(method)}: counts has no entry for {', '.join(missing)}, which {of} gives; return there what to "
            f"divide it by over the whole batch, such as {{{missing[0]!r}: torch.tensor(float(len(batch)))}}"
        )
    if twice := sorted(forward.keys() & second.keys()):
        raise ConfigError(
            f"{_named(method)}: forward and second both give a loss named {', '.join(twice)}, of which one would be "
            "lost; rename it in one of them, and in counts"
        )


def check_loss(method: Method, *terms: Terms) -> None:
    """Raise ConfigError where there is nothing to minimise in any of `terms`."""
    if not any(terms):
        raise ConfigError(
            f"{_named(method)}: none of forward, coupled and second gives a loss; return sums from forward, or terms "
            "from coupled"
        )


def _named(method: Method) -> str:
    """As in a config."""
    return f"method.name: {type(method).__module__}:{type(method).__qualname__}"

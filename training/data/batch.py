"""Samples that are learnt from together, and where their texts end.

Images stay uint8 until they are on the device, where `learning/model.py` normalises them: a quarter of the
bytes to copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["OWN_FIELDS", "Batch", "text_length", "trim"]

OWN_FIELDS = ("image", "tokens", "key")
"""What every batch has; no column of a data set takes their names."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B samples; B is the rank's part of the global batch, or a slice of it.

    Shapes: B samples, H = W = image size, L = context length.
    """

    fields: Mapping[str, Tensor]
    """By name, a row for each sample: `image` uint8[B, H, W, 3]; `tokens` int64[B, L]; `key` int64[B], the sample's
    random key, for dropout keyed per sample; and what else a method asks for."""
    num_replaced: int = 0
    """Samples whose picture was broken, so that another stands in their place."""
    ready: torch.cuda.Event | None = None
    """When its copy to the GPU is done; None where there is nothing to wait for."""

    @classmethod
    def of(cls, *, images: Tensor, tokens: Tensor, keys: Tensor, num_replaced: int = 0) -> Batch:
        """A batch of what every data set has."""
        return cls(fields={"image": images, "tokens": tokens, "key": keys}, num_replaced=num_replaced)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def images(self) -> Tensor:
        """uint8[B, H, W, 3]."""
        return self.fields["image"]

    @property
    def tokens(self) -> Tensor:
        """int64[B, L]."""
        return self.fields["tokens"]

    @property
    def keys(self) -> Tensor:
        """int64[B]."""
        return self.fields["key"]

    def having(self, fields: Mapping[str, Tensor]) -> Batch:
        """The batch with other fields in place of its own, or beside them."""
        return replace(self, fields={**self.fields, **fields})

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`, for the current stream, which waits for it; the host does not."""
        if self.ready is not None:
            stream = torch.cuda.current_stream(device)
            stream.wait_event(self.ready)
            for field in self.fields.values():
                field.record_stream(stream)
        return replace(self._each(lambda field: field.to(device, non_blocking=True)), ready=None)

    def slice(self, start: int, stop: int) -> Batch:
        """Samples `start` to `stop`; the replaced stay counted on the whole batch only."""
        return replace(self._each(lambda field: field[start:stop]), num_replaced=0)

    def pin_memory(self) -> Batch:
        """For DataLoader."""
        return self._each(lambda field: field.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(self, fields={name: change(field) for name, field in self.fields.items()})


def text_length(tokens_BL: Tensor) -> int:
    """Columns of int64[B, L] up to the last that is not padding (0) in every row; at least 1."""
    used = torch.nonzero((tokens_BL != 0).any(dim=0))
    return int(used[-1]) + 1 if used.numel() else 1


def trim(tokens_BL: Tensor) -> Tensor:
    """Tokens without the columns that are padding in every row. Exact for causal text towers."""
    return tokens_BL[:, : text_length(tokens_BL)]

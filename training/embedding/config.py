"""The options of `python -m training embed`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds
from training.config import Precision, RayConfig

__all__ = ["EmbedConfig"]


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """What is embedded, with what, and where the features go."""

    model: str
    """A run, an export, NAME:FILE of weights, NAME:TAG, or hf-hub:ORGANISATION/NAME."""
    data: str
    """A data set, a directory of tars or pictures, or a list: .csv, .tsv, .parquet, .jsonl, or .txt with a text a line.
    On a disk or in a bucket."""
    to: str | None = None
    """Directory or bucket's URL of the features; null: DATA/features/NAME, of a list beside it."""
    name: str | None = None
    """NAME of the features; null for the first 12 digits of the model's fingerprint."""
    what: Literal["both", "image", "text"] = "both"
    """Which features are made."""
    batch_size: Annotated[int, Bounds(least=1)] = 256
    """Pictures, or texts, that go through the model at a time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is some."""
    precision: Precision = "auto"
    """Of the forward pass; auto: bf16 where the hardware has it, else fp32."""
    tokenizer: str | None = None
    """A tokenizer's file, where the model needs one; see the option model.tokenizer of a training run."""
    decode_threads: Annotated[int, Bounds(least=1, most=4096)] | None = None
    """Threads that decode pictures ahead of the model; null for one a core."""
    threads: Annotated[int, Bounds(least=1, most=4096)] | None = None
    """Threads of the model on a CPU; null for torch's own choice."""
    image_column: str | None = None
    """Column of a list with paths of pictures, relative to the list, or URLs of a bucket; null: image,
    filepath, file_name, filename, path or file."""
    text_column: str | None = None
    """Column of a list with texts; null: caption, captions, text or title."""
    uid_column: str | None = None
    """Column of a list with 32 hex digits, 16 bytes, or other names that are hashed; null: uid; without one the row's
    path and text are hashed."""
    launcher: Literal["torchrun", "ray"] = "torchrun"
    """Who starts several processes: torchrun (or nobody, for one process), or Ray Train, see `ray`."""
    ray: RayConfig = field(default_factory=RayConfig)
    """How many processes Ray starts, and where."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.name is not None and self.to is not None:
            raise ConfigError("give to or name: name is of a directory beside the data")
        if self.name is not None and (not self.name or "/" in self.name or self.name.startswith(".")):
            raise ConfigError(f"name must be a file name, got {self.name!r}")

"""The options of `python -m training reinforce`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds
from training.config import Precision, RayConfig
from training.data.augmentations_config import StrongAugmentConfig

__all__ = ["ReinforceConfig"]


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig:
    """Which data are reinforced, by which teachers, and where it goes."""

    data: str
    """A data set, or a directory of tars. On a disk or in a bucket."""
    teachers: tuple[str, ...]
    """CLIPs, each a run, an export, NAME:FILE of weights, NAME:TAG, or hf-hub:ORGANISATION/NAME. They may differ in
    size, width and tokens."""
    to: str | None = None
    """Directory or bucket's URL of the reinforcements; null: DATA/reinforced/NAME."""
    name: str | None = None
    """NAME of the reinforcements; null for 12 digits over teachers, seed and augmentations."""
    captions: str | None = None
    """Synthetic captions: Parquet with columns `uid` and `captions` (a list of strings), or a directory of such files;
    null for none."""
    max_captions: Annotated[int, Bounds(least=1)] = 5
    """The most of a sample that are taken, the first ones; MobileCLIP has 5."""
    augmentations: Annotated[int, Bounds(least=1)] = 10
    """K, of each picture; MobileCLIP has 10 for a billion pictures, 30 for 12 million."""
    seed: Annotated[int, Bounds()] = 0
    """Decides the augmentations."""
    augment: StrongAugmentConfig = field(default_factory=StrongAugmentConfig)
    """How far they go."""
    plan: bool = False
    """Say what it would take, and end."""
    batch_size: Annotated[int, Bounds(least=1)] = 256
    """Pictures, or texts, that go through a teacher at a time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is some."""
    precision: Precision = "auto"
    """Of the teachers' forward passes; auto: bf16 where the hardware has it, else fp32. Features are kept as bf16."""
    decode_threads: Annotated[int, Bounds(least=1, most=4096)] | None = None
    """Threads that decode and augment pictures ahead of the teachers; null for one a core."""
    threads: Annotated[int, Bounds(least=1, most=4096)] | None = None
    """Threads of the teachers on a CPU; null for torch's own choice."""
    launcher: Literal["torchrun", "ray"] = "torchrun"
    """Who starts several processes: torchrun (or nobody, for one process), or Ray Train, see `ray`."""
    ray: RayConfig = field(default_factory=RayConfig)
    """How many processes Ray starts, and where."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.teachers:
            raise ConfigError("teachers is empty; name a CLIP behind the data, or several")
        if self.name is not None and self.to is not None:
            raise ConfigError("give to or name: name is of a directory beside the data")
        if self.name is not None and (not self.name or "/" in self.name or self.name.startswith(".")):
            raise ConfigError(f"name must be a file name, got {self.name!r}")

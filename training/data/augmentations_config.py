"""How strongly pictures are changed for reinforcements: below all rooms that read it, and light to import."""

from __future__ import annotations

from dataclasses import dataclass

from configs.load import ConfigError
from training.config import AugmentConfig

__all__ = ["StrongAugmentConfig"]


@dataclass(frozen=True, kw_only=True)
class StrongAugmentConfig:
    """A random crop, then RandAugment (Cubuk et al., arXiv 1909.13719), as MobileCLIP's data have them: torchvision's
    defaults (training/configs/datacompdr1b.json of apple/ml-mobileclip)."""

    min_crop_area: float = 0.08
    """Smallest share of the picture's area that a crop covers."""
    max_crop_aspect: float = 4 / 3
    """Widest crop before it is made square, as width over height or its inverse."""
    flip_probability: float = 0.0
    """Chance of a mirrored picture."""
    operations: int = 2
    """Of RandAugment, one after the other, drawn for each augmentation; 0 leaves the crop as it is."""
    magnitude: int = 9
    """How strong each of them is, from 0 to 30."""

    def __post_init__(self) -> None:
        self.crop  # noqa: B018 - which checks the first three
        if self.operations < 0:
            raise ConfigError(f"operations must not be negative, got {self.operations}")
        if not 0 <= self.magnitude <= 30:
            raise ConfigError(f"magnitude must lie in [0, 30], got {self.magnitude}")

    @property
    def crop(self) -> AugmentConfig:
        """The crop alone, as training has it without reinforcements."""
        return AugmentConfig(
            min_crop_area=self.min_crop_area,
            max_crop_aspect=self.max_crop_aspect,
            flip_probability=self.flip_probability,
        )

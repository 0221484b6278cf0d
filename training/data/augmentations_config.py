"""How strongly pictures are changed for reinforcements: below all rooms that read it, and light to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from configs.bounds import Bounds
from configs.load import check_bounds
from training.config import AugmentConfig

__all__ = ["StrongAugmentConfig"]


@dataclass(frozen=True, kw_only=True)
class StrongAugmentConfig:
    """A random crop, then RandAugment (Cubuk et al., arXiv 1909.13719), as MobileCLIP's data have them: torchvision's
    defaults (training/configs/datacompdr1b.json of apple/ml-mobileclip)."""

    min_crop_area: Annotated[float, Bounds(above=0, most=1)] = 0.08
    """Smallest share of the picture's area that a crop covers."""
    max_crop_aspect: Annotated[float, Bounds(least=1)] = 4 / 3
    """Widest crop before it is made square, as width over height or its inverse."""
    flip_probability: Annotated[float, Bounds(least=0, most=1)] = 0.0
    """Chance of a mirrored picture."""
    operations: Annotated[int, Bounds(least=0)] = 2
    """Of RandAugment, one after the other, drawn for each augmentation; 0 leaves the crop as it is."""
    magnitude: Annotated[int, Bounds(least=0, most=30)] = 9
    """How strong each of them is, from 0 to 30."""

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def crop(self) -> AugmentConfig:
        """The crop alone, as training has it without reinforcements."""
        return AugmentConfig(
            min_crop_area=self.min_crop_area,
            max_crop_aspect=self.max_crop_aspect,
            flip_probability=self.flip_probability,
        )

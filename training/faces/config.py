"""The options of `python -m training faces`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import check_bounds

__all__ = ["FacesConfig"]


@dataclass(frozen=True, kw_only=True)
class FacesConfig:
    """Which detector looks at which pictures, and where its boxes go."""

    model: str
    """The detector's file: ONNX in the form of YuNet, which cv2.FaceDetectorYN reads (docs/privacy.md#faces)."""
    data: str
    """A data set, or a directory of tars. On a disk or in a bucket."""
    to: str | None = None
    """The Parquet file of boxes by uid; null: DATA.faces.parquet."""
    min_score: Annotated[float, Bounds(above=0, most=1)] = 0.9
    """The least score of a face, 0 to 1; YuNet's authors use 0.9."""
    overlap: Annotated[float, Bounds(above=0, most=1)] = 0.3
    """Of two boxes that share more of their area than this, the one with the lesser score goes."""
    longest_side: Annotated[int, Bounds(least=32)] = 640
    """Pictures are made smaller until their longer side has so many pixels at most, before the detector sees them."""
    engine: Literal["inline", "ray"] = "inline"
    """inline: in this process. ray: on every core of this machine, or of the cluster that it belongs to."""

    def __post_init__(self) -> None:
        check_bounds(self)

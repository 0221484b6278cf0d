"""What the image check can be told, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds
from pipeline.pictures.pdq_record import Pdq

__all__ = ["EncodeFormat", "ImageConfig", "Picture", "ResizeMode"]

ResizeMode = Literal["no", "keep_ratio", "keep_ratio_largest", "center_crop", "border"]
EncodeFormat = Literal["jpg", "png", "webp"]


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """Limits, size and encoding of stored pictures. The resize modes are named as img2dataset's."""

    image_size: Annotated[int, Bounds(least=1)] = 256
    """S of the resize modes, in pixels."""

    resize_mode: ResizeMode = "keep_ratio"
    """keep_ratio: the shorter side becomes S. keep_ratio_largest: the longer side becomes S. center_crop: as
    keep_ratio, then the middle S x S. border: as keep_ratio_largest, then white to S x S. no: sizes stay."""

    resize_only_if_bigger: bool = True
    """Whether pictures that are smaller already (in the side that the mode looks at) stay as they are."""

    encode_format: EncodeFormat = "jpg"
    """Format of the stored picture."""

    encode_quality: Annotated[int, Bounds(least=0, most=100)] = 95
    """0 to 100 for jpg and webp; the compression level, 0 to 9, for png."""

    store_original: bool = False
    """Whether to store the body as it was served, checked but neither resized nor encoded again."""

    min_side: Annotated[int, Bounds(least=1)] = 1
    """Pictures with a shorter side than this are rejected; pixels, as served."""

    max_aspect_ratio: Annotated[float, Bounds(least=0)] = 0.0
    """Pictures with longer / shorter side above this are rejected; 0 for no limit."""

    max_pixels: Annotated[int, Bounds(least=1)] = 64_000_000
    """Pictures with more pixels, by their header, are rejected before decoding; so are those that would have
    more after resizing (a line of 8000 x 2 with its shorter side made 256)."""

    scaled_decoding: Literal["exact", "fast"] = "fast"
    """fast: a JPEG that is more than `scaled_oversampling` times too large is made smaller by powers of two
    while it is decoded. exact: every pixel is decoded, then resized."""

    scaled_oversampling: Annotated[float, Bounds(least=1)] = 1.5
    """How many times the final size a scaled decode must keep in either direction, at least 1. What each value
    costs in likeness to `exact` is in docs/images.md."""

    exif_tags: tuple[str, ...] = (
        "Artist",
        "Copyright",
        "DateTime",
        "ImageDescription",
        "Make",
        "Model",
        "Orientation",
        "Software",
    )
    """EXIF tags that are kept as facts, by their names in the standard; `all` for all of them (positions and
    owners' names included), an empty list for none."""

    isolate: Literal["all", "unsafe", "none"] = "unsafe"
    """Which pictures are decoded in a process of their own, which may crash or hang without harm: all; all
    but JPEGs of the ordinary kinds; none."""

    time_limit_s: Annotated[float, Bounds(above=0)] = 20.0
    """Time for one picture in that process; it is killed afterwards."""

    memory_limit_mib: Annotated[int, Bounds(least=1)] = 2048
    """Memory that that process may use beyond what it starts with; on Linux."""

    def __post_init__(self) -> None:
        """Raises ConfigError for values that cannot work."""
        check_bounds(self)
        best = 9 if self.encode_format == "png" else 100
        if not 0 <= self.encode_quality <= best:
            what = "the compression level" if self.encode_format == "png" else "the quality"
            raise ConfigError(f"encode_quality is {what} of {self.encode_format}, 0 to {best}: {self.encode_quality}")
        if self.max_aspect_ratio != 0 and self.max_aspect_ratio < 1:
            raise ConfigError(f"max_aspect_ratio must be 0 (no limit) or at least 1, got {self.max_aspect_ratio}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture fit to store, and the facts about it. Sizes are in pixels, upright."""

    encoded: bytes
    extension: str
    """Of the stored bytes, without a dot: jpg, png, webp; with store_original also avif, gif, tif, bmp, jp2."""
    width: int
    height: int
    original_width: int
    original_height: int
    original_format: str
    """JPEG, PNG, WEBP, AVIF, GIF, TIFF, BMP or JPEG2000."""
    original_bytes: int
    exif: str | None
    """JSON object of the tags that the config keeps; None if there are none."""
    sha256: str
    """Of the body, 64 hex digits."""
    phash: int
    """64-bit perceptual hash of the upright picture; see `facts.py`."""
    thumbnail: bytes
    """288 bytes of the upright picture, see `pipeline.pictures.thumbnail`; tells pictures with near hashes apart."""
    pdq: Pdq | None = None
    """Of the decoded picture as it lies in the body; None unless it was asked for, and of a side below 5 pixels."""

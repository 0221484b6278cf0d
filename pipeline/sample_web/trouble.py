"""What can go wrong with a picture, or look odd and yet be right: forms of bytes and manners of serving.

Each row of TROUBLES says how many such links there are among 6,000, how the picture's bytes are made
(`form`, see `encode.py`), how the server behaves (`manner`, see `server.py`) and what must become of
the link after matching (`fate`: stage/reason, or None where the picture arrives).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HUGE_BYTES", "TROUBLES", "Trouble"]

HUGE_BYTES = 9 * 2**20
"""Length of bodies that are too large for the sample configuration's limit of 4 MiB."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """One kind of trouble; see the module's docstring."""

    name: str
    count: int
    fate: str | None = None
    form: str = "jpeg"
    manner: str = "send"
    status: int = 200
    suffix: str = "jpg"
    content_type: str = "image/jpeg"
    headers: tuple[tuple[str, str], ...] = ()
    target: str = ""
    """Where a redirect leads; empty: to the picture itself, under another path."""
    at_least: int = 1
    """How many there are in a small web."""


TROUBLES: tuple[Trouble, ...] = (
    # Answers without a picture.
    Trouble(name="not_found", count=36, fate="fetch/http_404", status=404, form="html", content_type="text/html"),
    Trouble(name="gone", count=10, fate="fetch/http_410", status=410, form="html", content_type="text/html"),
    Trouble(name="forbidden", count=4, fate="fetch/http_403", status=403, form="html", content_type="text/html"),
    Trouble(name="always_500", count=2, fate="fetch/http_500", status=500, form="html", content_type="text/html"),
    Trouble(name="empty_body", count=4, fate="fetch/empty_body", form="empty"),
    # Servers that stumble.
    Trouble(name="recovers_from_500", count=10, manner="recover", status=500),
    Trouble(name="recovers_from_503", count=4, manner="recover", status=503),
    Trouble(name="busy", count=2, manner="recover", status=429, headers=(("Retry-After", "1"),)),
    Trouble(name="slow", count=6, manner="slow"),
    Trouble(name="trickles", count=3, fate="fetch/too_slow", manner="trickle"),
    Trouble(name="stalls", count=3, fate="fetch/too_slow", manner="stall"),
    Trouble(name="drips", count=2, fate="fetch/timeout", manner="drip"),
    Trouble(name="ends_early", count=5, fate="fetch/transfer", manner="short"),
    Trouble(name="chunks_end_early", count=3, fate="fetch/transfer", manner="short_chunked"),
    Trouble(name="chunked", count=6, manner="chunked"),
    Trouble(name="gzip_encoded", count=4, form="gzipped", headers=(("Content-Encoding", "gzip"),)),
    # Sizes.
    Trouble(name="huge", count=3, fate="fetch/too_large", manner="huge"),
    Trouble(name="huge_chunked", count=2, fate="fetch/too_large", manner="huge_chunked"),
    Trouble(
        name="gzip_bomb",
        count=2,
        fate="fetch/too_large",
        form="gzip_bomb",
        headers=(("Content-Encoding", "gzip"),),
    ),
    Trouble(
        name="pixel_bomb",
        count=5,
        fate="check_image/too_many_pixels",
        form="pixel_bomb",
        suffix="png",
        content_type="image/png",
    ),
    Trouble(
        name="tracking_pixel",
        count=20,
        fate="check_image/too_small",
        form="pixel_gif",
        suffix="gif",
        content_type="image/gif",
    ),
    Trouble(
        name="tiny_icon",
        count=10,
        fate="check_image/too_small",
        form="icon",
        suffix="png",
        content_type="image/png",
    ),
    Trouble(name="banner", count=10, fate="check_image/aspect_ratio", form="banner"),
    Trouble(name="skyscraper", count=4, fate="check_image/aspect_ratio", form="skyscraper"),
    # Redirects.
    Trouble(name="moved_permanently", count=8, manner="redirect", status=301),
    Trouble(name="found_elsewhere", count=8, manner="redirect", status=302),
    Trouble(name="temporary_redirect", count=4, manner="redirect", status=307),
    Trouble(name="redirect_chain", count=3, manner="redirect_chain", status=302),
    Trouble(name="redirect_loop", count=4, fate="fetch/too_many_redirects", manner="redirect_loop", status=302),
    Trouble(
        name="redirect_to_private",
        count=3,
        fate="fetch/address_not_allowed",
        manner="redirect",
        status=302,
        target="http://10.0.0.1/picture.jpg",
    ),
    Trouble(
        name="redirect_to_metadata",
        count=2,
        fate="fetch/address_not_allowed",
        manner="redirect",
        status=302,
        target="http://169.254.169.254/latest/meta-data/",
    ),
    Trouble(
        name="redirect_to_other_port",
        count=2,
        fate="fetch/address_not_allowed",
        manner="redirect",
        status=302,
        target="http://127.0.0.1:9/picture.jpg",
    ),
    Trouble(
        name="redirect_to_decimal_host",
        count=1,
        fate="fetch/address_not_allowed",
        manner="redirect",
        status=302,
        target="http://167772161/picture.jpg",
    ),
    Trouble(
        name="redirect_to_file",
        count=2,
        fate="fetch/scheme_not_allowed",
        manner="redirect",
        status=302,
        target="file:///etc/hostname",
    ),
    # Bytes that are no picture, or not a whole one.
    Trouble(name="html_as_image", count=6, fate="check_image/not_an_image", form="html"),
    Trouble(
        name="html_page",
        count=4,
        fate="check_image/not_an_image",
        form="html",
        content_type="text/html; charset=utf-8",
    ),
    Trouble(name="text_as_image", count=3, fate="check_image/not_an_image", form="text"),
    Trouble(
        name="svg",
        count=8,
        fate="check_image/unsupported_format",
        form="svg",
        suffix="svg",
        content_type="image/svg+xml",
    ),
    Trouble(name="truncated_jpeg", count=6, fate="check_image/broken_image", form="truncated_jpeg"),
    Trouble(
        name="truncated_png",
        count=3,
        fate="check_image/broken_image",
        form="truncated_png",
        suffix="png",
        content_type="image/png",
    ),
    Trouble(name="corrupt_jpeg", count=6, fate="check_image/broken_image", form="corrupt_jpeg"),
    Trouble(
        name="corrupt_png",
        count=3,
        fate="check_image/broken_image",
        form="corrupt_png",
        suffix="png",
        content_type="image/png",
    ),
    # Opt-outs in the picture's own answer.
    Trouble(name="noai", count=6, fate="fetch/x_robots_tag", headers=(("X-Robots-Tag", "noai"),)),
    Trouble(name="noimageai", count=4, fate="fetch/x_robots_tag", headers=(("X-Robots-Tag", "noindex, noimageai"),)),
    Trouble(name="noai_for_another", count=2, headers=(("X-Robots-Tag", "otherbot: noai"),)),
    # Rarer forms that must arrive whole.
    Trouble(name="progressive", count=24, form="progressive"),
    Trouble(name="exif_rotated", count=12, form="exif_rotated"),
    Trouble(name="cmyk", count=6, form="cmyk"),
    Trouble(name="png", count=30, form="png", suffix="png", content_type="image/png"),
    Trouble(name="png16", count=6, form="png16", suffix="png", content_type="image/png"),
    Trouble(name="palette", count=10, form="palette", suffix="png", content_type="image/png"),
    Trouble(name="alpha", count=10, form="alpha", suffix="png", content_type="image/png"),
    Trouble(name="gif", count=8, form="gif", suffix="gif", content_type="image/gif"),
    Trouble(name="animated_gif", count=6, form="animated_gif", suffix="gif", content_type="image/gif"),
    Trouble(name="webp", count=24, form="webp", suffix="webp", content_type="image/webp"),
    Trouble(name="avif", count=8, form="avif", suffix="avif", content_type="image/avif"),
    Trouble(name="bmp", count=3, form="bmp", suffix="bmp", content_type="image/bmp"),
    Trouble(name="tiff", count=3, form="tiff", suffix="tif", content_type="image/tiff"),
    Trouble(name="wrong_type", count=6, form="png", content_type="application/octet-stream"),
)
"""Every kind, in the order in which their links are made."""

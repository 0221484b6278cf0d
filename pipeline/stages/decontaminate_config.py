"""The options of `decontaminate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds

__all__ = ["DecontaminateConfig"]


@dataclass(frozen=True, kw_only=True)
class DecontaminateConfig:
    """The evaluation sets, and how alike is too alike. Off while nothing is named. Tars and text files may also be URLs
    of objects in a bucket, or globs of them."""

    images: tuple[str, ...] = ()
    """Evaluation pictures: folders (with all below them, tars included) and WebDataset tars; paths or globs."""
    hashes: tuple[str, ...] = ()
    """Text files with one hash a line: 64 hex digits for a SHA-256 of a file, 16 for a perceptual hash."""
    max_distance: Annotated[int, Bounds(least=0, most=16)] | None = 4
    """Bits in which perceptual hashes may differ; null compares files by SHA-256 only."""
    captions: tuple[str, ...] = ()
    """Text files of evaluation captions, one a line; a pair with an equal caption, after normalisation, goes."""
    tar_captions: bool = False
    """Whether the captions (.txt members, one a line) in the tars of `images` count as well."""
    class_names: tuple[str, ...] = ()
    """Text files of class names, one a line; with `templates` they make prompts that no caption may equal."""
    templates: tuple[str, ...] = ()
    """Text files of prompt templates with {c} for the class, one a line."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if bool(self.class_names) != bool(self.templates):
            raise ConfigError("class_names and templates make prompts only together")

    @property
    def active(self) -> bool:
        """Whether an evaluation set is named."""
        return bool(self.images or self.hashes or self.captions or self.class_names)

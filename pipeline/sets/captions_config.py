"""The options of `captions`, in a subset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds

__all__ = ["CaptionsConfig"]


@dataclass(frozen=True, kw_only=True)
class CaptionsConfig:
    """Which of a picture's texts becomes its caption: what the page said, or what models wrote (CapFilt, arXiv
    2201.12086, section 3.3)."""

    files: tuple[str, ...]
    """What `openwit caption` or `openwit score-captions` wrote: directories of Parquet, or Parquet files with `uid` and
    `captions` (list of strings); to be judged also `scores` (list of numbers) and `alt_text_score`."""
    choose: Literal["best", "web", "synthetic"] = "best"
    """best: the text of highest score, whoever wrote it. web: the page's text where it fits, else the best caption.
    synthetic: the best caption where one fits, else the page's text."""
    min_score: Annotated[float, Bounds()] | None = None
    """A text with a lower score, or none, does not fit; a sample without any that does is left out and counted. null
    takes every text to fit."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.files:
            raise ConfigError("--captions: name what `openwit caption` or `openwit score-captions` wrote")

"""The options of `subset`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds
from pipeline.sets.captions_config import CaptionsConfig

__all__ = ["SubsetConfig"]


@dataclass(frozen=True, kw_only=True)
class SubsetConfig:
    """Which samples, and how they are laid out. At least one of `where`, `uids`, `limit_per_query`, `blur` and
    `captions` must be given."""

    where: str | None = None
    """SQL condition over the columns of `samples` (see `pipeline sql`), joined ones included."""
    scores: tuple[str, ...] = ()
    """Parquet files by uid, as `join` takes them, whose columns the condition may name. They are joined to the subset,
    and not to the set that it is taken from."""
    uids: str | None = None
    """A file of uids: text with 32 hex digits a line, or Parquet with a column uid (16 bytes or hex)."""
    limit_per_query: Annotated[int, Bounds(least=1)] | None = None
    """The most samples that a query may choose; it keeps those of smallest keyed hash, as balancing does."""
    blur: str | None = None
    """A column of boxes, five numbers each (x, y, width and height in shares of the picture, score), such as
    `face_boxes` of `openwit faces`: what lies in them is made unrecognisable, and the picture encoded anew as the set's
    config says."""
    captions: CaptionsConfig | None = None
    """Captions that models wrote, one of which may take the place of a sample's own; null leaves all as they are."""
    allow_files: bool = False
    """Let the condition read files that are not the data set's; `--allow-files` on the command line."""
    samples_per_shard: Annotated[int, Bounds(least=1)] | None = None
    """Samples in a tar, at most; default: as in the source's config."""
    engine: Literal["inline", "ray"] = "inline"
    """Where the copying runs: in this process, or on Ray as a run does."""
    single_driver: bool = False
    """Of a subset in a bucket whose store cannot refuse a second one: you see to it that one runs at a time."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if (self.where, self.uids, self.limit_per_query, self.blur, self.captions) == (None,) * 5:
            raise ConfigError("say which samples: --where, --uids or --limit-per-query")

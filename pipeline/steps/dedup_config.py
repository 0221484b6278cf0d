"""The options of step dedup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs.load import ConfigError

__all__ = ["DedupConfig"]


@dataclass(frozen=True, kw_only=True)
class DedupConfig:
    """What counts as the same pair."""

    by: Literal["pair", "url"] = "url"
    """url: one pair a picture, as in CLIP. pair: (canonical URL, caption), so that a picture keeps all of its
    captions."""
    keep: Literal["hash", "best"] = "hash"
    """Which caption of a picture stays, with by url. hash: the smallest keyed hash. best: the one that is most
    surely in the target language (p_en), then by hash."""
    max_urls_per_caption: int | None = None
    """Captions that stand on more different pictures (canonical URLs) than this are boilerplate and go; null
    for no limit. COYO-700M uses 10."""
    memory_mb: int = 1024
    """Memory of one dedup task before it spills to disk, in MB."""

    def __post_init__(self) -> None:
        if self.max_urls_per_caption is not None and self.max_urls_per_caption < 1:
            raise ConfigError(f"max_urls_per_caption must be at least 1, not {self.max_urls_per_caption}")
        if self.memory_mb < 64:
            raise ConfigError(f"memory_mb must be at least 64, not {self.memory_mb}")

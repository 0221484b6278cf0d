"""The options of step dedup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import check_bounds

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
    max_urls_per_caption: Annotated[int, Bounds(least=1)] | None = None
    """Captions that stand on more different pictures (canonical URLs) than this are boilerplate and go; null
    for no limit. COYO-700M uses 10."""
    max_captions_per_url: Annotated[int, Bounds(least=1)] | None = None
    """Pictures (canonical URLs) with more different captions than this go, with all of them; null for no limit. ALIGN
    uses 1,000."""
    frequent_tokens: Annotated[int, Bounds(least=1)] | None = None
    """Captions go that hold a token which is not among so many of the set's most frequent: words, as the rule `words`
    of matching has them, and bigrams, counted together over all pairs; null for no limit. ALIGN uses 100 million."""
    memory_mb: Annotated[int, Bounds(least=64)] = 1024
    """Memory of one dedup task before it spills to disk, in MB."""

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def limits_captions(self) -> bool:
        """Whether captions go by what is counted over the whole set."""
        limits = (self.max_urls_per_caption, self.max_captions_per_url, self.frequent_tokens)
        return any(limit is not None for limit in limits)

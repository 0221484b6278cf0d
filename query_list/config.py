"""The options of a build: one section a source, and what says nothing.

What this imports computes nothing, so that `--help` and a mistake in a config load no heavy library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds
from pipeline.engine import EngineConfig

__all__ = [
    "BUILD_VERSION",
    "BigramsConfig",
    "BuildConfig",
    "DumpConfig",
    "EmptyQueriesConfig",
    "TitlesConfig",
    "UnigramsConfig",
    "WordnetConfig",
]

BUILD_VERSION = 3
"""Of every task of a build; grows with every change that alters a list built from the same inputs."""


@dataclass(frozen=True, kw_only=True)
class DumpConfig:
    """A MediaWiki pages-articles dump."""

    files: tuple[str, ...] = ()
    """XML files (.bz2, .gz or plain; parts or one file; multistream or not): paths, globs or fsspec URLs."""
    split_mb: Annotated[int, Bounds(least=1)] = 256
    """A bz2 file is cut into ranges of about this many MB, one task each, where its streams allow it."""
    disambiguation_templates: tuple[str, ...] = (
        "disambiguation",
        "disambig",
        "disamb",
        "dab",
        "disambiguation cleanup",
        "hndis",
        "human name disambiguation",
        "geodis",
        "place name disambiguation",
        "mil-unit-dis",
        "letter-number combination disambiguation",
        "numberdis",
        "schooldis",
        "school disambiguation",
        "hospital disambiguation",
        "station disambiguation",
        "roaddis",
        "road disambiguation",
        "callsigndis",
        "call sign disambiguation",
        "airport disambiguation",
        "mathdab",
        "species latin name disambiguation",
    )
    """Lower-case names of the templates that mark a page as a disambiguation; other wikis use other names."""
    disambiguation_suffix: str = "(disambiguation)"
    """Titles that end with this are disambiguations as well; empty for none."""
    title_words: tuple[str, ...] = ("DISPLAYTITLE",)
    """Magic words with which a page says how its title is written; wikis have names of their own beside this one."""
    lowercase_templates: tuple[str, ...] = ("lowercase title", "lowercase", "lowercasetitle", "lowercase first")
    """Lower-case names of the templates that say that a page's name begins with a small letter."""
    max_entries_in_memory: Annotated[int, Bounds(least=1)] = 2_000_000
    """Distinct words, and as many pairs, that a task counts in memory (150 bytes each) before it spills."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class UnigramsConfig:
    """Single words of the corpus, the most frequent first."""

    min_count: Annotated[int, Bounds(least=0)] = 100
    """Fewest occurrences in the corpus (CLIP, section 2.2)."""
    budget: Annotated[int, Bounds(least=0)] = 251_465
    """Most queries from this source; the default is the published size."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class BigramsConfig:
    """Pairs of neighbouring words, both among the unigrams, the highest PMI first."""

    min_count: Annotated[int, Bounds(least=0)] = 100
    """Fewest occurrences of the pair; PMI favours the rare, so this bounds how rare."""
    min_pmi: Annotated[float, Bounds()] = 0.0
    """Lowest PMI (log2); a floor, not the selection."""
    budget: Annotated[int, Bounds(least=0)] = 100_646
    """Most queries from this source; the default is the published size."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class TitlesConfig:
    """Article names, the most viewed first."""

    pageviews: tuple[str, ...] = ()
    """Wikimedia page-view files (hourly or daily, .gz or .bz2): paths, globs or fsspec URLs."""
    projects: tuple[str, ...] = ("en", "en.m", "en.wikipedia", "en.wikipedia.org")
    """Project codes of the lines that count: desktop and mobile, as hourly and as daily files write them."""
    min_views: Annotated[int, Bounds(least=0)] = 1
    """Fewest views, over all page-view files and all names that redirect to the article."""
    strip_qualifier: bool = True
    """`Avatar (2009 film)` becomes `Avatar`: no caption holds the bracket. Views of equal names add up."""
    budget: Annotated[int, Bounds(least=0)] = 61_235
    """Most queries from this source; the default is the published size."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class WordnetConfig:
    """Lemmas of WordNet, those with the most senses in tagged text first."""

    index: tuple[str, ...] = ()
    """index.noun, index.verb, index.adj, index.adv (may be .gz): paths, globs or fsspec URLs."""
    data: tuple[str, ...] = ()
    """data.noun, ...; needed only for `roots`."""
    roots: tuple[str, ...] = ()
    """Only what lies under these synsets, written LEMMA.POS.SENSE (disease.n.1, body_part.n.1); default: all."""
    senses: Literal["any", "first"] = "any"
    """With `roots`: any: a lemma with some sense under a root. first: one whose most used sense lies there, so that
    `heart` stays and `center`, whose fifth sense is a body part, goes."""
    budget: Annotated[int, Bounds(least=0)] = 86_654
    """Most queries from this source; the default is the published size."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class EmptyQueriesConfig:
    """Which queries say nothing about a picture. `lists` of your own are never cut, `lint` names them."""

    rule: Literal["drop", "keep"] = "drop"
    """drop: the sources give others in their place. keep: as in the published recipe."""
    function_words: Literal["en", "de", "none"] = "en"
    """The language whose articles, prepositions and the like count."""
    max_share: Annotated[float, Bounds(least=0, most=1)] = 2e-3
    """A word that is this share of all words of the corpus counts as well, in any language ..."""
    min_corpus_words: Annotated[int, Bounds(least=0)] = 1_000_000
    """... if the corpus has so many words; in a smaller one a share says little."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """A query list: where its sources lie, and how much each may give. Sources without files give nothing."""

    output: str
    """The Parquet file to write. Intermediate files go to a directory beside it, OUTPUT.work."""
    lists: tuple[str, ...] = ()
    """Your own lists (.txt, .csv, .parquet); they come first and are never cut."""
    dump: DumpConfig = field(default_factory=DumpConfig)
    unigrams: UnigramsConfig | None = field(default_factory=UnigramsConfig)
    bigrams: BigramsConfig | None = field(default_factory=BigramsConfig)
    titles: TitlesConfig | None = field(default_factory=TitlesConfig)
    wordnet: WordnetConfig | None = field(default_factory=WordnetConfig)
    empty_queries: EmptyQueriesConfig = field(default_factory=EmptyQueriesConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if not self.output.endswith(".parquet"):
            raise ConfigError(f"output: {self.output!r} must end with .parquet")
        if self.titles is not None and self.titles.pageviews and not self.dump.files:
            raise ConfigError("titles.pageviews needs dump.files: the dump says which titles are articles")

"""The config of a run: every stage's and every step's, and what they share.

What it imports says what may be asked for and computes nothing, so that `--help` and a mistake in a config are told
before a heavy library is loaded: the options of X stand in `X_config.py`, or in `config.py` of X's package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds
from pipeline.consent.config import ConsentConfig, Signal
from pipeline.consent.earlier import moved
from pipeline.engine import EngineConfig
from pipeline.matching.config import MatchConfig
from pipeline.records.ledger_config import LedgerConfig
from pipeline.stages.balance.config import BalanceConfig
from pipeline.stages.balance.modes import mode_of
from pipeline.stages.check_image.config import ImageConfig
from pipeline.stages.clean.config import CleanConfig
from pipeline.stages.decontaminate_config import DecontaminateConfig
from pipeline.stages.extract import ExtractConfig, Format, stores_pictures
from pipeline.stages.fetch.config import FetchConfig
from pipeline.stages.image_filters_config import FiltersConfig
from pipeline.stages.language.config import LanguageConfig
from pipeline.stages.privacy.config import PrivacyConfig
from pipeline.steps.dedup_config import DedupConfig
from pipeline.steps.judges.image_dedup_config import ImageDedupConfig
from pipeline.steps.shards_config import ShardsConfig
from pipeline.steps.texts_config import TextsConfig

__all__ = ["WitConfig"]

_UNREAD_BY_IMG2DATASET: tuple[Signal, ...] = (
    "tdm_reservation",
    "tdmrep_json",
    "content_usage",
    "content_signal",
)


@dataclass(frozen=True, kw_only=True)
class WitConfig:
    """Everything that a data set depends on."""

    sources: tuple[str, ...]
    """Crawl archives or tables: paths, globs, http(s) or fsspec URLs, or lists of them (*.paths.gz, as Common Crawl
    publishes with each crawl)."""
    max_sources: Annotated[int, Bounds(least=1)] | None = None
    """At most so many files of each of `sources`, drawn by keyed hash: a larger number, or another source, adds files
    and keeps the others. null takes all."""
    max_rows: Annotated[int, Bounds(least=1)] | None = None
    """At most so many rows of each table and records of each archive, from its start, for a pilot: what comes after
    them is not read. null reads all."""
    max_bad_sources: Annotated[float, Bounds(least=0, most=1)] = 0.01
    """The share of the sources that may be unreadable: each is counted with its name, and `run --retry-failed` asks
    for it again. More stop the run, and so do the first three, if no source could be read before them."""
    source_format: Format = "auto"
    """What the sources are."""
    queries: str
    """The query list: a Parquet file made by `openwit queries`, or your own .txt, .csv or .parquet; a path,
    or the URL of an object in a bucket."""
    output: str
    """The directory of the data set."""
    seed: Annotated[int, Bounds()] = 0
    """Key of every random draw."""
    sample_web: str | None = None
    """Directory of the built-in sample web, to be served on this machine while fetching; null for the real web."""
    extract: ExtractConfig = field(default_factory=ExtractConfig)
    clean: CleanConfig = field(default_factory=CleanConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    texts: TextsConfig = field(default_factory=TextsConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    consent: ConsentConfig = field(default_factory=ConsentConfig)
    fetch: FetchConfig
    image: ImageConfig = field(default_factory=ImageConfig)
    filters: FiltersConfig = field(default_factory=FiltersConfig)
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    image_dedup: ImageDedupConfig = field(default_factory=ImageDedupConfig)
    shards: ShardsConfig = field(default_factory=ShardsConfig)
    ledger: LedgerConfig = field(default_factory=LedgerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    @staticmethod
    def of_earlier(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
        """A config as an earlier version wrote it, as this one reads it (`load`)."""
        return moved(mapping)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.fetch.store is not None and stores_pictures(self.source_format):
            raise ConfigError("fetch.store: pictures that come with their source stay in the output; leave it null")
        if self.fetch.engine == "img2dataset" and (self.privacy.hash_lists or self.privacy.pdq_lists):
            raise ConfigError(
                "privacy: engine img2dataset stores a body before it can be held against hash_lists and pdq_lists; use "
                "engine own"
            )
        if self.texts.keep_unmatched and not mode_of(self.balance.mode).whole_set:
            raise ConfigError(
                "texts.keep_unmatched: no query selects a pair that contains none; set --balance.mode none too"
            )
        if self.fetch.engine == "img2dataset":
            unread = [f"consent.{signal}" for signal in _UNREAD_BY_IMG2DATASET if self.consent.honours(signal)]
            if unread:
                raise ConfigError(
                    f"fetch.engine img2dataset cannot honour {', '.join(unread)}: it looks at nothing of the kind; "
                    "set them to false to do without, or use engine own"
                )
        if not self.sources:
            raise ConfigError("sources: name at least one crawl archive or table")

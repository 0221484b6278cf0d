"""Openwit from Python: all that is meant to be imported. docs/python.md shows its use.

    from openwit import Pipeline

    Pipeline("config.yaml").run()

A name is loaded from its room when it is first asked for: to import this package costs nothing.
"""

import typing as _typing
from importlib import import_module as _import_module

if _typing.TYPE_CHECKING:
    from configs.load import ConfigError as ConfigError
    from pipeline.api import Pipeline as Pipeline
    from pipeline.config import WitConfig as WitConfig
    from pipeline.consent.config import ConsentConfig as ConsentConfig
    from pipeline.engine import EngineConfig as EngineConfig
    from pipeline.errors import PipelineError as PipelineError
    from pipeline.matching.config import MatchConfig as MatchConfig
    from pipeline.records.ledger_config import LedgerConfig as LedgerConfig
    from pipeline.records.outcome import Outcome as Outcome
    from pipeline.records.outcome import reject as reject
    from pipeline.runs.run import RunResult as RunResult
    from pipeline.sets.read_shards import read_shards as read_shards
    from pipeline.stages.balance.config import BalanceConfig as BalanceConfig
    from pipeline.stages.check_image.config import ImageConfig as ImageConfig
    from pipeline.stages.clean.config import CleanConfig as CleanConfig
    from pipeline.stages.decontaminate_config import DecontaminateConfig as DecontaminateConfig
    from pipeline.stages.extract.config import ExtractConfig as ExtractConfig
    from pipeline.stages.fetch.config import FetchConfig as FetchConfig
    from pipeline.stages.image_filters_config import FiltersConfig as FiltersConfig
    from pipeline.stages.image_filters_config import ScoreFilter as ScoreFilter
    from pipeline.stages.language.config import LanguageConfig as LanguageConfig
    from pipeline.stages.privacy.config import PrivacyConfig as PrivacyConfig
    from pipeline.stages.stage import Stage as Stage
    from pipeline.steps.dedup_config import DedupConfig as DedupConfig
    from pipeline.steps.judges.image_dedup_config import ImageDedupConfig as ImageDedupConfig
    from pipeline.steps.shards_config import ShardsConfig as ShardsConfig
    from pipeline.steps.texts_config import TextsConfig as TextsConfig
    from training.clip import Clip as Clip
    from training.clip import load as load

_ROOMS = {
    "Pipeline": "pipeline.api",
    "RunResult": "pipeline.runs.run",
    "Stage": "pipeline.stages.stage",
    "Outcome": "pipeline.records.outcome",
    "reject": "pipeline.records.outcome",
    "read_shards": "pipeline.sets.read_shards",
    "ConfigError": "configs.load",
    "PipelineError": "pipeline.errors",
    "WitConfig": "pipeline.config",
    "ExtractConfig": "pipeline.stages.extract.config",
    "CleanConfig": "pipeline.stages.clean.config",
    "LanguageConfig": "pipeline.stages.language.config",
    "MatchConfig": "pipeline.matching.config",
    "PrivacyConfig": "pipeline.stages.privacy.config",
    "TextsConfig": "pipeline.steps.texts_config",
    "DedupConfig": "pipeline.steps.dedup_config",
    "BalanceConfig": "pipeline.stages.balance.config",
    "ConsentConfig": "pipeline.consent.config",
    "FetchConfig": "pipeline.stages.fetch.config",
    "ImageConfig": "pipeline.stages.check_image.config",
    "FiltersConfig": "pipeline.stages.image_filters_config",
    "ScoreFilter": "pipeline.stages.image_filters_config",
    "DecontaminateConfig": "pipeline.stages.decontaminate_config",
    "ImageDedupConfig": "pipeline.steps.judges.image_dedup_config",
    "ShardsConfig": "pipeline.steps.shards_config",
    "LedgerConfig": "pipeline.records.ledger_config",
    "EngineConfig": "pipeline.engine",
    "load": "training.clip",
    "Clip": "training.clip",
}
"""Name -> the module that has it."""

__all__ = [
    "BalanceConfig",
    "CleanConfig",
    "Clip",
    "ConfigError",
    "ConsentConfig",
    "DecontaminateConfig",
    "DedupConfig",
    "EngineConfig",
    "ExtractConfig",
    "FetchConfig",
    "FiltersConfig",
    "ImageConfig",
    "ImageDedupConfig",
    "LanguageConfig",
    "LedgerConfig",
    "MatchConfig",
    "Outcome",
    "Pipeline",
    "PipelineError",
    "PrivacyConfig",
    "RunResult",
    "ScoreFilter",
    "ShardsConfig",
    "Stage",
    "TextsConfig",
    "WitConfig",
    "load",
    "read_shards",
    "reject",
]


def __getattr__(name: str) -> _typing.Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'openwit' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(_import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)

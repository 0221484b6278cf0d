"""What a run and its data left on the disk, as a card takes it: what is not there is None, never made up.

RUN/config.yaml, log.jsonl, metrics.json, limits/limits.json, run.json
DATA/ledger.json, config.yaml, shards/manifest.json              where data.path is at hand
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from configs.load import ConfigError, load
from pipeline.errors import PipelineError, one_line
from pipeline.storage.place import Place, place_of
from training.config import TrainConfig
from training.errors import CheckpointError

__all__ = ["DataFacts", "RunFacts", "facts_of_run"]


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """One data set."""

    path: str
    ledger: list[Mapping[str, Any]] | None
    config: Mapping[str, Any] | None
    manifest: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run."""

    root: Place
    config: TrainConfig
    config_yaml: str
    log: list[Mapping[str, Any]]
    metrics: Mapping[str, Any] | None
    limits: Mapping[str, Any] | None
    data: list[DataFacts]


def facts_of_run(run: str | Place) -> RunFacts:
    """Raises CheckpointError where there is no run."""
    root = place_of(run)
    try:
        text = (root / "config.yaml").read_text(encoding="utf-8")
        config = load(TrainConfig, root / "config.yaml")
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise CheckpointError(f"{root}: no run there ({one_line(error, 160)}); give the directory of one") from error
    return RunFacts(
        root=root,
        config=config,
        config_yaml=text,
        log=_log(root / "log.jsonl"),
        metrics=_json(root / "metrics.json"),
        limits=_json(root / "limits" / "limits.json"),
        data=[_data(path) for path in config.data.paths],
    )


def _data(path: str) -> DataFacts:
    root = place_of(path)
    if not (root / "ledger.json").is_file() and root.name == "shards":
        root = root.parent
    ledger = _json(root / "ledger.json")
    return DataFacts(
        path=path,
        ledger=None if ledger is None else ledger.get("lines"),
        config=_yaml(root / "config.yaml"),
        manifest=_json(root / "shards" / "manifest.json"),
    )


def _json(path: Place) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, PipelineError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _yaml(path: Place) -> dict[str, Any] | None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, PipelineError, ValueError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None


def _log(path: Place) -> list[Mapping[str, Any]]:
    """Whole lines; one that a kill cut short is left out."""
    lines: list[Mapping[str, Any]] = []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, PipelineError, ValueError):
        return lines
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("samples_seen"), int):
            lines.append(found)
    return lines

"""What can be imported from `openwit`, and that asking for it is cheap."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import get_type_hints

import pytest

import openwit
from pipeline.config import WitConfig

NAMES = [
    *("BalanceConfig", "CleanConfig", "Clip", "ConfigError", "ConsentConfig", "DecontaminateConfig", "DedupConfig"),
    "EngineConfig",
    *("ExtractConfig", "FetchConfig", "FiltersConfig", "ImageConfig", "ImageDedupConfig", "LanguageConfig"),
    *("LedgerConfig", "MatchConfig", "Outcome", "Pipeline", "PipelineError", "PrivacyConfig"),
    *("RunResult", "ScoreFilter"),
    *("ShardsConfig", "Stage", "TextsConfig", "WitConfig", "load", "read_shards", "reject"),
]


def test_public_names_are_these() -> None:
    assert openwit.__all__ == NAMES
    assert dir(openwit) == NAMES
    assert sorted(openwit._ROOMS) == NAMES
    for name in NAMES:
        assert getattr(openwit, name).__name__ == name


def test_nothing_else_can_be_imported() -> None:
    # What another test of this process has imported stands there as well.
    assert not [name for name in vars(openwit) if not name.startswith("_") and name != "command"]
    for name in ("run", "Ledger", "pipeline", "typing", "annotations", "configs"):
        with pytest.raises(ImportError):
            exec(f"from openwit import {name}")
        with pytest.raises(ImportError):
            __import__(f"openwit.{name}")
    with pytest.raises(AttributeError, match="has no attribute 'Pipelin'; it has BalanceConfig"):
        _ = openwit.Pipelin


def test_every_section_of_a_config_is_there() -> None:
    sections = {kind.__name__ for kind in get_type_hints(WitConfig).values() if dataclasses.is_dataclass(kind)}
    assert sections <= set(NAMES)


def test_import_loads_nothing_to_compute_with() -> None:
    heavy = ("numpy", "pyarrow", "ray", "torch", "duckdb", "pipeline")
    code = f"import sys, openwit; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

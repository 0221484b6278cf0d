"""An experiment's configs, resolved: one for each data set, one for each training.

shards + arm.shards ------------------> WitConfig of OUT/sets/ARM
train + arm.train + data set + seed --> TrainConfig of OUT/runs/ARM/seed-0-FINGERPRINT
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.load import ConfigError, fingerprint, from_mapping, read_mapping
from configs.presets import Kind, no_preset, preset
from training.config import TrainConfig
from training.errors import DataError
from training.experiment.config import ExperimentConfig

_RESERVE = 0.97
"""Of the yield of the set whose size is taken: another draw may lose a little more."""

__all__ = ["base_of", "data_arm", "samples_of", "set_directory", "set_options", "train_config"]


def base_of(kind: Kind, word: str) -> dict[str, Any]:
    """The config that `word` names, as a mapping. Raises ConfigError."""
    path = Path(word) if Path(word).suffix in (".yaml", ".yml") else preset(kind, word)
    if path is None:
        raise ConfigError(f"{kind}: {word}: no config here; {no_preset(kind, word)}")
    try:
        return read_mapping(path)
    except ConfigError as error:
        raise ConfigError(f"{kind}: {error}") from error


def data_arm(config: ExperimentConfig, name: str) -> str:
    """The arm whose data set `name` trains on."""
    return config.arms[name].data_of or name


def set_directory(config: ExperimentConfig, name: str) -> Path:
    """Of the data set of the arm `name`, which has one of its own."""
    return Path(config.output) / "sets" / name


def set_options(config: ExperimentConfig, name: str) -> dict[str, Any]:
    """The shards config of the arm `name` as a mapping, when the set whose size it takes is there. Raises ConfigError,
    DataError."""
    options = _merged(base_of("shards", config.shards), config.arms[name].shards)
    if (model := config.arms[name].same_size_as) is not None:
        size, planned = samples_of(set_directory(config, model)), _planned(set_directory(config, model))
        # More are asked for, since some do not arrive; what is too much is cut back.
        expected = min(1.0, round(_RESERVE * size / max(planned, 1), 4))
        balance = {"mode": "none", "baseline_pairs": size, "expected_yield": expected}
        options = _merged(options, {"balance": balance})
    # All arms keep their pictures in one place, so that each is asked for once.
    own = {"output": str(set_directory(config, name)), "fetch": {"store": str(Path(config.output) / "pictures")}}
    return _merged(options, own)


def train_config(config: ExperimentConfig, name: str, seed: int) -> TrainConfig:
    """Of one training, when its data set is there. Raises ConfigError, DataError."""
    data = set_directory(config, data_arm(config, name))
    options = _merged(base_of("train", config.train), config.arms[name].train)
    options = _merged(options, {"data": {"path": str(data)}, "seed": seed, "output": ""})
    if config.read_out.evaluation is not None:
        options = _merged(options, {"evaluation": {"path": config.read_out.evaluation}})
    read_out = [config.read_out.classes, config.read_out.retrieval]
    key = fingerprint(options, read_out, _manifest(data)["fingerprint"])
    run = Path(config.output) / "runs" / name / f"seed-{seed}-{key[:8]}"
    return from_mapping(TrainConfig, {**options, "output": str(run)}, where=f"{config.train} with arm {name}")


def samples_of(data: Path) -> int:
    """Samples of a published set. Raises DataError."""
    return sum(int(shard["samples"]) for shard in _manifest(data)["shards"])


def _planned(data: Path) -> int:
    """Pairs whose pictures were asked for."""
    try:
        lines = json.loads((data / "ledger.json").read_bytes())["lines"]
        return int(next(line["rows_in"] for line in lines if line["stage"] == "fetch" and line["unit"] == "pair"))
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise DataError(f"{data / 'ledger.json'}: is not there, or damaged; make the set again") from error


def _manifest(data: Path) -> dict[str, Any]:
    path = data / "shards" / "manifest.json"
    try:
        found = json.loads(path.read_bytes())
        found["fingerprint"], found["shards"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is not there, or damaged; run the experiment again to make the set") from error
    assert isinstance(found, dict)
    return found


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `over` says, section by section."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged

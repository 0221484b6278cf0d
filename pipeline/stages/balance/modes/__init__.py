"""The modes, one a file: adding one is a file here and its line in MODES.

mode.py holds what a mode may say. None of these files loads NumPy by being imported: `--help` lists the modes.
"""

from __future__ import annotations

from configs.load import ConfigError
from pipeline.stages.balance.modes.coordinated import Coordinated
from pipeline.stages.balance.modes.metaclip import Metaclip
from pipeline.stages.balance.modes.mode import Mode
from pipeline.stages.balance.modes.none import NoBalancing
from pipeline.stages.balance.modes.quota import Quota

__all__ = ["MODES", "mode_of"]

MODES: tuple[Mode, ...] = (
    Quota(),
    Coordinated(),
    Metaclip(),
    NoBalancing(),
)
"""In the order in which help and reports show them."""


def mode_of(name: str) -> Mode:
    """The mode of this name. Raises ConfigError where there is none."""
    for mode in MODES:
        if mode.name == name:
            return mode
    raise ConfigError(f"mode: {name!r} is not one of {', '.join(mode.name for mode in MODES)}")

"""Whether what the trainer imports is there."""

from __future__ import annotations

import importlib.util

from training.errors import TrainingError

__all__ = ["check_installed"]

_PACKAGES = ("open_clip", "safetensors", "tensorboard", "timm", "torch", "torchvision")
"""The modules of the extra `train`."""


def check_installed() -> None:
    """Raises TrainingError where a package of the extra `train` is missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainingError(
            f"the trainer is not installed here ({', '.join(missing)} missing); run `make setup-train` in a checkout, "
            "elsewhere pip install 'openwit[train]'"
        )

"""Whether the user has asked for a network: HF_HUB_OFFLINE=0. This package says no otherwise."""

from __future__ import annotations

import os

__all__ = ["may_use_network"]


def may_use_network() -> bool:
    """Of Hugging Face's hub, for weights that come and exports that go."""
    return os.environ.get("HF_HUB_OFFLINE", "1").lower() in ("0", "false", "no", "off")

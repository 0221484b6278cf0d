"""Which systems a command runs on."""

from __future__ import annotations

import sys

from configs.load import ConfigError

__all__ = ["check_system"]


def check_system() -> None:
    """Raises ConfigError on Windows: locks of files (`fcntl`) and processes that end with their parent are Unix's."""
    if sys.platform == "win32":
        raise ConfigError("this does not run on Windows itself; run it in WSL 2, which is Linux (docs/platforms.md)")

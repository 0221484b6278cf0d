"""`python -m training COMMAND words ...`."""

from __future__ import annotations

import sys

from training.commands import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

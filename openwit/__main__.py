"""`python -m openwit COMMAND ...`: what `openwit COMMAND ...` is, where the script is not on the path."""

from __future__ import annotations

import sys

from openwit.command import main

if __name__ == "__main__":
    sys.exit(main())

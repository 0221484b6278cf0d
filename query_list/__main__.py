"""`python -m query_list build|stats|lint|diff-rules`."""

from __future__ import annotations

import sys

from query_list.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

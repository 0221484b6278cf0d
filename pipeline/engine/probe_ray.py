"""`python -m pipeline.engine.probe_ray ADDRESS`: whether a Ray answers there, for `start_ray.py`, which sets a limit.

Status 0: it does. REFUSED: it asks for another token. 1: it does not, and one line on stdout says why.
"""

from __future__ import annotations

import sys

from pipeline.terminal.printable import say

__all__ = ["REFUSED"]

REFUSED = 3


def _main(address: str) -> int:
    import ray

    try:
        if address.startswith("ray://"):
            ray.init(address=address, log_to_driver=False)
        else:
            # As `ray health-check` does: `ray.init` would wait for minutes, and leave a job in the cluster's list.
            from ray._private.services import canonicalize_bootstrap_address
            from ray._raylet import GcsClient  # type: ignore[attr-defined]  # its stub leaves it out

            found = canonicalize_bootstrap_address(address)
            if found is None:
                raise ConnectionError("no Ray runs on this machine")
            GcsClient(address=found)
    except ray.exceptions.AuthenticationError:
        return REFUSED
    except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
        say(" ".join(str(error).split()) or type(error).__name__)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))

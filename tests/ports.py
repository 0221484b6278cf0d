"""Ports of loopback for servers that start later, and perhaps more than once."""

from __future__ import annotations

import random
import socket

__all__ = ["free_port"]

# Above those of the workers of a Ray cluster (10002 to 19999), below those of outgoing connections (on Linux from 32768
# on): tests make thousands of these between the choice of a port and the start of its server.
_PORTS = range(20_000, 32_000)
_untried = iter(random.SystemRandom().sample(_PORTS, len(_PORTS)))


def free_port() -> int:
    """A port that nobody serves now; never the same one twice."""
    for port in _untried:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no port is free")

"""Helper processes of the trainer, forked from a server that has imported what they need.

Forked from the trainer itself they could lock up, since torch runs threads there; spawned each would import torch anew.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from multiprocessing.context import ForkServerContext

__all__ = ["process_context", "watch_parent"]


def process_context() -> ForkServerContext:
    """How to start them."""
    context = multiprocessing.get_context("forkserver")
    # The server imports these once and its forks share them.
    context.set_forkserver_preload(["training.data.batches", "open_clip"])
    return context


def watch_parent() -> None:
    """In a helper: leave Ctrl-C to the trainer, which saves and then ends us, and end when it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the whole group
    # A helper is the fork server's child, so torch's own watch over its parent does not see the trainer die.
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        threading.Thread(target=_end_with, args=(trainer.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)

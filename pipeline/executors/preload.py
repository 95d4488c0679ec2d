"""Loaded by Dask in each worker on this machine: Ctrl-C reaches them too, and only the run responds to it."""

import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Ignore Ctrl-C; the run stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

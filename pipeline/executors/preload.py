"""Preload module of Dask workers on this machine: they ignore Ctrl-C, which the run handles."""

import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Ignore Ctrl-C; the run stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

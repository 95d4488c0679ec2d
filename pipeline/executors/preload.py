"""Loaded by Dask in each worker of ours: Ctrl-C reaches them too, and is for the run alone to answer."""

import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C to the run, which then stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

"""Dask settings of a run, for all kinds of workers."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
import distributed  # noqa: F401 - its defaults must be loaded before the settings below

log = logging.getLogger("hypermm")
SAFE_PATH = "PYTHONSAFEPATH"  # set: no module is imported from the folder that the run was started in
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
DASK_SETTINGS = {
    "distributed.scheduler.worker-saturation": 1.0,  # tasks wait at the scheduler, not at workers
    "distributed.scheduler.allowed-failures": 0,  # reported at once; deaths are counted by pipeline/store/claims.py
    "distributed.scheduler.work-stealing": False,
    "distributed.worker.use-file-locking": False,  # their folder is removed as a whole
    "distributed.worker.memory.target": False,  # nothing to spill, and a worker that pauses at 80 % would pause forever
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.admin.tick.limit": "60s",  # importing torch holds a worker up
}


@contextmanager
def dask_configured(settings: dict[str, Any]) -> Iterator[None]:
    """Apply settings of Dask, and send its messages to the run log instead of the console."""

    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log.debug("dask: %s: %s", record.name, record.getMessage())

    names = [name for name in logging.root.manager.loggerDict if name.startswith(("distributed", "tornado"))]
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger, logger.handlers[:]) for logger in loggers if logger.handlers]
    safe_path = os.environ.get(SAFE_PATH, "")  # "" means not set
    with dask.config.set(settings):
        os.environ[SAFE_PATH] = "1"
        for logger, _ in before:
            logger.handlers[:] = [Forward(logging.WARNING)]
        try:
            yield
        finally:
            for logger, handlers in before:
                logger.handlers[:] = handlers
            os.environ[SAFE_PATH] = safe_path

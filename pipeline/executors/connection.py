"""Connection to Dask workers: opened on first use, monitored, reopened when it is lost."""

import logging
import time
from contextlib import ExitStack

from distributed import Client
from distributed.deploy.spec import SpecCluster

from console.errors import InputError
from pipeline.core.progress import LINE_EVERY_S
from pipeline.executors.workers import KEPT, Workers

log = logging.getLogger("hypermm")


class SchedulerLostError(Exception):
    """The connection to the scheduler broke."""


class Connection:
    """A Dask client, and the cluster if this run has started one.

    Args:
        workers: source of the workers.
        patience_minutes: how long the run goes on without a single worker.
    """

    def __init__(self, workers: Workers, *, patience_minutes: float) -> None:
        self.workers, self.patience_minutes = workers, patience_minutes
        self.cluster: SpecCluster | None = None
        self._client: Client | None = None
        self._stack = ExitStack()
        self._last_worker_seen = self._last_warning = 0.0

    def client(self) -> Client:
        """Return the client; the first call starts what has to be started.

        Raises:
            InputError: the scheduler does not answer, Slurm is not available, or there are more workers than GPUs.
        """
        if self._client is None:
            with ExitStack() as stack:
                self._client, self.cluster = self.workers.start(stack)
                self._stack = stack.pop_all()
            self._last_worker_seen = self._last_warning = time.monotonic()
        return self._client

    def close(self) -> None:
        """Stop workers and scheduler, unless they were started outside of this run."""
        if self.cluster is not None:
            log.info("stopping the workers")
        self._client = self.cluster = None
        stack, self._stack = self._stack, ExitStack()
        stack.close()

    def count_workers(self) -> int:
        """Return the number of workers; workers of this run that have ended are replaced.

        Raises:
            SchedulerLostError: the connection broke.
            InputError: no worker has been connected for too long.
        """
        client = self.client()
        if client.status != "running":
            raise SchedulerLostError
        try:
            count = len(client.nthreads())
        except OSError as error:
            raise SchedulerLostError from error
        now = time.monotonic()
        if count:
            self._last_worker_seen = now
        elif now - self._last_worker_seen > 60 * self.patience_minutes:
            raise InputError(
                f"no worker for {self.patience_minutes:g} minutes (executor.patience_minutes). "
                f"{self.workers.advice} {KEPT}"
            )
        elif now - max(self._last_warning, self._last_worker_seen) > LINE_EVERY_S:
            self._last_warning = now
            log.warning("waiting: no worker is connected. %s", self.workers.advice)
        if self.cluster is not None and count < len(self.cluster.worker_spec):
            self.cluster.scale(len(self.cluster.worker_spec))
        return count

"""The way to the workers: made when it is first needed, watched, made again when it breaks."""

import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from distributed import Client

from console.errors import InputError
from pipeline.core.progress import LINE_EVERY_S
from pipeline.executors import certificate, clusters
from pipeline.executors.config import ExecutorConfig

log = logging.getLogger("hypermm")
ANSWER_WITHIN_S = 5.0
SAFE = "What is finished is kept; run the same command again"


class SchedulerLostError(Exception):
    """The connection to the scheduler broke."""


class Connection:
    """A Dask client, and the workers where they are ours.

    Args:
        config: section `executor` of the settings.
        workspace: of the run; jobs log there.
        device: as asked for with --device.
    """

    def __init__(self, config: ExecutorConfig, workspace: Path, *, device: str) -> None:
        self.config, self.workspace, self.device = config, workspace, device
        self.patience_s = 60 * config.patience_minutes
        self.cluster: Any = None
        self._client: Client | None = None
        self._stack = ExitStack()
        self._seen = self._said = 0.0

    @property
    def ours(self) -> bool:
        """Whether the workers are processes that this one starts."""
        return self.config.kind == "dask" and self.config.scheduler is None

    @property
    def worker_device(self) -> str:
        """What --device means to a worker; one of ours sees only the GPU that it was given."""
        gpus = self.ours and clusters.local_workers(self.config, self.device)[1][0] is not None
        return "cuda" if gpus else self.device

    @property
    def worker_memory(self) -> str:
        """The memory limit of a worker, in words."""
        shares = {"dask": "an equal share of the machine's" if self.ours else "set elsewhere"}
        return self.config.worker_memory or shares.get(self.config.kind, clusters.SLURM_MEMORY)

    def client(self) -> Client:
        """The client; the first call starts what has to be started.

        Raises:
            InputError: the scheduler does not answer, Slurm is not here, or there are more workers than GPUs.
        """
        if self._client is None:
            with ExitStack() as stack:
                self._client = self._start(stack)
                self._stack = stack.pop_all()
            self._seen = self._said = time.monotonic()
        return self._client

    def close(self) -> None:
        """Stop workers and scheduler, unless they are someone else's."""
        if self.cluster is not None:
            log.info("workers stop")
        self._client = self.cluster = None
        stack, self._stack = self._stack, ExitStack()
        stack.close()

    def _start(self, stack: ExitStack) -> Client:
        if self.config.scheduler is not None:
            stack.enter_context(clusters.dask_set_up(clusters.DASK_SETTINGS))
            log.info("scans go to the Dask scheduler %s", self.config.scheduler)
            if not self.config.scheduler.startswith("tls://"):
                log.warning(clusters.UNPROTECTED, self.config.scheduler)
            return stack.enter_context(self._client_of(self.config.scheduler))
        forbidden = certificate.OTHERS_WRITE if self.ours else certificate.OTHERS_READ
        folder = stack.enter_context(certificate.private_folder(self.workspace, forbidden=forbidden))
        settings = clusters.local_settings(self.config, self.device) if self.ours else clusters.DASK_SETTINGS
        stack.enter_context(clusters.dask_set_up({**settings, "temporary-directory": str(folder)}))
        if self.ours:
            self.cluster = clusters.local_cluster(self.config, self.device)
        else:
            security = certificate.write_certificate(folder)
            self.cluster = clusters.slurm_cluster(self.config, self.workspace, security)
        stack.callback(self.cluster.close, timeout=30)
        return stack.enter_context(Client(self.cluster, set_as_default=False))

    def _client_of(self, address: str) -> Client:
        deadline = time.monotonic() + self.patience_s
        while True:
            try:
                return Client(address, timeout=min(ANSWER_WITHIN_S, self.patience_s), set_as_default=False)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise InputError(
                        f"the Dask scheduler {address} has not answered for {self.config.patience_minutes:g} minutes "
                        "(executor.patience_minutes). Is it running, and does a firewall let this machine through? "
                        + SAFE
                    ) from error
                time.sleep(1)

    def look(self) -> int:
        """How many workers there are; those of ours that ended before their time are asked for again.

        Raises:
            SchedulerLostError: the connection broke.
            InputError: there has been no worker for too long.
        """
        client = self.client()
        if client.status != "running":
            raise SchedulerLostError
        try:
            workers = len(client.nthreads())
        except OSError as error:
            raise SchedulerLostError from error
        now = time.monotonic()
        if workers:
            self._seen = now
        elif now - self._seen > self.patience_s:
            raise InputError(
                f"not one worker for {self.config.patience_minutes:g} minutes (executor.patience_minutes). "
                f"{self._where_to_look()} {SAFE}"
            )
        elif now - max(self._said, self._seen) > LINE_EVERY_S:
            self._said = now
            log.warning("waiting: not one worker is there. %s", self._where_to_look())
        if self.cluster is not None and workers < len(self.cluster.worker_spec):
            self.cluster.scale(len(self.cluster.worker_spec))
        return workers

    def _where_to_look(self) -> str:
        if self.config.kind == "slurm":
            return f"squeue says whether the jobs wait, {self.workspace / 'logs'}/worker-*.log why they end."
        if self.config.scheduler is not None:
            return f"Start workers with: dask worker {self.config.scheduler} --nthreads 1"
        return f"{self.workspace / 'logs'} says why they end; too little --worker-memory?"

"""Executor with Dask workers: processes on this machine, or workers of an existing scheduler.

Workers of this run and their scheduler communicate over TLS, with a certificate that is created for the run
(`pipeline.executors.certificate`). The security of an existing scheduler is up to its owner: TLS certificates for it
are taken from Dask's own configuration (`distributed.comm.tls`), and its address begins with tls://.
"""

import logging
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dask
import torch
from distributed import Client, Nanny
from distributed.deploy.spec import SpecCluster
from distributed.system import MEMORY_LIMIT

from console.errors import InputError
from devices.cores import available_cores
from pipeline.executors.certificate import new_certificate, security_of
from pipeline.executors.config import ExecutorConfig
from pipeline.executors.connection import Connection
from pipeline.executors.dask_settings import DASK_SETTINGS, THREAD_VARIABLES, dask_configured
from pipeline.executors.dispatch import DispatchingExecutor
from pipeline.executors.private_folder import OTHERS_WRITE, private_folder
from pipeline.executors.servers import Scheduler, Worker
from pipeline.executors.workers import KEPT, Workers, client_of

log = logging.getLogger("hypermm")
CORES_PER_WORKER = 4
ANSWER_WITHIN_S = 5.0
UNPROTECTED = (
    "the connection to %s is not encrypted and not authenticated: anyone who reaches that port can run "
    "programs as you, on the workers and here. Use tls:// (docs/cluster.md, Workers of your own)"
)


class DaskExecutor(DispatchingExecutor):
    """Dispatches scans to workers on this machine, or to a given scheduler.

    Args:
        config: section `executor` of the settings.
        workspace: of the run.
        device: as requested with --device.
    """

    def __init__(self, config: ExecutorConfig, workspace: Path, *, device: str) -> None:
        workers: Workers
        if config.scheduler is None:
            workers = LocalWorkers(config, workspace, device=device)
        else:
            workers = SchedulerWorkers(config.scheduler, patience_minutes=config.patience_minutes, device=device)
        super().__init__(Connection(workers, patience_minutes=config.patience_minutes))


class LocalWorkers:
    """Worker processes on this machine, reachable from this machine only, and by this run only.

    Args:
        config: section `executor` of the settings.
        workspace: of the run, with its private folder.
        device: as requested with --device.
    """

    elsewhere = False

    def __init__(self, config: ExecutorConfig, workspace: Path, *, device: str) -> None:
        self.config, self.workspace, self.requested_device = config, workspace, device

    @property
    def device(self) -> str:
        """Device name for a worker, which sees only its own GPU."""
        return self.requested_device if self.gpus()[0] is None else "cuda"

    @property
    def memory(self) -> str:
        """Memory limit of a worker, as text."""
        return self.config.worker_memory or "an equal share of the machine's"

    @property
    def advice(self) -> str:
        """Advice for the case that no worker is connected."""
        return f"{self.workspace / 'logs'} says why workers end; too little --worker-memory?"

    def start(self, stack: ExitStack) -> tuple[Client, SpecCluster | None]:
        """Start workers and their scheduler, and connect to it."""
        folder = stack.enter_context(private_folder(self.workspace, forbidden=OTHERS_WRITE))
        stack.enter_context(dask_configured({**self.dask_settings(), "temporary-directory": str(folder)}))
        return client_of(self._cluster(), stack)

    def gpus(self) -> list[str | None]:
        """Return the GPU of each worker.

        Returns:
            Its number, as CUDA_VISIBLE_DEVICES names it; None: the worker is not restricted to one.

        Raises:
            InputError: there are more workers than GPUs.
        """
        device = self.requested_device
        gpus = [] if device in ("cpu", "mps") else visible_gpus()
        if gpus and device not in ("auto", "cuda"):
            gpus = [gpus[int(device.removeprefix("cuda:"))]]  # existence has been checked before
        count = self.config.workers or len(gpus) or max(1, available_cores() // CORES_PER_WORKER)
        if not gpus:
            return [None] * count
        if count > len(gpus):
            raise InputError(
                f"--workers {count}, but {len(gpus)} GPU(s) for --device {device}: each worker takes one. Use "
                f"--workers {len(gpus)}, or --device cpu"
            )
        return list(gpus[:count])

    def threads(self) -> int:
        """Return the number of threads of a worker, so that workers do not compete for cores."""
        return max(1, available_cores() // len(self.gpus()))

    def dask_settings(self) -> dict[str, Any]:
        """Return Dask's settings; thread limits must be set before a worker imports torch."""
        limits = dict.fromkeys(THREAD_VARIABLES, self.threads())
        quiet = {"DASK_LOGGING__DISTRIBUTED": "critical"}  # messages are returned with the scan
        return {
            **DASK_SETTINGS,
            "distributed.nanny.pre-spawn-environ": {**limits, **quiet},
            "distributed.deploy.lost-worker-timeout": "10 minutes",  # its nanny restarts it under the same name
        }

    def _cluster(self) -> SpecCluster:
        gpus = self.gpus()
        security = security_of(*new_certificate())
        loopback = {"host": "127.0.0.1", "protocol": "tls://", "security": security, "dashboard": False}
        preload = [*dask.config.get("distributed.worker.preload"), "pipeline.executors.preload"]
        memory_limit = self.config.worker_memory or int(MEMORY_LIMIT / len(gpus))
        options = {**loopback, "nthreads": 1, "memory_limit": memory_limit, "preload": preload, "worker_class": Worker}
        workers = {}
        for number, gpu in enumerate(gpus):
            environment = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
            workers[number] = {"cls": Nanny, "options": {**options, "name": number, "env": environment}}
        log.info("%d workers on this machine, %d threads each", len(gpus), self.threads())
        scheduler = {"cls": Scheduler, "options": {**loopback, "port": 0}}
        return SpecCluster(workers=workers, scheduler=scheduler, security=security, name="hypermm")


class SchedulerWorkers:
    """Workers of an existing scheduler.

    Args:
        address: of the scheduler.
        patience_minutes: how long to wait for its answer.
        device: as requested with --device.
    """

    elsewhere = True
    memory = "set elsewhere"

    def __init__(self, address: str, *, patience_minutes: float, device: str) -> None:
        self.address, self.patience_minutes, self.device = address, patience_minutes, device

    @property
    def advice(self) -> str:
        """Advice for the case that no worker is connected."""
        return f"Start workers with: dask worker {self.address} --nthreads 1"

    def start(self, stack: ExitStack) -> tuple[Client, SpecCluster | None]:
        """Connect to the scheduler.

        Raises:
            InputError: the scheduler does not answer.
        """
        stack.enter_context(dask_configured(DASK_SETTINGS))
        log.info("scans go to the Dask scheduler %s", self.address)
        if not self.address.startswith("tls://"):
            log.warning(UNPROTECTED, self.address)
        return stack.enter_context(self._client()), None

    def _client(self) -> Client:
        patience_s = 60 * self.patience_minutes
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return Client(self.address, timeout=min(ANSWER_WITHIN_S, patience_s), set_as_default=False)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise InputError(
                        f"the Dask scheduler {self.address} has not answered for {self.patience_minutes:g} minutes "
                        "(executor.patience_minutes). Is it running, and does a firewall let this machine through? "
                        + KEPT
                    ) from error
                time.sleep(1)


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return named[:count] if named else [str(number) for number in range(count)]

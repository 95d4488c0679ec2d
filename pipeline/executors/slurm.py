"""Executor with Dask workers in Slurm jobs, one worker per job; the scheduler is in this process.

Workers and scheduler communicate over TLS, with a certificate that is created for the run
(`pipeline.executors.certificate`).
"""

import logging
import os
import shlex
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dask_jobqueue import SLURMCluster
from distributed import Client
from distributed.deploy.spec import SpecCluster
from distributed.security import Security

from console.errors import InputError
from pipeline.core.provenance import REPOSITORY
from pipeline.executors.certificate import certificate_files, write_certificate
from pipeline.executors.config import ExecutorConfig
from pipeline.executors.connection import Connection
from pipeline.executors.dask_settings import DASK_SETTINGS, SAFE_PATH, THREAD_VARIABLES, dask_configured
from pipeline.executors.dispatch import DispatchingExecutor
from pipeline.executors.jobs import WorkerJob
from pipeline.executors.private_folder import FOLDER, OTHERS_READ, private_folder
from pipeline.executors.servers import Scheduler
from pipeline.executors.workers import client_of

log = logging.getLogger("hypermm")
WORKERS, MEMORY = 4, "16GB"  # defaults


class SlurmExecutor(DispatchingExecutor):
    """Executor that dispatches scans to workers in Slurm jobs.

    Args:
        config: section `executor` of the settings.
        workspace: of the run.
        device: as requested with --device.
    """

    def __init__(self, config: ExecutorConfig, workspace: Path, *, device: str) -> None:
        self.workers = SlurmWorkers(config, workspace, device=device)
        super().__init__(Connection(self.workers, patience_minutes=config.patience_minutes))

    def describe(self) -> str:
        """Return the job script of a worker."""
        return f"each worker's job for Slurm:\n{self.workers.script()}"


class SlurmWorkers:
    """Workers in Slurm jobs.

    Args:
        config: section `executor` of the settings.
        workspace: of the run, with its private folder and the jobs' output.
        device: as requested with --device.
    """

    elsewhere = True

    def __init__(self, config: ExecutorConfig, workspace: Path, *, device: str) -> None:
        self.config, self.workspace, self.device = config, workspace, device

    @property
    def memory(self) -> str:
        """Memory limit of a worker."""
        return self.config.worker_memory or MEMORY

    @property
    def advice(self) -> str:
        """Advice for the case that no worker is connected."""
        return f"squeue says whether the jobs wait, {self.workspace / 'logs'}/worker-*.log why they end."

    def start(self, stack: ExitStack) -> tuple[Client, SpecCluster | None]:
        """Start a scheduler, submit the jobs, and connect.

        Raises:
            InputError: jobs cannot be submitted from this machine.
        """
        folder = stack.enter_context(private_folder(self.workspace, forbidden=OTHERS_READ))
        stack.enter_context(dask_configured({**DASK_SETTINGS, "temporary-directory": str(folder)}))
        return client_of(self._cluster(write_certificate(folder)), stack)

    def script(self) -> str:
        """Return the job script of a worker, as sbatch gets it; the scheduler's address is a placeholder."""
        job = WorkerJob("tls://ADDRESS:PORT", "NAME", protocol="tls://", **self.options())
        return str(job.job_script())

    def options(self) -> dict[str, Any]:
        """Return dask-jobqueue's options of a job: one worker, one scan at a time."""
        slurm, logs, private = self.config.slurm, self.workspace / "logs", self.workspace / FOLDER
        certificate, key = (shlex.quote(str(path)) for path in certificate_files(private))
        memory = ("TARGET=False", "SPILL=False", "PAUSE=False", "TERMINATE=0.95")
        directives = [f"-o {shlex.quote(str(logs))}/worker-%J.log", "--open-mode=append"]
        return {
            "cores": 1,  # in Dask: scans at a time
            "processes": 1,
            "job_cpu": slurm.cores,
            "memory": self.memory,
            "queue": slurm.partition,
            "account": slurm.account,
            "walltime": slurm.time,
            "interface": slurm.interface,
            "job_name": "hypermm",
            "python": shlex.quote(sys.executable),
            "job_extra_directives": [*directives, *(["--gres=gpu:1"] if slurm.gpus else []), *slurm.lines],
            "private_folder": private,
            "job_script_prologue": [
                f"umask {current_umask():04o}",
                f"export {SAFE_PATH}=1",
                f"export PYTHONPATH={shlex.quote(str(REPOSITORY))}",
                "export OMP_WAIT_POLICY=PASSIVE",
                *(f"export {name}={slurm.cores}" for name in THREAD_VARIABLES),
                *(f"export DASK_DISTRIBUTED__WORKER__MEMORY__{value}" for value in memory),
                "export DASK_DISTRIBUTED__ADMIN__TICK__LIMIT=60s",
                "export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True",
                "export DASK_DISTRIBUTED__WORKER__USE_FILE_LOCKING=False",
                f"export DASK_TEMPORARY_DIRECTORY={shlex.quote(str(private))}",
            ],
            "worker_extra_args": [
                *("--no-dashboard", "--worker-class", "pipeline.executors.servers.Worker"),
                *("--tls-ca-file", certificate, "--tls-cert", certificate, "--tls-key", key),
            ],
        }

    def _cluster(self, security: Security) -> SpecCluster:
        if shutil.which("sbatch") is None:
            raise InputError("--executor slurm: there is no sbatch on this machine; run it where jobs are submitted")
        count = self.config.workers or WORKERS
        log.info("%d jobs for Slurm, one worker each; their output is in %s", count, self.workspace / "logs")
        options = {**self.options(), "job_cls": WorkerJob, "security": security}
        cluster = SLURMCluster(scheduler_cls=Scheduler, scheduler_options={"dashboard": False}, **options)
        try:
            cluster.scale(count)
        except BaseException:
            cluster.close()
            raise
        return cluster


def current_umask() -> int:
    """Return the umask of this process, which can be read only by setting it for a moment."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

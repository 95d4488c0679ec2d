"""Workers: processes on this machine, jobs of Slurm, or those that someone else has started.

Workers of ours, here and in Slurm's jobs, and their scheduler talk to each other over TLS, with a certificate that is
made for the run (`pipeline.executors.certificate`). A scheduler of your own is as safe as you have made it: TLS
certificates for it are taken from Dask's own configuration (`distributed.comm.tls`), its address begins with tls://.
"""

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import distributed  # noqa: F401 - its defaults have to be there before ours
import torch
from dask_jobqueue import SLURMCluster
from distributed import Nanny
from distributed.deploy.spec import SpecCluster
from distributed.security import Security
from distributed.system import MEMORY_LIMIT

from console.errors import InputError
from pipeline.core.provenance import REPOSITORY
from pipeline.executors import certificate
from pipeline.executors.config import ExecutorConfig
from pipeline.executors.jobs import WorkerJob
from pipeline.executors.servers import Scheduler, Worker

log = logging.getLogger("hypermm")
SLURM_WORKERS, SLURM_MEMORY = 4, "16GB"
CORES_A_WORKER = 4
SAFE_PATH = "PYTHONSAFEPATH"  # set: no module is taken from the folder that the run was started in
UNPROTECTED = (
    "the connection to %s is not encrypted, and nobody has to prove who they are: whoever reaches that port can run "
    "programs as you, on the workers and here. Use tls:// (docs/cluster.md, Workers of your own)"
)
DASK_SETTINGS = {
    "distributed.scheduler.worker-saturation": 1.0,  # what waits, waits at the scheduler
    "distributed.scheduler.allowed-failures": 0,  # it tells us at once; what counts is pipeline/store/claims.py
    "distributed.scheduler.work-stealing": False,
    "distributed.worker.use-file-locking": False,  # their folder goes as a whole
    "distributed.worker.memory.target": False,  # nothing to spill, and a worker that pauses at 80 % would pause forever
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.admin.tick.limit": "60s",  # importing torch holds a worker up
}


def threads_per_worker(workers: int) -> int:
    """So that workers do not fight for the cores of this machine."""
    return max(1, _cores() // workers)


def local_workers(config: ExecutorConfig, device: str) -> tuple[int, list[str | None]]:
    """How many workers, and the GPU of each (its number, as CUDA_VISIBLE_DEVICES names it; None: not for it to choose).

    Raises:
        InputError: more workers than GPUs.
    """
    gpus = [] if device in ("cpu", "mps") else _gpus()
    if gpus and device not in ("auto", "cuda"):
        gpus = [gpus[int(device.removeprefix("cuda:"))]]  # the one that was named; that it is there has been checked
    workers = config.workers or len(gpus) or max(1, _cores() // CORES_A_WORKER)
    if not gpus:
        return workers, [None] * workers
    if workers > len(gpus):
        raise InputError(
            f"--workers {workers}, but {len(gpus)} GPU(s) for --device {device}: each worker takes one. Use --workers "
            f"{len(gpus)}, or --device cpu"
        )
    return workers, list(gpus[:workers])


def local_cluster(config: ExecutorConfig, device: str) -> Any:
    """Worker processes on this machine, reachable from this machine only, and by this run only.

    Raises:
        InputError: more workers than GPUs.
    """
    count, gpus = local_workers(config, device)
    security = certificate.security_of(*certificate.new_certificate())
    loopback = {"host": "127.0.0.1", "protocol": "tls://", "security": security, "dashboard": False}
    preload = [*dask.config.get("distributed.worker.preload"), "pipeline.executors.preload"]
    options = {**loopback, "nthreads": 1, "memory_limit": config.worker_memory or int(MEMORY_LIMIT / count)}
    options |= {"preload": preload, "worker_class": Worker}
    workers = {}
    for number, gpu in enumerate(gpus):
        environment = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        workers[number] = {"cls": Nanny, "options": {**options, "name": number, "env": environment}}
    log.info("%d workers on this machine, %d threads each", count, threads_per_worker(count))
    scheduler = {"cls": Scheduler, "options": {**loopback, "port": 0}}
    return SpecCluster(workers=workers, scheduler=scheduler, security=security, name="hypermm")


def local_settings(config: ExecutorConfig, device: str) -> dict[str, Any]:
    """Dask's settings for workers on this machine; thread caps have to be there before a worker imports torch."""
    threads = threads_per_worker(local_workers(config, device)[0])
    caps = {name: threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    quiet = {"DASK_LOGGING__DISTRIBUTED": "critical"}  # what is worth saying comes back with the scan
    return {
        **DASK_SETTINGS,
        "distributed.nanny.pre-spawn-environ": {**caps, **quiet},
        "distributed.deploy.lost-worker-timeout": "10 minutes",  # its nanny starts it again, under the same name
    }


def slurm_options(config: ExecutorConfig, workspace: Path) -> dict[str, Any]:
    """What dask-jobqueue is told of a job: one worker, one scan at a time."""
    slurm, logs, private = config.slurm, workspace / "logs", workspace / certificate.FOLDER
    shown, key = (shlex.quote(str(path)) for path in certificate.certificate_files(private))
    caps = (f"export {name}={slurm.cores}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"))
    memory = ("TARGET=False", "SPILL=False", "PAUSE=False", "TERMINATE=0.95")
    lines = [f"-o {shlex.quote(str(logs))}/worker-%J.log", "--open-mode=append"]
    return {
        "cores": 1,  # Dask's word for scans at a time
        "processes": 1,
        "job_cpu": slurm.cores,
        "memory": config.worker_memory or SLURM_MEMORY,
        "queue": slurm.partition,
        "account": slurm.account,
        "walltime": slurm.time,
        "interface": slurm.interface,
        "job_name": "hypermm",
        "python": shlex.quote(sys.executable),
        "job_extra_directives": [*lines, *(["--gres=gpu:1"] if slurm.gpus else []), *slurm.lines],
        "private_folder": private,
        "job_script_prologue": [
            f"umask {_umask():04o}",
            f"export {SAFE_PATH}=1",
            f"export PYTHONPATH={shlex.quote(str(REPOSITORY))}",
            "export OMP_WAIT_POLICY=PASSIVE",
            *caps,
            *(f"export DASK_DISTRIBUTED__WORKER__MEMORY__{value}" for value in memory),
            "export DASK_DISTRIBUTED__ADMIN__TICK__LIMIT=60s",
            "export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True",
            "export DASK_DISTRIBUTED__WORKER__USE_FILE_LOCKING=False",
            f"export DASK_TEMPORARY_DIRECTORY={shlex.quote(str(private))}",
        ],
        "worker_extra_args": [
            *("--no-dashboard", "--worker-class", "pipeline.executors.servers.Worker"),
            *("--tls-ca-file", shown, "--tls-cert", shown, "--tls-key", key),
        ],
    }


def slurm_script(config: ExecutorConfig, workspace: Path) -> str:
    """The job script of a worker, as sbatch gets it; the scheduler's address is not known before it runs."""
    job = WorkerJob("tls://ADDRESS:PORT", "NAME", protocol="tls://", **slurm_options(config, workspace))
    return str(job.job_script())


def slurm_cluster(config: ExecutorConfig, workspace: Path, security: Security) -> Any:
    """Workers in jobs of Slurm; the scheduler runs here.

    Args:
        config: section `executor` of the settings.
        workspace: of the run; its private folder is there.
        security: certificate and key, in files of the private folder.

    Raises:
        InputError: jobs cannot be submitted from this machine.
    """
    if shutil.which("sbatch") is None:
        raise InputError("--executor slurm: there is no sbatch on this machine; run it where jobs are submitted")
    count = config.workers or SLURM_WORKERS
    log.info("%d jobs for Slurm, one worker each; their output is in %s", count, workspace / "logs")
    options = {**slurm_options(config, workspace), "job_cls": WorkerJob, "security": security}
    cluster = SLURMCluster(scheduler_cls=Scheduler, scheduler_options={"dashboard": False}, **options)
    try:
        cluster.scale(count)
    except BaseException:
        cluster.close()
        raise
    return cluster


@contextmanager
def dask_set_up(settings: dict[str, Any]) -> Iterator[None]:
    """Dask with our settings, its log lines in the run's log file instead of on the terminal."""

    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log.debug("dask: %s: %s", record.name, record.getMessage())

    names = [name for name in logging.root.manager.loggerDict if name.startswith(("distributed", "tornado"))]
    theirs = [logging.getLogger(name) for name in names]
    before = [(logger, logger.handlers[:]) for logger in theirs if logger.handlers]
    safe_path = os.environ.get(SAFE_PATH, "")  # "" is as good as none
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


def _umask() -> int:
    mask = os.umask(0o077)  # there is no other way to ask for it
    os.umask(mask)
    return mask


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return named[:count] if named else [str(number) for number in range(count)]

"""Workers: processes on this machine, jobs of Slurm, or those that someone else has started.

A Dask scheduler lets everyone who reaches its port run code as its user. On this machine it is bound to loopback. With
Slurm, or with a scheduler of your own, it has to be inside of the lab's network; Dask's TLS certificates are taken from
Dask's own configuration (`distributed.comm.tls`), and then the address begins with tls://.
"""

import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.executors.settings import ExecutorConfig
from pipeline.provenance import REPOSITORY
from pipeline.runtime import InputError

log = logging.getLogger("hypermm")
SLURM_WORKERS, SLURM_MEMORY = 4, "16GB"
CORES_A_WORKER = 4
DASK_SETTINGS = {
    "distributed.scheduler.worker-saturation": 1.0,  # what waits, waits at the scheduler
    "distributed.scheduler.allowed-failures": 0,  # it tells us at once; what counts is pipeline/executors/inhand.py
    "distributed.scheduler.work-stealing": False,
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
    """Worker processes on this machine, reachable from this machine only.

    Raises:
        InputError: more workers than GPUs.
    """
    import dask
    from distributed import Nanny, Scheduler
    from distributed.deploy.spec import SpecCluster
    from distributed.system import MEMORY_LIMIT

    count, gpus = local_workers(config, device)
    loopback = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    preload = [*dask.config.get("distributed.worker.preload"), "pipeline.executors.preload"]
    options = {**loopback, "nthreads": 1, "memory_limit": config.worker_memory or int(MEMORY_LIMIT / count)}
    options["preload"] = preload
    workers = {}
    for number, gpu in enumerate(gpus):
        environment = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        workers[number] = {"cls": Nanny, "options": {**options, "name": number, "env": environment}}
    log.info("%d workers on this machine, %d threads each", count, threads_per_worker(count))
    return SpecCluster(
        workers=workers, scheduler={"cls": Scheduler, "options": {**loopback, "port": 0}}, name="hypermm"
    )


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


def slurm_options(config: ExecutorConfig, logs: Path) -> dict[str, Any]:
    """What dask-jobqueue is told of a job: one worker, one scan at a time."""
    slurm = config.slurm
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
        "job_script_prologue": [
            f"export PYTHONPATH={shlex.quote(str(REPOSITORY))}",
            "export OMP_WAIT_POLICY=PASSIVE",
            *caps,
            *(f"export DASK_DISTRIBUTED__WORKER__MEMORY__{value}" for value in memory),
            "export DASK_DISTRIBUTED__ADMIN__TICK__LIMIT=60s",
        ],
        "worker_extra_args": ["--no-dashboard"],
    }


def slurm_script(config: ExecutorConfig, workspace: Path) -> str:
    """The job script of a worker, as sbatch gets it; the scheduler's address is not known before it runs."""
    from dask_jobqueue.slurm import SLURMJob

    job = SLURMJob(scheduler="tcp://ADDRESS:PORT", name="NAME", **slurm_options(config, workspace / "logs"))
    return str(job.job_script())


def slurm_cluster(config: ExecutorConfig, workspace: Path) -> Any:
    """Workers in jobs of Slurm; the scheduler runs here.

    Raises:
        InputError: jobs cannot be submitted from this machine.
    """
    import shutil

    from dask_jobqueue import SLURMCluster

    if shutil.which("sbatch") is None:
        raise InputError("--executor slurm: there is no sbatch on this machine; run it where jobs are submitted")
    count = config.workers or SLURM_WORKERS
    log.info("%d jobs for Slurm, one worker each; their output is in %s", count, workspace / "logs")
    options = slurm_options(config, workspace / "logs")
    cluster = SLURMCluster(scheduler_options={"dashboard": False, "dashboard_address": "127.0.0.1:0"}, **options)
    try:
        cluster.scale(count)
    except BaseException:
        cluster.close()
        raise
    return cluster


@contextmanager
def dask_set_up(settings: dict[str, Any]) -> Iterator[None]:
    """Dask with our settings, its log lines in the run's log file instead of on the terminal."""
    import dask
    import distributed  # noqa: F401 - its defaults have to be there before ours

    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log.debug("dask: %s: %s", record.name, record.getMessage())

    names = [name for name in logging.root.manager.loggerDict if name.startswith(("distributed", "tornado"))]
    theirs = [logging.getLogger(name) for name in names]
    before = [(logger, logger.handlers[:]) for logger in theirs if logger.handlers]
    with dask.config.set(settings):
        for logger, _ in before:
            logger.handlers[:] = [Forward(logging.WARNING)]
        try:
            yield
        finally:
            for logger, handlers in before:
                logger.handlers[:] = handlers


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    import torch

    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return named[:count] if named else [str(number) for number in range(count)]

"""Executors by name. Classes are given as text, so that settings and `--help` do not import large packages."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ExecutorEntry:
    """A row of `EXECUTORS`.

    Attributes:
        implementation: "module:class" of a `pipeline.runner.executor.Executor`.
        settings: optional settings that the executor uses; other optional settings are refused.
    """

    implementation: str
    settings: tuple[str, ...] = ()


EXECUTORS = {
    "local": ExecutorEntry("pipeline.executors.local:LocalExecutor"),
    "dask": ExecutorEntry("pipeline.executors.dask:DaskExecutor", settings=("scheduler", "workers", "worker_memory")),
    "slurm": ExecutorEntry("pipeline.executors.slurm:SlurmExecutor", settings=("workers", "worker_memory")),
}

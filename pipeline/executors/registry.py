"""The executors by name. Their classes are named as text, so that settings and `--help` import nothing heavy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ExecutorEntry:
    """A row of `EXECUTORS`.

    Attributes:
        implementation: "module:class" of a `pipeline.runner.executor.Executor`.
        settings: which of the settings that not every executor uses it does use; the others are refused.
    """

    implementation: str
    settings: tuple[str, ...] = ()


EXECUTORS = {
    "local": ExecutorEntry("pipeline.executors.local:LocalExecutor"),
    "dask": ExecutorEntry("pipeline.executors.dask:DaskExecutor", settings=("scheduler", "workers", "worker_memory")),
    "slurm": ExecutorEntry("pipeline.executors.slurm:SlurmExecutor", settings=("workers", "worker_memory")),
}

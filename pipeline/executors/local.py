"""Executor that processes scans in this process."""

from collections.abc import Callable
from typing import Any

from pipeline.runner.per_scan import in_process
from pipeline.runner.stage import Stage


class LocalExecutor:
    """Executor that processes scans in this process, with threads for reading and writing."""

    elsewhere = False

    def __init__(self, *_: Any, **__: Any) -> None:
        """Accept the arguments of all executors; none is used."""

    def for_stage(self, stage: Stage, settings: Any) -> Callable[..., None]:
        """Return the function that processes scans in this process."""
        return in_process

    def release_workers(self) -> None:
        """Do nothing, as there are no workers."""

    def describe(self) -> str:
        """Return "": nothing to add to the plan."""
        return ""

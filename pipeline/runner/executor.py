"""Interface of executors, which process scans in this process or elsewhere."""

from collections.abc import Callable
from typing import Any, Protocol

from pipeline.runner.stage import Stage


class Executor(Protocol):
    """Interface of executors.

    An executor is a class with a row in `pipeline.executors.registry`. It is created as
    `Class(config, workspace, device=device)`, which starts nothing; `pipeline.executors.opened.opened` releases its
    workers at the end of the run.
    """

    @property
    def elsewhere(self) -> bool:
        """Whether scans are processed on other machines, so that this one does not need the device for them."""

    def for_stage(self, stage: Stage, settings: Any) -> Callable[..., None]:
        """Return a function that processes the scans of a stage, called like `pipeline.runner.per_scan.in_process`."""

    def release_workers(self) -> None:
        """Stop the workers; later scans start new ones."""

    def describe(self) -> str:
        """Return the text that --dry-run shows below the plan, such as a job script, or ""."""

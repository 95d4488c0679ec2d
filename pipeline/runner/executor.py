"""What every executor offers: the way in which the work on scans is done, in this process or elsewhere."""

from collections.abc import Callable
from typing import Any, Protocol

from pipeline.runner.stage import Stage


class Executor(Protocol):
    """Does the work on scans.

    An executor is a class with a row in `pipeline.executors.registry`. It is made as
    `Class(config, workspace, device=device)`, which starts nothing; `pipeline.executors.opened.opened` releases its
    workers at the end of the run.
    """

    @property
    def elsewhere(self) -> bool:
        """Whether scans are done on other machines, so that this one does not need the device for them."""

    def for_stage(self, stage: Stage, settings: Any) -> Callable[..., None]:
        """Return what does the scans of a stage, called like `pipeline.runner.per_scan.in_process`."""

    def release_workers(self) -> None:
        """Stop the workers, which have nothing to do for a while or for good; later scans start new ones."""

    def describe(self) -> str:
        """Return what --dry-run shows below the plan, such as a job script; "" if there is nothing to show."""

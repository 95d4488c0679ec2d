"""What does the work on scans: this process, or others."""

from collections.abc import Callable
from typing import Any, Protocol

from pipeline.runner.stage import Stage


class Executor(Protocol):
    """Does the work on scans, in this process or elsewhere."""

    def for_stage(self, stage: Stage, settings: Any) -> Callable[..., None]:
        """Return what does the scans of a stage, called like `pipeline.runner.per_scan.in_process`."""

    def release_workers(self) -> None:
        """Let the workers go; there is nothing to do for them for a while."""

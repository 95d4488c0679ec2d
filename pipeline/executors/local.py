"""Scans are done in this process."""

from collections.abc import Callable
from typing import Any

from pipeline.runner.per_scan import in_process
from pipeline.runner.stage import Stage


class LocalExecutor:
    """Does scans in this process, where threads read ahead and write behind."""

    elsewhere = False

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take what every executor is given; nothing of it is needed here."""

    def for_stage(self, stage: Stage, settings: Any) -> Callable[..., None]:
        """Return what does the scans of a stage."""
        return in_process

    def release_workers(self) -> None:
        """Do nothing: there are no workers."""

    def describe(self) -> str:
        """Return "": the plan says it all."""
        return ""

"""Runtime of a stage: device, progress, notes."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from console.errors import InputError
from pipeline.core.progress import Progress

log = logging.getLogger("hypermm")


@dataclass
class Runtime:
    """Runtime of a stage: device, workspace, notes, progress, executor.

    Attributes:
        stage: name of the running stage.
        key: hash of everything that the stage's result depends on.
        device_name: "auto", "cpu", "cuda", "cuda:1" or "mps", as requested.
        workspace: folder of the run.
        notes: messages for the summary and the report.
        results: entries that the stage adds to its manifest beside those of its artifact.
        executor: processes scans elsewhere, called like `pipeline.runner.per_scan.in_process`; None: in this process.
    """

    stage: str
    key: str
    device_name: str
    workspace: Path
    notes: list[str] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    executor: Callable[..., None] | None = None

    @property
    def device(self) -> torch.device:
        """The device to compute on.

        Raises:
            InputError: the requested device is not present.
        """
        if self.device_name == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device_name)
        except RuntimeError as error:
            raise InputError(f"--device {self.device_name}: expected auto, cpu, cuda, cuda:N or mps") from error
        present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
        if (device.index or 0) >= present.get(device.type, 0):
            raise InputError(f"--device {self.device_name} is not present (devices: {present}); use --device auto")
        return device

    def note(self, text: str) -> None:
        """Log a message for the user now, and repeat it in the summary and the report."""
        log.warning("%s: %s", self.stage, text)
        self.notes.append(text)

    @contextmanager
    def progress(self, total: int, unit: str) -> Iterator[Progress]:
        """Show the progress of this stage while the block runs."""
        bar = Progress(self.stage, total, unit)
        try:
            yield bar
        finally:
            bar.close()

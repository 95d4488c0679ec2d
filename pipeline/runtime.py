"""What every stage gets beside its inputs: device, progress, notes."""

import errno
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

log = logging.getLogger("hypermm")
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room, no quota, no larger file allowed
LINE_EVERY_S = 30.0  # between progress lines when nobody watches


class InputError(ValueError):
    """The input or the settings are wrong; the message says what to change. Ends the run with exit code 2."""


class Refused(InputError):
    """An `InputError` from before the stage changed any of its files: what it finished earlier still holds."""


class Progress:
    """One progress bar on a terminal, a line now and then in a batch log.

    Args:
        title: name of the stage.
        total: steps to come.
        unit: what a step is.
    """

    def __init__(self, title: str, total: int, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done, self.started, self.last_line = 0, time.monotonic(), time.monotonic()
        self.bar = None
        if total and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}", markup=False),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True),
                transient=True,
            )  # fmt: skip
            self.task = self.bar.add_task(title, total=total, rate="")
            self.bar.start()

    def advance(self, steps: int = 1) -> None:
        """Steps are done."""
        self.done += steps
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        words = f"{rate:.1f} {self.unit}s/s" if rate >= 1 else f"{1 / rate:.1f} s/{self.unit}"
        if self.bar is not None:
            self.bar.update(self.task, advance=steps, rate=words)
        elif time.monotonic() - self.last_line > LINE_EVERY_S and self.done < self.total:
            self.last_line = time.monotonic()
            left = (self.total - self.done) / rate
            log.info(
                "%s: %d of %d %ss, %s, about %.0f s left", self.title, self.done, self.total, self.unit, words, left
            )

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()


@dataclass
class Runtime:
    """What a stage may use beside its inputs.

    Attributes:
        stage: name of the running stage.
        key: hash of everything that the stage's result depends on.
        device_name: "auto", "cpu", "cuda", "cuda:1" or "mps", as asked for.
        workspace: folder of the run.
        notes: what a person should be told at the end and in the report.
        results: what the stage adds to its manifest beside what its artifact says of itself.
        executor: does scans elsewhere than in this process, called like `pipeline.scanwise.in_process`; None: here.
    """

    stage: str
    key: str
    device_name: str
    workspace: Path
    notes: list[str] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    executor: Callable[..., None] | None = None

    @property
    def device(self) -> "torch.device":
        """The device to compute on.

        Raises:
            InputError: the device asked for is not there.
        """
        import torch

        if self.device_name == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device_name)
        except RuntimeError as error:
            raise InputError(f"--device {self.device_name}: expected auto, cpu, cuda, cuda:N or mps") from error
        there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
        if (device.index or 0) >= there.get(device.type, 0):
            raise InputError(f"--device {self.device_name} is not there (found: {there}); use --device auto")
        return device

    def note(self, text: str) -> None:
        """Say something that a person should know, now and in the report."""
        log.warning("%s: %s", self.stage, text)
        self.notes.append(text)

    @contextmanager
    def progress(self, total: int, unit: str) -> Iterator[Progress]:
        """The progress bar of this stage."""
        bar = Progress(self.stage, total, unit)
        try:
            yield bar
        finally:
            bar.close()

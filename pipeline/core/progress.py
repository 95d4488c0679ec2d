"""Progress of a stage: a bar on a terminal, lines in a batch log."""

import logging
import sys
import time

log = logging.getLogger("hypermm")

LINE_EVERY_S = 30.0  # between progress lines without a terminal


class Progress:
    """Progress of a stage: a bar on a terminal, a line every 30 s in a batch log.

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
        """Count completed steps and update the display."""
        self.done += steps
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        rate_text = f"{rate:.1f} {self.unit}s/s" if rate >= 1 else f"{1 / rate:.1f} s/{self.unit}"
        if self.bar is not None:
            self.bar.update(self.task, advance=steps, rate=rate_text)
        elif time.monotonic() - self.last_line > LINE_EVERY_S and self.done < self.total:
            self.last_line = time.monotonic()
            left = (self.total - self.done) / rate
            log.info(
                "%s: %d of %d %ss, %s, about %.0f s left", self.title, self.done, self.total, self.unit, rate_text, left
            )

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.stop()

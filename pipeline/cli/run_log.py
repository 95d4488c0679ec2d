"""Log of a run: all messages in a file of the workspace, the important ones on the console."""

import contextlib
import datetime
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from files.printable import printable_lines
from files.writing import open_own, real_folder

log = logging.getLogger("hypermm")


class Formatter(logging.Formatter):
    """Formatter that removes control characters and marks the continuation lines of a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the printable lines of a record."""
        return printable_lines(super().format(record), start="  | ")


@contextmanager
def logging_to(workspace: Path, *, quiet: bool) -> Iterator[None]:
    """Log to `logs/<time>.log` in full and to stderr in short during the run.

    Raises:
        PlantedLinkError: `logs`, or the file, is a link.
    """
    folder = real_folder(workspace / "logs", below=workspace)
    name = datetime.datetime.now().strftime("%Y-%m-%d_%H%M%S")
    file = logging.StreamHandler(stream := open_own(folder / f"{name}.log", "a"))
    file.setFormatter(Formatter("%(asctime)s %(levelname)s %(message)s"))
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    terminal.setLevel(logging.WARNING if quiet else logging.INFO)
    before = log.level, log.propagate, logging.raiseExceptions
    log.setLevel(logging.DEBUG)
    log.propagate = False
    logging.raiseExceptions = False  # no tracebacks if the log cannot be written, as on a full disk
    for handler in (file, terminal):
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in (file, terminal):
            log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate, logging.raiseExceptions = before[1:]
        with contextlib.suppress(OSError):  # the disk is full
            stream.close()


def current_file(workspace: Path) -> str:
    """Return the newest log file of a workspace."""
    return str(max((workspace / "logs").glob("*.log"), default=workspace / "logs"))

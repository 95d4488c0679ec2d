"""The log of a run: everything in a file of the workspace, the gist on the terminal."""

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
    """Lines that steer no terminal; those after the first of a record are marked, so that none can pass for another."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        return printable_lines(super().format(record), start="  | ")


@contextmanager
def logging_to(workspace: Path, *, quiet: bool) -> Iterator[None]:
    """Log to `logs/<time>.log` in full and to stderr in short while the feature map runs.

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
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, has no tracebacks to add
    for handler in (file, terminal):
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in (file, terminal):
            log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate, logging.raiseExceptions = before[1:]
        with contextlib.suppress(OSError):  # the disk is full; what could be written is
            stream.close()


def current_file(workspace: Path) -> str:
    """The newest log file of a workspace."""
    return str(max((workspace / "logs").glob("*.log"), default=workspace / "logs"))

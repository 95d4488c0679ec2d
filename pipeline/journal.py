"""The log of a run: everything in a file of the workspace, the gist on the terminal."""

import datetime
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("hypermm")


@contextmanager
def logging_to(workspace: Path, *, quiet: bool) -> Iterator[None]:
    """Log to `logs/<time>.log` in full and to stderr in short while the block runs."""
    folder = workspace / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    name = datetime.datetime.now().strftime("%Y-%m-%d_%H%M%S")
    file = logging.FileHandler(folder / f"{name}.log", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
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
        file.close()


def current_file(workspace: Path) -> str:
    """The newest log file of a workspace."""
    return str(max((workspace / "logs").glob("*.log"), default=workspace / "logs"))

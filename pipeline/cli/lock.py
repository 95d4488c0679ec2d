"""One run at a time in a workspace."""

import datetime
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from console.errors import InputError
from files.reading import UnusableFileError, parse_json
from files.writing import PlantedLinkError, open_own

log = logging.getLogger("hypermm")
LONGEST = 4096  # characters of .lock that are read


@contextmanager
def locked(workspace: Path) -> Iterator[None]:
    """Hold the workspace; a second run on it is refused.

    The locks are the kernel's (`flock`): they end with their process. One is on the folder itself, so that it survives
    the deletion of files. One is on `.lock`, for file systems that cannot lock folders, such as NFS. On a network file
    system neither may be visible to other machines, so `.lock` also records the process, the machine and the time.

    Raises:
        InputError: another run, which the message names, holds the workspace; or it was moved or replaced meanwhile.
        PlantedLinkError, UnusableFileError: `.lock` is not a regular file.
    """
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        folder = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"cannot write to the workspace {workspace}: {error.strerror}; name another") from error
    try:
        with _open_lock(workspace / ".lock") as stream:
            _lock(folder, workspace, stream)
            _take_over(stream, workspace)
            try:
                yield
            finally:
                stream.truncate(0)
        if not workspace.is_dir() or not os.path.samestat(workspace.stat(), os.fstat(folder)):
            raise InputError(
                f"{workspace} was moved or replaced while the run was at work, so results may be in two folders"
            )
    finally:
        os.close(folder)


def _open_lock(path: Path) -> IO[str]:
    try:
        return open_own(path, "a+")
    except PlantedLinkError:
        raise
    except OSError as error:
        raise InputError(
            f"cannot write to the workspace {path.parent}: {path}: {error.strerror}; name another"
        ) from error


def _lock(folder: int, workspace: Path, stream: IO[str]) -> None:
    """Take both locks.

    Raises:
        InputError: another run holds one, or the file system knows no locks.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            log.debug("%s: its file system locks no folders (%s); .lock alone is locked", workspace, error.strerror)
    except BlockingIOError as error:
        raise InputError(
            f"{workspace} is in use by {_holder(_read_lock(stream))}; wait for it, or name another --workspace"
        ) from error
    except OSError as error:
        raise InputError(
            f"{workspace} is on a file system without file locks ({error.strerror}), so two runs could mix; name a "
            "--workspace on a local disk"
        ) from error


def _take_over(stream: IO[str], workspace: Path) -> None:
    """Write who holds the lock; warn of a run on another machine that did not end properly."""
    before = _read_lock(stream)
    if before and before.get("host", socket.gethostname()) != socket.gethostname():
        log.warning(
            "the last run in %s did not end properly: %s. If it is still at work, stop this one: not every network "
            "file system tells one machine of the locks of another",
            workspace,
            _holder(before),
        )
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    stream.truncate(0)
    json.dump({"process": os.getpid(), "host": socket.gethostname(), "since": now}, stream)
    stream.flush()


def _read_lock(stream: IO[str]) -> dict[str, Any] | None:
    """Return the content of the lock file; None if it is empty or damaged."""
    try:
        stream.seek(0)
        content = parse_json(stream.read(LONGEST))
    except (UnusableFileError, UnicodeDecodeError):
        return None
    return content if isinstance(content, dict) else None


def _holder(lock: Mapping[str, Any] | None) -> str:
    """Describe the process that holds a workspace."""
    if not lock:
        return "another run (.lock does not say which: it was deleted or damaged meanwhile)"
    holder = {"process": "unknown", "host": "unknown", "since": "unknown", **lock}
    return f"process {holder['process']} on {holder['host']} since {holder['since']}"

"""Atomic writing of files, never through a planted symbolic link."""

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from files.reading import UnusableFileError

PRIVATE, FOR_THE_GROUP = 0o077, 0o027  # umask: only the owner may read; the owner's group may, too
NOT_FOLLOWED = "a link to elsewhere lies where the pipeline writes; remove it, or name another folder"


class PlantedLinkError(OSError):
    """A link lies where the pipeline would write or delete."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ELOOP, NOT_FOLLOWED, str(path))


def real_folder(path: Path, *, below: Path) -> Path:
    """Make a folder below another one, none between may be a link; return it.

    Args:
        path: to make; may exist.
        below: the folder that it lies in, at any depth; may be a link.

    Raises:
        PlantedLinkError: one on the way is a link.
        ValueError: `path` does not lie below.
    """
    relative = path.relative_to(below)
    if ".." in relative.parts:
        raise ValueError(f"{path} does not lie below {below}")
    below.mkdir(parents=True, exist_ok=True)
    step = below
    for name in relative.parts:
        step /= name
        if step.is_symlink():
            raise PlantedLinkError(step)
        step.mkdir(exist_ok=True)
    return path


def remove_folder(path: Path, *, below: Path, others_write: bool = False) -> None:
    """Delete a folder with its content, if it exists; links in it are removed, not followed.

    Args:
        path: to delete.
        below: the folder that it is a direct child of.
        others_write: another process may write in it meanwhile; what it leaves is no error.

    Raises:
        PlantedLinkError: it is a link itself.
        ValueError: it is no direct child of `below`; nothing is deleted then.
    """
    if path.name in ("", ".", "..") or path.parent != below:
        raise ValueError(f"{path} is no direct child of {below}; nothing is deleted")
    if path.is_symlink():
        raise PlantedLinkError(path)
    if path.exists():
        shutil.rmtree(path, ignore_errors=others_write)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; that file replaces `path` when the block ends without an error.

    A link at `path` is replaced, not followed.

    Raises:
        PlantedLinkError: the folder of `path` is a link.
    """
    if path.parent.is_symlink():
        raise PlantedLinkError(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def open_own(path: Path, mode: str) -> IO[Any]:
    """Open a file for appending in place, creating it if needed; for logs and locks.

    Args:
        path: regular file, or missing; its folder must exist.
        mode: "a", "ab", or "a+" to read it as well.

    Raises:
        PlantedLinkError: it is a link.
        UnusableFileError: it is a pipe, a device or a socket.
        OSError: it cannot be made or written, or is a folder.
    """
    flags = os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, flags | (os.O_RDWR if "+" in mode else os.O_WRONLY), 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PlantedLinkError(path) from error
        if error.errno == errno.ENXIO:  # a pipe that nobody reads
            raise UnusableFileError(f"{path} is a pipe or a socket; expected a file") from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UnusableFileError(f"{path} is a pipe, a device or a socket; expected a file")
    return os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8")


@contextmanager
def readable_by(umask: int) -> Iterator[None]:
    """Set the umask for the block: of files and folders made by this process and those it starts."""
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)

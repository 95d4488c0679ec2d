"""Write files whole or not at all, never through a link that somebody has put in their way."""

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
    """Make a folder and those between it and another one, none of which may be a link; returns it.

    Args:
        path: to make; may be there.
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
    """Delete a folder with all that is in it, if it is there; links in it are removed, not followed.

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
    """Write to the path that this yields; it takes the place of `path` when the block ends without an error.

    A link at `path` is replaced, not followed.

    Raises:
        PlantedLinkError: the folder of `path` is a link.
    """
    if path.parent.is_symlink():
        raise PlantedLinkError(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def open_own(path: Path, mode: str) -> IO[Any]:
    """Open a file for appending where it lies, made if it is not there; for logs and locks, which grow in place.

    Args:
        path: regular, or not there; its folder must be there.
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
    """Take these rights away from every file and folder made in the block, by this process and by those it starts."""
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)

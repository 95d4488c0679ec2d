"""Private folder of the Dask processes of a run, without access for other users."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from console.errors import InputError
from files.writing import remove_folder

FOLDER = ".dask"
OTHERS_READ, OTHERS_WRITE = 0o077, 0o022


@contextmanager
def private_folder(workspace: Path, *, forbidden: int) -> Iterator[Path]:
    """Create the folder of this run's Dask processes; it is removed when the block ends.

    Dask imports Python modules from its folder for temporary files. The default one, `dask-scratch-space` in /tmp, may
    belong to another user.

    Args:
        workspace: of the run; locked by it.
        forbidden: mode bits that must not be set, as in chmod.

    Raises:
        InputError: the file system does not support such permissions.
        OSError: the folder cannot be created, or that of an earlier run cannot be removed.
    """
    folder = workspace / FOLDER
    remove_folder(folder, below=workspace)
    folder.mkdir(mode=0o700, parents=True)
    try:
        rights = folder.lstat().st_mode & 0o777
        if rights & forbidden:
            raise InputError(
                f"{folder} was made for you alone (rights 700), but its file system gives it rights {rights:o}: other "
                "users could run programs as you. Name a --workspace on another file system, or use --executor local"
            )
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a network file system may hold on to a file of a worker for a while

"""Write files whole or not at all, never through a link that somebody has put in their way."""

import csv
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

NOT_FOLLOWED = "a link to elsewhere lies where the pipeline writes; remove it, or name another folder"


class PlantedLinkError(OSError):
    """A link lies where the pipeline would write or delete."""

    def __init__(self, path: Path) -> None:
        super().__init__(40, NOT_FOLLOWED, str(path))  # 40: ELOOP


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


class _UnixLines:
    """Turns the line ends that csv is told of, so that it quotes their characters, into plain line feeds."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[str]:
        return iter(self.stream)  # pandas takes nothing for a file that cannot be gone through

    def write(self, row: str) -> int:
        return self.stream.write(row.removesuffix("\r\n") + "\n")


def write_table(path: Path, frame: "pd.DataFrame") -> None:
    """Write a data frame as CSV, whole, without its index, lines ending with line feeds.

    Cells that hold a comma, a quote or any end of line, a bare carriage return too, are quoted.
    """
    with replacing(path) as part, part.open("x", encoding="utf-8", newline="") as stream:
        frame.to_csv(_UnixLines(stream), index=False, lineterminator="\r\n")


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write mappings as CSV, as `write_table` does; what is not in `columns` is left out."""
    with replacing(path) as part, part.open("x", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(_UnixLines(stream), columns, lineterminator="\r\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)

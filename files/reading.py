"""Read untrusted files: regular ones only, up to a given size.

A named pipe would wait for ever, `/dev/zero` never ends, a megabyte of gzip can hold gigabytes.
"""

import errno
import gzip
import hashlib
import io
import json
import os
import stat
import zlib
from pathlib import Path
from typing import Any

MOST_TEXT = 200_000_000  # bytes of a table, a config or a JSON file
DEEPEST = 100  # levels of lists and mappings in JSON and YAML


class UnusableFileError(ValueError):
    """The file cannot be read here; the message says what it is and what was expected."""


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading; links to one are followed.

    Raises:
        UnusableFileError: it is a pipe, a device or a socket.
        OSError: it is missing, is a folder, or may not be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer does not wait
    kind = os.fstat(handle).st_mode
    if not stat.S_ISREG(kind):
        os.close(handle)
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
        raise UnusableFileError(f"{path} is a pipe, a device or a socket; expected a file")
    return os.fdopen(handle, "rb")


def read_bytes(path: Path, *, most: int = MOST_TEXT) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file.
        most: bytes; a larger file is refused before it is read.

    Raises:
        UnusableFileError: it is larger, or no regular file.
        OSError: it cannot be read.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = b"" if size > most else stream.read(size + 1)  # allocates no more than the content
        if len(content) > size:  # it has grown, or is of a file system that does not know sizes
            content += stream.read(most + 1 - len(content))
    if size > most or len(content) > most:
        raise UnusableFileError(f"{path} has {max(size, len(content)):,} bytes; at most {most:,} are read")
    return content


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a regular file's content, hex.

    Raises:
        UnusableFileError: it is no regular file.
        OSError: it cannot be read.
    """
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def gunzip(content: bytes, *, most: int) -> bytes:
    """Unpack gzip, all its members, with their checksums verified.

    Args:
        content: of the file.
        most: bytes; what would unpack to more is refused as soon as that is known.

    Raises:
        UnusableFileError: it unpacks to more.
        EOFError: it is cut short.
        zlib.error: it is damaged.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            unpacked = stream.read(most + 1)
    except gzip.BadGzipFile as error:
        raise zlib.error(str(error)) from error
    if len(unpacked) > most:
        raise UnusableFileError(f"it unpacks to more than {most:,} bytes, {len(content):,} of them packed")
    return unpacked


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        UnusableFileError: it is no JSON, is nested deeper than `DEEPEST`, or has a key twice.
    """
    try:
        value = json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        message = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise UnusableFileError(f"not JSON: {message}") from error
    if _deeper(value, DEEPEST):
        raise UnusableFileError(f"JSON nested deeper than {DEEPEST} levels")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a mapping; refuse duplicate keys."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError("a key stands there twice")
    return mapping


def _deeper(value: Any, levels: int) -> bool:
    """Check if lists and mappings are nested deeper than so many levels; iterates by level, without recursion."""
    level = [value]
    for _ in range(levels + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True

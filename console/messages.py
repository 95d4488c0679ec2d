"""Safe printing: names from manifests, models and workspaces cannot control the terminal."""

import io
import sys
import warnings
from typing import IO

from console.errors import ReaderGoneError
from files.printable import printable_lines


def say(text: str, *, file: IO[str] | None = None) -> None:
    """Print a message, control characters escaped; lines after the first are indented."""
    _print(printable_lines(text), file)


def say_as_it_stands(text: str, *, file: IO[str] | None = None) -> None:
    """Print a text with its lines as they are, such as a help page; control characters are escaped."""
    _print(printable_lines(text.rstrip("\n"), start=""), file)


def _print(text: str, file: IO[str] | None) -> None:
    try:
        print(text, file=file, flush=True)
    except BrokenPipeError as error:
        raise ReaderGoneError from error


def show_warnings_safely() -> None:
    """Escape control characters in warnings of packages, which may quote a file."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda *args, **more: printable_lines(usual(*args, **more).rstrip("\n")) + "\n"


def make_streams_safe() -> None:
    """Escape characters that the output cannot encode, as in a terminal without UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

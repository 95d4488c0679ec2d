"""Printing: names out of manifests, models and workspaces steer no terminal and are no markup."""

import io
import sys
import warnings
from typing import IO

from files.printable import printable_lines


def say(text: str, *, file: IO[str] | None = None) -> None:
    """Print one thing, what steers a terminal made visible; lines after the first are set in."""
    print(printable_lines(text), file=file, flush=True)


def say_as_it_stands(text: str, *, file: IO[str] | None = None) -> None:
    """Print a text of ours with its lines as they are, such as a help page; what steers a terminal is made visible."""
    print(printable_lines(text.rstrip("\n"), start=""), file=file, flush=True)


def show_warnings_safely() -> None:
    """Let the warnings of packages, which may quote a file, steer no terminal either."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda *words, **more: printable_lines(usual(*words, **more).rstrip("\n")) + "\n"


def make_streams_safe() -> None:
    """Let a terminal, or a mail of cron, without UTF-8 be no reason to stop."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

"""Command line options and paths."""

import argparse
import os
from pathlib import Path
from typing import Any, NoReturn

from console.errors import InputError
from console.messages import say_as_it_stands


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `InputError` and prints its help by `say_as_it_stands`."""

    def error(self, message: str) -> NoReturn:
        """Raise an error about the arguments.

        Raises:
            InputError: always.
        """
        raise InputError(f"{message}; {self.prog} --help lists the options")

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:
            say_as_it_stands(message, file=file)


def typed_path(text: str) -> Path:
    """Convert an option to a path; an empty one, which would be the current folder, is refused.

    Raises:
        argparse.ArgumentTypeError: it is empty, or no path.
    """
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path")
    return Path(text)


def real_path(path: Path) -> Path:
    """Return the absolute path with its links resolved; unlike `Path.resolve` it accepts links in a ring."""
    return Path(os.path.realpath(path))


def pairs(given: list[str]) -> dict[str, str]:
    """Parse options of the form T1w=MRI.

    Raises:
        InputError: one has another form, or a name twice.
    """
    named = dict(word.split("=", 1) for word in given if "=" in word)
    if len(named) != len(given):
        raise InputError(f"{given}: expected pairs such as T1w=MRI, each name once")
    return named

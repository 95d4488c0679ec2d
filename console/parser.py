"""Options of a command line, and the paths typed there."""

import argparse
import os
from pathlib import Path
from typing import Any, NoReturn

from console.errors import InputError
from console.messages import say_as_it_stands


class Parser(argparse.ArgumentParser):
    """Options whose mistakes are `InputError`s and whose help is printed by `say_as_it_stands`."""

    def error(self, message: str) -> NoReturn:
        """Refuse what was typed.

        Raises:
            InputError: always.
        """
        raise InputError(f"{message}; {self.prog} --help lists the options")

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:
            say_as_it_stands(message, file=file)


def typed_path(text: str) -> Path:
    """The type of options that take a path; an empty one would be the current folder.

    Raises:
        argparse.ArgumentTypeError: it is empty, or no path.
    """
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path")
    return Path(text)


def real_path(place: Path) -> Path:
    """The absolute path with its links followed as far as they lead; unlike `Path.resolve` it takes links in a ring."""
    return Path(os.path.realpath(place))


def pairs(given: list[str]) -> dict[str, str]:
    """Return what options of the form T1w=MRI say.

    Raises:
        InputError: one has another form, or a name twice.
    """
    found = dict(word.split("=", 1) for word in given if "=" in word)
    if len(found) != len(given):
        raise InputError(f"{given}: expected words such as T1w=MRI, each name once")
    return found

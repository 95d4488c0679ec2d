"""Make a demo cohort in a folder.

python -m demo
python -m demo phantoms OUT [--subjects 40 --seed 0 …]
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import yaml
from pydantic import BaseModel, ValidationError

from cohort.tables import suggest
from console.errors import InputError
from console.exit_codes import exit_code
from console.messages import say, say_as_it_stands, show_warnings_safely
from console.parser import Parser, real_path, typed_path
from demo import generator_names, load_generator
from demo.generator import MANIFEST, Counter
from files.reading import UnusableFileError
from files.safe_yaml import safe_yaml
from files.writing import FOR_THE_GROUP, PRIVATE, readable_by

PROGRESS_EVERY = 20  # scans


def parser(name: str, config: type[BaseModel]) -> Parser:
    """Return the command line of a demo cohort: its folder, and an option for each field of its config."""
    options = Parser(
        prog=f"python -m demo {name}",
        description=config.__doc__,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    options.add_argument(
        "OUT", type=typed_path, help="folder of the images, manifest.csv and truth.csv; made if needed"
    )
    for field, detail in config.model_fields.items():
        default = "" if detail.is_required() else f" (default {json.dumps(detail.get_default(), default=str)})"
        text = f"{detail.description or ''}{default}".replace("%", "%%")
        option = "--" + field.replace("_", "-")
        options.add_argument(option, dest=field, metavar="VALUE", help=text, required=detail.is_required())
    options.add_argument("--group-readable", dest="GROUP", action="store_true", help="let your group read it")
    return options


def main(argv: Sequence[str]) -> int:
    """Run the command; return exit code 0, or 2 for wrong input."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        say_as_it_stands(listing())
        return 0
    name, *rest = argv
    if name not in generator_names():
        raise InputError(f"there is no demo cohort {name!r} {suggest(name, generator_names())}")
    generator = load_generator(name)
    given = vars(parser(name, generator.config).parse_args(rest))
    options = {key: _value(text) for key, text in given.items() if key in generator.config.model_fields}
    try:
        config = generator.config(**options)
    except ValidationError as error:
        raise InputError("; ".join(map(_problem, error.errors()))) from error
    with readable_by(FOR_THE_GROUP if given.get("GROUP") else PRIVATE):
        manifest = generator.write(real_path(given["OUT"]), config, _lines)
    say(f"{len(pd.read_csv(manifest))} scans → {given['OUT'] / MANIFEST}")
    return 0


def listing() -> str:
    """Return the names and descriptions of all demo cohorts."""
    about = {name: (load_generator(name).config.__doc__ or "").splitlines()[0] for name in generator_names()}
    cohorts = [f"  {name:12} {line}" for name, line in about.items()]
    return "\n".join(["python -m demo NAME OUT [options]; python -m demo NAME --help lists the options", "", *cohorts])


def _value(text: str) -> Any:
    """Parse an option as YAML, as on the command line of a run."""
    try:
        return safe_yaml(text)
    except yaml.YAMLError:
        return text
    except UnusableFileError as error:
        raise InputError(str(error)) from error


def _problem(problem: Mapping[str, Any]) -> str:
    """Describe a problem, with the option as typed."""
    option = "".join(f"--{field}: ".replace("_", "-") for field in problem["loc"][:1])
    return option + str(problem["msg"]).removeprefix("Value error, ")


class _Lines:
    """A counter that prints progress from time to time."""

    def __init__(self, total: int, unit: str) -> None:
        self.total, self.unit, self.done = total, unit, 0

    def advance(self) -> None:
        """Count one more."""
        self.done += 1
        if self.done % PROGRESS_EVERY == 0 and self.done < self.total:
            say(f"{self.done} of {self.total} {self.unit}s")


@contextmanager
def _lines(total: int, unit: str) -> Iterator[Counter]:
    yield _Lines(total, unit)


if __name__ == "__main__":
    show_warnings_safely()
    raise SystemExit(main(sys.argv[1:]))

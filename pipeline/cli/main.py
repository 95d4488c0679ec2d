"""Entry point of the command line: parse the options and run the requested action.

`--help` imports no large packages, and `--doctor` works where packages are missing. All else is in `pipeline.cli.run`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from console.exit_codes import BAD_INPUT, DONE, exit_code
from console.messages import say
from pipeline.cli.options import parse
from pipeline.doctor.checks import CheckContext, run_checks

if TYPE_CHECKING:
    from pipeline.settings import Settings


def main(argv: Sequence[str]) -> int:
    """Parse the options, run the requested action and return the exit code."""
    return exit_code(lambda: _run(*parse(argv)))


def _run(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    if options.doctor:
        return run_doctor(options, overrides)
    from pipeline.cli.run import run

    return run(options, overrides)


def run_doctor(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Print the findings of the doctor; return exit code 2 if a check failed."""

    def load() -> "Settings":
        from pipeline.cli.run import load

        return load(options, overrides)

    def workspace(name: str) -> Path:
        from pipeline.cli.run import workspace_path

        return workspace_path(options, name)

    failed = False
    for finding in run_checks(CheckContext(load, workspace, options.device)):
        say(str(finding))
        failed |= finding.status == "fail"
    return BAD_INPUT if failed else DONE

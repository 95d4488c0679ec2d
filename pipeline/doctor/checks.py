"""Checks of the machine before a run: one finding per line, with the remedy.

This module imports only the standard library; checks import what they need, so that the doctor works even if packages
are missing. Nothing is written into the workspace.
"""

import importlib
import importlib.metadata
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from console.errors import InputError
from demo import load_generator
from models.weights import PUBLISHED

if TYPE_CHECKING:
    from pipeline.deployment.bundle import Bundle
    from pipeline.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
INSTALL = "pip install --constraint constraints.txt --editable"
Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        status: "ok"; "warn", a run may still succeed; "fail", it will not.
        message: description of the finding.
        remedy: how to correct it, or "".
    """

    status: Status
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.status:<4}  {self.message}" + (f"  → {self.remedy}" if self.remedy else "")


@dataclass
class CheckContext:
    """Check context: settings, workspace and device of the planned run.

    Attributes:
        load: reads the settings, or raises if they are wrong.
        workspace_of: name of the settings → workspace of the planned run.
        device: as given: "auto", "cpu", "cuda", …
        broken: weights that are missing or damaged; the smoke run uses random ones instead.
        bundle: the exported model, once it was read.
    """

    load: Callable[[], "Settings"]
    workspace_of: Callable[[str], Path]
    device: str
    broken: set[str] = field(default_factory=set)
    settings: "Settings | None" = None
    bundle: "Bundle | None" = None

    @property
    def config(self) -> "Settings":
        """The settings.

        Raises:
            CannotTell: the settings could not be read; another finding says why.
        """
        if self.settings is None:
            raise CannotTell("needs the settings")
        return self.settings

    @property
    def workspace(self) -> Path:
        """Workspace of the planned run."""
        return self.workspace_of(self.config.name)


class CannotTell(Exception):
    """A check cannot be done because an earlier one failed."""


def run_checks(context: CheckContext) -> Iterator[Finding]:
    """Yield the findings of all checks; an exception in a check is a finding too."""
    from_elsewhere = ("pipeline.doctor.machine", "pipeline.doctor.run")
    yield from _guarded(python, context)
    yield from _guarded(packages, context)
    yield from _guarded(settings, context)
    for module in from_elsewhere:
        try:
            checks = importlib.import_module(module).CHECKS
        except Exception as error:  # noqa: BLE001 - a broken package must not end the doctor
            yield Finding("fail", f"{module} cannot be loaded: {_error_text(error)}", "see the packages above")
            continue
        for check in checks:
            yield from _guarded(check, context)


def _guarded(check: Callable[[CheckContext], Iterator[Finding]], context: CheckContext) -> Iterator[Finding]:
    name = check.__name__.replace("_", " ")
    try:
        yield from check(context)
    except CannotTell as error:
        yield Finding("warn", f"{name}: not checked ({error})", "correct the lines above first")
    except Exception as error:  # noqa: BLE001 - any error becomes a finding, and the next check follows
        remedy = "" if isinstance(error, InputError) else "if the message does not help, report it"
        remedy = "see the packages above" if isinstance(error, ImportError) else remedy
        yield Finding("fail", f"{name}: {_error_text(error)}", remedy)


def _error_text(error: Exception) -> str:
    name = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    return name + " ".join(str(error).split())


def python(context: CheckContext) -> Iterator[Finding]:
    """Compare the version of Python with what pyproject.toml asks for and constraints.txt was tested with."""
    asked = re.search(
        r'^requires-python = ">=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE
    )
    if asked is None:
        raise ValueError("pyproject.toml does not say which Python it needs")
    least, here = (int(asked[1]), int(asked[2])), sys.version_info[:3]
    message = f"Python {'.'.join(map(str, here))} in {sys.executable}"
    tested = f"{least[0]}.{least[1]}"
    if here[:2] < least:
        yield Finding("fail", f"{message}; {tested} or newer is needed", f"make .venv PYTHON=python{tested}")
    elif here[:2] > least:
        remedy = f"if a package makes trouble: make .venv PYTHON=python{tested}"
        yield Finding("warn", f"{message}; constraints.txt was tested with {tested}", remedy)
    else:
        yield Finding("ok", message)


def packages(context: CheckContext) -> Iterator[Finding]:
    """Compare the packages that pyproject.toml names with the versions in constraints.txt."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = {_plain(line.split("==")[0]): line.split("==")[1].strip() for line in lines if "==" in line[:80]}
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    fine, missing = 0, []
    for extra, names in groups.items():
        for item in names:
            name = re.split(r"[\[<>=!~; ]", item)[0]
            pinned, here = pins.get(_plain(name)), _installed(name)
            if here is None and not extra:
                missing.append(name)
            elif here is None:
                continue  # the settings decide whether an extra is needed
            elif pinned is not None and here.split("+")[0] != pinned:
                remedy = f"pip install -c constraints.txt {name}=={pinned}"
                yield Finding("warn", f"package {name} is {here}; {pinned} was tested", remedy)
            else:
                fine += 1
    if missing:
        yield Finding("fail", f"packages not installed: {', '.join(missing)}", f"{INSTALL} .")
    if fine:
        yield Finding("ok", f"{fine} packages are installed in the versions of constraints.txt")


def settings(context: CheckContext) -> Iterator[Finding]:
    """Read the settings and check that the packages of the extra "demo" that they need are installed."""
    context.settings = config = context.load()
    manifest = config.cohort.manifest
    needed = load_generator(manifest).packages if isinstance(manifest, str) else ()
    needed += PUBLISHED[config.features.backbone].needs if config.features.backbone in PUBLISHED else ()
    missing = [name for name in needed if _installed(name) is None]
    if missing:
        message = f"settings {config.name} need {', '.join(missing)} of the extra demo, not installed"
        yield Finding("warn", message, f"{INSTALL} '.[demo]'")
    else:
        yield Finding("ok", f"settings {config.name}: backbone {config.features.backbone}, "
                      f"{', '.join(config.cohort.modalities)}")  # fmt: skip


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

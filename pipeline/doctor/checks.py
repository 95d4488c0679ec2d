"""What is wrong with this machine, before the night: one line a check, with the remedy.

Nothing but the standard library is imported here. What a check needs it imports itself, so that the doctor can speak
on a machine on which nothing is installed. It writes nothing into the workspace.
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
    """One line of the doctor's.

    Attributes:
        status: "ok"; "warn", a run may go well all the same; "fail", it will not.
        found: what was found.
        remedy: what to do about it, or "".
    """

    status: Status
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.status:<4}  {self.found}" + (f"  → {self.remedy}" if self.remedy else "")


@dataclass
class CheckContext:
    """What is examined.

    Attributes:
        load: reads the settings; raises what is wrong with them.
        place_of: from the name of the settings to the folder of the run to come.
        device: as typed: "auto", "cpu", "cuda", …
        broken: weights that were found missing, so that the smoke run draws its own.
        bundle: the exported model, once it was found whole.
    """

    load: Callable[[], "Settings"]
    place_of: Callable[[str], Path]
    device: str
    broken: set[str] = field(default_factory=set)
    settings: "Settings | None" = None
    bundle: "Bundle | None" = None

    @property
    def config(self) -> "Settings":
        """The settings.

        Raises:
            CannotTell: they could not be read; another line says why.
        """
        if self.settings is None:
            raise CannotTell("needs the settings")
        return self.settings

    @property
    def place(self) -> Path:
        """The folder of the run to come."""
        return self.place_of(self.config.name)


class CannotTell(Exception):
    """A check has nothing to look at, since an earlier one failed."""


def run_checks(patient: CheckContext) -> Iterator[Finding]:
    """All findings, as they are made. A check that breaks is a finding too."""
    from_elsewhere = ("pipeline.doctor.machine", "pipeline.doctor.run")
    yield from _guarded(python, patient)
    yield from _guarded(packages, patient)
    yield from _guarded(settings, patient)
    for module in from_elsewhere:
        try:
            checks = importlib.import_module(module).CHECKS
        except Exception as error:  # noqa: BLE001 - a broken package must not silence the doctor
            yield Finding("fail", f"{module} cannot be loaded: {_said(error)}", "see the packages above")
            continue
        for check in checks:
            yield from _guarded(check, patient)


def _guarded(check: Callable[[CheckContext], Iterator[Finding]], patient: CheckContext) -> Iterator[Finding]:
    name = check.__name__.replace("_", " ")
    try:
        yield from check(patient)
    except CannotTell as error:
        yield Finding("warn", f"{name}: not looked at ({error})", "mend the lines above first")
    except Exception as error:  # noqa: BLE001 - whatever is wrong with this machine, the doctor says it and goes on
        remedy = "" if isinstance(error, InputError) else "if the words do not help, report them"
        remedy = "see the packages above" if isinstance(error, ImportError) else remedy
        yield Finding("fail", f"{name}: {_said(error)}", remedy)


def _said(error: Exception) -> str:
    name = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    return name + " ".join(str(error).split())


def python(patient: CheckContext) -> Iterator[Finding]:
    """The version of Python against what pyproject.toml asks for and constraints.txt was tested with."""
    asked = re.search(
        r'^requires-python = ">=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE
    )
    if asked is None:
        raise ValueError("pyproject.toml does not say which Python it needs")
    least, here = (int(asked[1]), int(asked[2])), sys.version_info[:3]
    words = f"Python {'.'.join(map(str, here))} in {sys.executable}"
    tested = f"{least[0]}.{least[1]}"
    if here[:2] < least:
        yield Finding("fail", f"{words}; {tested} or newer is needed", f"make .venv PYTHON=python{tested}")
    elif here[:2] > least:
        remedy = f"if a package makes trouble: make .venv PYTHON=python{tested}"
        yield Finding("warn", f"{words}; constraints.txt was tested with {tested}", remedy)
    else:
        yield Finding("ok", words)


def packages(patient: CheckContext) -> Iterator[Finding]:
    """The packages that pyproject.toml names, against the versions in constraints.txt."""
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
                continue  # whether an extra is needed, the settings say
            elif pinned is not None and here.split("+")[0] != pinned:
                remedy = f"pip install -c constraints.txt {name}=={pinned}"
                yield Finding("warn", f"package {name} is {here}; {pinned} was tested", remedy)
            else:
                fine += 1
    if missing:
        yield Finding("fail", f"packages not installed: {', '.join(missing)}", f"{INSTALL} .")
    if fine:
        yield Finding("ok", f"{fine} packages are there in the versions of constraints.txt")


def settings(patient: CheckContext) -> Iterator[Finding]:
    """The settings can be read; what of the extra "demo" they need is there."""
    patient.settings = config = patient.load()
    manifest = config.cohort.manifest
    needed = load_generator(manifest).packages if isinstance(manifest, str) else ()
    needed += PUBLISHED[config.features.backbone].needs if config.features.backbone in PUBLISHED else ()
    missing = [name for name in needed if _installed(name) is None]
    if missing:
        words = f"settings {config.name} need {', '.join(missing)} of the extra demo, not installed"
        yield Finding("warn", words, f"{INSTALL} '.[demo]'")
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

"""Declarations of stages, which name their functions and artifacts without importing them.

Only here are modules imported late, so that settings, `--help` and plans are quick.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.core.provenance import result_settings
from pipeline.store.base import Artifact

ALL = "all settings"  # of the run, for stages that only show them; they are not in the key


@dataclass(frozen=True)
class Stage:
    """Declaration of a stage; names of functions and classes are written "module:name".

    Attributes:
        name: of the stage, of its section in the settings and of its folder in the workspace.
        function: `f(<one argument for each of reads and settings>, out, config, runtime)`.
        config: the class of its settings section.
        artifact: class of the artifact that it writes.
        version: to be raised when the same input and settings give another result.
        reads: argument name → stage whose artifact it is.
        reads_if_present: the same, of stages that are not run for this one; their artifact may be unfinished.
        uses: settings section → whether it uses what `reads_if_present` names; None: always.
        settings: argument name → further settings that it is given: a section, a dotted key, or `ALL`.
        external_inputs: settings section → external inputs of the result (files outside the workspace, hashes of
            weights); JSON-serialisable and cheap, since every plan calls it. It is given those of `settings` too that
            it has parameters for.
        check_requirements: raises `InputError` if a requirement of the stage is missing, such as weights. Called for
            every stage of the plan before the first one starts.
        per_scan: for a per-scan stage, `f(<as function, without settings>)` returns a `ScanJob`, so that other
            processes can run it too.
    """

    name: str
    function: str
    config: type[BaseModel]
    artifact: str
    version: int
    reads: Mapping[str, "Stage"] = field(default_factory=dict)
    reads_if_present: Mapping[str, "Stage"] = field(default_factory=dict)
    uses: Callable[[Any], bool] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    external_inputs: str | Callable[..., Any] | None = None
    check_requirements: str | Callable[[Any], None] | None = None
    per_scan: str | None = None

    @property
    def inputs(self) -> dict[str, "Stage"]:
        """Stages whose artifacts it reads."""
        return {**self.reads, **self.reads_if_present}

    def depends_on(self, config: Any) -> list["Stage"]:
        """Return the stages whose artifacts the result depends on, by the stage's settings section."""
        optional = [] if self.uses is not None and not self.uses(config) else self.reads_if_present.values()
        return [*self.reads.values(), *optional]

    def run(self, settings: Any, workspace: Path, *, out: Artifact, runtime: Any) -> None:
        """Run the stage's function on the artifacts of a workspace.

        Args:
            settings: of the run.
            workspace: of the run.
            out: artifact for the results.
            runtime: of the stage.
        """
        function = self._function()
        given = {key: _setting(settings, name) for key, name in self.settings.items()}
        function(**self.open_inputs(workspace), **given, out=out, config=getattr(settings, self.name), runtime=runtime)

    def job(self, workspace: Path, *, out: Artifact, config: BaseModel, runtime: Any) -> Any:
        """Return the `ScanJob` of a per-scan stage."""
        if self.per_scan is None:
            raise TypeError(f"the stage {self.name} does not work scan by scan")
        function = self._checked(self.per_scan, [*self.inputs])
        return function(**self.open_inputs(workspace), out=out, config=config, runtime=runtime)

    def writes(self, folder: Path) -> Artifact:
        """Return the artifact in a folder."""
        artifact: Artifact = named(self.artifact)(folder)
        return artifact

    def open_inputs(self, workspace: Path) -> dict[str, Artifact]:
        """Return argument name → artifact of a workspace, for the inputs."""
        return {name: other.writes(workspace / other.name) for name, other in self.inputs.items()}

    def other_settings(self, settings: Any) -> dict[str, Any]:
        """Return argument name → settings of other sections that the results depend on."""
        values = {}
        for key, name in self.settings.items():
            section, _, entry = name.rpartition(".")
            value = _setting(settings, name)
            if isinstance(value, BaseModel) and name != ALL:
                values[key] = result_settings(value)
            elif name != ALL and (not section or entry in result_settings(_setting(settings, section))):
                values[key] = value
        return values

    def external_state(self, config: Any, settings: Any = None) -> Any:
        """Return the value of `external_inputs`.

        Args:
            config: settings section of the stage.
            settings: of the run, for functions that take further ones.
        """
        if self.external_inputs is None:
            return None
        function = named(self.external_inputs)
        taken = [name for name in self.settings if name in inspect.signature(function).parameters]
        return function(config, **{name: _setting(settings, self.settings[name]) for name in taken})

    def check(self, config: Any) -> None:
        """Call `check_requirements`."""
        if self.check_requirements is not None:
            named(self.check_requirements)(config)

    def check_functions(self) -> None:
        """Import the stage's functions and compare their parameters with the declaration.

        Raises:
            TypeError: the parameters differ.
        """
        self._function()
        for name in (self.artifact, self.external_inputs, self.check_requirements):
            if name is not None:
                named(name)
        if self.per_scan is not None:
            self._checked(self.per_scan, [*self.inputs])

    def _function(self) -> Callable[..., Any]:
        return self._checked(self.function, [*self.inputs, *self.settings])

    def _checked(self, function: str, inputs: list[str]) -> Callable[..., Any]:
        """Return the function, if its parameters are those of the declaration.

        Raises:
            TypeError: the parameters differ.
        """
        expected = [*inputs, "out", "config", "runtime"]
        taken = list(inspect.signature(named(function)).parameters)
        if taken != expected:
            raise TypeError(f"stage {self.name}: {function} takes {taken}, but {expected} is declared")
        checked: Callable[..., Any] = named(function)
        return checked


def _setting(settings: Any, name: str) -> Any:
    return settings if name == ALL else functools.reduce(getattr, name.split("."), settings)


def named(name: str | Callable[..., Any]) -> Any:
    """Import the object "module:name"; other objects are returned unchanged."""
    if not isinstance(name, str):
        return name
    return _imported(name)


@functools.cache
def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)

"""A stage: a declaration that imports nothing heavy, and names its function and its artifact.

This is the one place where modules are imported late, so that settings, `--help` and plans are quick.
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

ALL = "all settings"  # of the run, for what only shows them: they are no part of the key


@dataclass(frozen=True)
class Stage:
    """The declaration of a stage; names of functions and classes are written "module:name".

    Attributes:
        name: of the stage, of its section in the settings and of its folder in the workspace.
        declared: name of this constant, by which a worker finds it.
        function: `f(<one argument for each of reads and settings>, out, config, runtime)`.
        config: the class of its settings section.
        artifact: class of what it writes.
        version: raise it when the same input and settings give another result.
        reads: argument name → stage whose artifact it is.
        reads_if_present: the same, of stages that are not run for this one; their artifact may be unfinished.
        settings: argument name → what else of the run's settings it is given: a section, a dotted key, or `ALL`.
        external_inputs: from the settings section to what else the result depends on (files outside the workspace,
            hashes of weights); JSON-able and cheap, since every plan asks for it.
        check_requirements: raises `InputError` if something that the stage needs is not there, such as weights. Asked
            of every stage that will run before any starts.
        per_scan: of a stage that works scan by scan, `f(<as function, without settings>)` gives the work on one scan as
            a value, so that other processes can do it too.
    """

    name: str
    declared: str
    function: str
    config: type[BaseModel]
    artifact: str
    version: int
    reads: Mapping[str, "Stage"] = field(default_factory=dict)
    reads_if_present: Mapping[str, "Stage"] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    external_inputs: str | Callable[[Any], Any] | None = None
    check_requirements: str | Callable[[Any], None] | None = None
    per_scan: str | None = None

    @property
    def inputs(self) -> dict[str, "Stage"]:
        """All stages whose artifacts it is given."""
        return {**self.reads, **self.reads_if_present}

    def run(self, settings: Any, workspace: Path, *, out: Artifact, runtime: Any) -> None:
        """Run the stage's function on the artifacts of a workspace.

        Args:
            settings: of the run.
            workspace: of the run.
            out: where results go.
            runtime: of the stage.
        """
        function = self._function()
        given = {key: _setting(settings, name) for key, name in self.settings.items()}
        function(**self.open_inputs(workspace), **given, out=out, config=getattr(settings, self.name), runtime=runtime)

    def job(self, workspace: Path, *, out: Artifact, config: BaseModel, runtime: Any) -> Any:
        """Return the work on one scan, of a stage that works scan by scan."""
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
        """Return argument name → what results depend on of the settings that are not the stage's own."""
        values = {}
        for key, name in self.settings.items():
            section, _, entry = name.rpartition(".")
            value = _setting(settings, name)
            if isinstance(value, BaseModel) and name != ALL:
                values[key] = result_settings(value)
            elif name != ALL and (not section or entry in result_settings(_setting(settings, section))):
                values[key] = value
        return values

    def external_state(self, config: Any) -> Any:
        """Return what `external_inputs` says."""
        return None if self.external_inputs is None else named(self.external_inputs)(config)

    def check(self, config: Any) -> None:
        """Ask `check_requirements`."""
        if self.check_requirements is not None:
            named(self.check_requirements)(config)

    def check_functions(self) -> None:
        """Import the stage's functions and compare what they take with what is declared.

        Raises:
            TypeError: one takes something else.
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
        """Return the function, if it takes what is declared.

        Raises:
            TypeError: it takes something else.
        """
        expected = [*inputs, "out", "config", "runtime"]
        taken = list(inspect.signature(named(function)).parameters)
        if taken != expected:
            raise TypeError(f"stage {self.name}: {function} takes {taken}, but {expected} is declared")
        found: Callable[..., Any] = named(function)
        return found


def _setting(settings: Any, name: str) -> Any:
    return settings if name == ALL else functools.reduce(getattr, name.split("."), settings)


def named(name: str | Callable[..., Any]) -> Any:
    """Return what "module:name" names; what is no name is returned as it is."""
    if not isinstance(name, str):
        return name
    return _imported(name)


@functools.cache
def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)

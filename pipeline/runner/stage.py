"""A stage: a function with named inputs, and one constant that declares it."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.runner.per_scan import ScanJob
from pipeline.store import Artifact


@dataclass(frozen=True)
class Stage:
    """The declaration of a stage, checked against its function when the module loads.

    Attributes:
        run: `run(<one argument for each of reads>, out, config, runtime)`; its name is the name of the stage, of its
            section in the settings and of its folder in the workspace.
        config: the class of its settings section.
        reads: argument name → stage whose artifact it is.
        reads_if_there: the same, of stages that are not run for this one; their artifact may be unfinished.
        writes: the class of its artifact.
        version: raise it when the same input and settings give another result.
        outside: from the settings section to what else the result depends on (files outside the workspace, hashes of
            weights); JSON-able and cheap, since every plan asks for it.
        applies: whether the stage has anything to do under these settings.
        ready: raises `InputError` if something that the stage needs is not there, such as weights. Asked of every stage
            that will run before any starts, so that no night is lost to what could be known in the evening.
        job: of a stage that works scan by scan, `job(<as run>)` gives the work on one scan as a value, so that other
            processes can do it too.
    """

    run: Callable[..., None]
    config: type[BaseModel]
    writes: type[Artifact]
    version: int
    reads: Mapping[str, "Stage"] = field(default_factory=dict)
    reads_if_there: Mapping[str, "Stage"] = field(default_factory=dict)
    outside: Callable[[Any], Any] = lambda config: None
    applies: Callable[[Any], bool] = lambda settings: True
    ready: Callable[[Any], None] = lambda config: None
    job: Callable[..., ScanJob] | None = None

    def __post_init__(self) -> None:
        expected = [*self.inputs, "out", "config", "runtime"]
        for words, function in (("", self.run), ("'s job", self.job)):
            found = expected if function is None else list(inspect.signature(function).parameters)
            if found != expected:
                raise TypeError(f"stage {self.name}{words} takes {found}, but declares {expected}")

    @property
    def inputs(self) -> dict[str, "Stage"]:
        """All stages whose artifacts it is given."""
        return {**self.reads, **self.reads_if_there}

    def opened(self, workspace: Path) -> dict[str, Artifact]:
        """Argument name → artifact of a workspace, for the inputs."""
        return {name: other.writes(workspace / other.name) for name, other in self.inputs.items()}

    @property
    def name(self) -> str:
        """The one name of the stage."""
        return self.run.__name__

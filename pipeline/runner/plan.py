"""Plan of a run: which stages run, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.core.provenance import digest, result_settings
from pipeline.runner.stage import Stage

State = Literal["run", "check", "up to date"]


@dataclass(frozen=True)
class Step:
    """One stage of a plan.

    Attributes:
        stage: its declaration.
        state: "run"; "check" (decided after an earlier stage has run); "up to date".
        reasons: why, as text.
        requested: named by the user; else needed by another stage.
    """

    stage: Stage
    state: State
    reasons: tuple[str, ...]
    requested: bool


def made_from(stage: Stage, settings: Any, workspace: Path) -> dict[str, Any]:
    """Return everything that the stage's result depends on; its hash is the stage's key."""
    config = getattr(settings, stage.name)
    return {
        "version": stage.version,
        "settings": result_settings(config),
        "other_settings": stage.other_settings(settings),
        "inputs": {other.name: other.writes(workspace / other.name).fingerprint for other in stage.depends_on(config)},
        "external": stage.external_state(config, settings),
    }


def stale_reasons(stage: Stage, settings: Any, workspace: Path) -> tuple[str, ...]:
    """Return the reasons why the stage has to run; empty if it is up to date."""
    artifact = stage.writes(workspace / stage.name)
    manifest = artifact.manifest
    if manifest is None or not {"made_from", "files"} <= manifest.keys():
        return ("its last run did not finish",) if artifact.folder.exists() else ("it never ran here",)
    now = made_from(stage, settings, workspace)
    before = manifest["made_from"]
    reasons: list[str] = []
    if now["version"] != before["version"]:
        reasons.append(f"the stage itself changed (version {before['version']} → {now['version']})")
    reasons += _changes(stage.name, before["settings"], now["settings"])
    others = before.get("other_settings", {})
    for argument, value in now["other_settings"].items():
        reasons += _changes(stage.settings[argument], others.get(argument), value)
    for name, fingerprint in now["inputs"].items():
        if fingerprint != before["inputs"].get(name):
            reasons.append(f"the result of {name} changed")
    if digest(now["external"]) != digest(before["external"]):
        reasons.append("files that it reads from outside the workspace changed")
    if damage := artifact.integrity_error():
        reasons.append(damage)
    again = [f["scan"] for f in manifest.get("failures", ()) if f.get("retryable")]
    if again:
        reasons.append(f"{len(again)} failed scans are worth another try ({', '.join(again[:3])})")
    return tuple(reasons)


def _changes(name: str, old: Any, new: Any) -> list[str]:
    """Describe which entries of a section, or which single value, changed."""
    entries = [(name, old, new)]
    if isinstance(new, Mapping):
        old = old if isinstance(old, Mapping) else {}
        entries = [(f"{name}.{key}", old.get(key), new.get(key)) for key in sorted({**old, **new})]
    return [f"{key} changed from {before} to {now}" for key, before, now in entries if digest(before) != digest(now)]


def make_plan(
    stages: Sequence[Stage],
    requested: Sequence[str],
    settings: Any,
    workspace: Path,
    *,
    force: Mapping[str, str] | None = None,
) -> list[Step]:
    """Plan the requested stages and all that they need, in order, with reasons.

    Args:
        stages: all stages, in the order in which they can run.
        requested: names of stages.
        settings: of the run, a section for each stage.
        workspace: of the run.
        force: stages to run though they are up to date → the option that says so.
    """
    needed: dict[str, list[str]] = {name: [] for name in requested}
    for stage in reversed(stages):
        if stage.name in needed:
            for other in stage.reads.values():
                needed.setdefault(other.name, []).append(stage.name)
    steps: list[Step] = []
    moving: set[str] = set()  # stages that will or may change
    for stage in stages:
        if stage.name not in needed:
            continue
        reasons = stale_reasons(stage, settings, workspace)
        depends_on = stage.depends_on(getattr(settings, stage.name))
        before = [other.name for other in depends_on if other.name in moving]
        state: State = "up to date"
        if option := (force or {}).get(stage.name):
            state, reasons = "run", (option, *reasons)
        elif stage.writes(workspace / stage.name).manifest is None:
            state = "run"
        elif before:
            state, reasons = "check", (*reasons, f"looked at again after {', '.join(before)}")
        elif reasons:
            state = "run"
        if stage.name not in requested:
            reasons = (*reasons, f"needed by {', '.join(needed[stage.name])}")
        if state != "up to date":
            moving.add(stage.name)
        steps.append(Step(stage, state, reasons, stage.name in requested))
    return steps

"""Which stages run, why, and running them."""

import contextlib
import datetime
import io
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from files.reading import UnusableFileError, read_bytes
from files.safe_yaml import MOST_YAML
from files.writing import real_folder, replacing, write_rows
from pipeline.artifacts import Artifact, DamagedError, ScanSet, read_record, write_record
from pipeline.executors.handout import DaskExecutor
from pipeline.executors.inhand import InHand
from pipeline.provenance import digest, git_commit, machine, result_settings, versions
from pipeline.registry import STAGES
from pipeline.runtime import Refused, Runtime
from pipeline.settings import Settings, settings_yaml
from pipeline.stage import Stage

log = logging.getLogger("hypermm")
State = Literal["run", "check", "up to date"]


@dataclass(frozen=True)
class Step:
    """One stage of a plan.

    Attributes:
        stage: which.
        state: "run"; "check" (a stage before it runs first, then it is looked at again); "up to date".
        reasons: why, in words.
        requested: named by the user, or needed by a stage that was.
    """

    stage: Stage
    state: State
    reasons: tuple[str, ...]
    requested: bool


def made_from(stage: Stage, settings: Settings, workspace: Path) -> dict[str, Any]:
    """Everything that the stage's result depends on; its hash is the stage's key."""
    config = getattr(settings, stage.name)
    return {
        "version": stage.version,
        "settings": result_settings(config),
        "inputs": {
            other.name: other.writes(workspace / other.name).fingerprint
            for other in stage.inputs.values()
            if other.applies(settings)
        },
        "outside": stage.outside(config),
    }


def stale_reasons(stage: Stage, settings: Settings, workspace: Path) -> tuple[str, ...]:
    """Why the stage has to run; empty if it is up to date."""
    artifact = stage.writes(workspace / stage.name)
    manifest = artifact.manifest
    if manifest is None or not {"made_from", "files"} <= manifest.keys():
        return ("its last run did not finish",) if artifact.folder.exists() else ("it never ran here",)
    now = made_from(stage, settings, workspace)
    before = manifest["made_from"]
    reasons = []
    if now["version"] != before["version"]:
        reasons.append(f"the stage itself changed (version {before['version']} → {now['version']})")
    for name in sorted(now["settings"].keys() | before["settings"].keys()):
        old, new = before["settings"].get(name), now["settings"].get(name)
        if digest(old) != digest(new):
            reasons.append(f"{stage.name}.{name} changed from {old} to {new}")
    for name, fingerprint in now["inputs"].items():
        if fingerprint != before["inputs"].get(name):
            reasons.append(f"the result of {name} changed")
    if digest(now["outside"]) != digest(before["outside"]):
        reasons.append("files that it reads from outside the workspace changed")
    if damage := artifact.damaged():
        reasons.append(damage)
    again = [f["scan"] for f in manifest.get("failures", ()) if f.get("again")]
    if again:
        reasons.append(f"{len(again)} failed scans are worth another try ({', '.join(again[:3])})")
    return tuple(reasons)


def make_plan(
    requested: Sequence[str], settings: Settings, workspace: Path, *, force: Sequence[str] = ()
) -> list[Step]:
    """The requested stages and all they need, in order, each with what will happen and why."""
    needed: dict[str, list[str]] = {name: [] for name in requested}
    for stage in reversed(STAGES):
        if stage.name in needed:
            for other in stage.reads.values():
                needed.setdefault(other.name, []).append(stage.name)
    steps: list[Step] = []
    moving: set[str] = set()  # stages that will or may change
    for stage in STAGES:
        if stage.name not in needed or not stage.applies(settings):
            continue
        reasons = stale_reasons(stage, settings, workspace)
        before = [other.name for other in stage.inputs.values() if other.name in moving]
        state: State = "up to date"
        if stage.name in force:
            state, reasons = "run", ("--force", *reasons)
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


def run_plan(
    steps: Sequence[Step],
    settings: Settings,
    workspace: Path,
    *,
    device: str,
    force: Sequence[str] = (),
    executor: DaskExecutor | None = None,
) -> dict[str, float]:
    """Run what is not up to date, in order; the work on scans where the executor does it, None being this process.

    Returns:
        Stage → seconds, of those that ran.

    Raises:
        InputError: something that a stage needs is not there; nothing has been run then.
    """
    for step in steps:
        if step.state == "run":
            step.stage.ready(getattr(settings, step.stage.name))
    seconds: dict[str, float] = {}
    for repairs_left in reversed(range(len(steps) + 1)):
        try:
            for step in steps:
                name = step.stage.name
                if name in force and name not in seconds:
                    step.stage.writes(workspace / name).forget()
                elif not stale_reasons(step.stage, settings, workspace):
                    continue
                seconds[name] = run_stage(step.stage, settings, workspace, device=device, executor=executor)
            break
        except DamagedError as error:
            if not repairs_left:
                raise
            log.warning("%s; it is made again", error)
            _find_all_damage(steps, workspace)
    return seconds


def _find_all_damage(steps: Sequence[Step], workspace: Path) -> None:
    """Look at every scan's files, so that all that is damaged is made again at once."""
    for step in steps:
        artifact = step.stage.writes(workspace / step.stage.name)
        if isinstance(artifact, ScanSet) and (damaged := artifact.check_all()):
            log.warning("%s: the results of %d scans are damaged: %s", step.stage.name, len(damaged), damaged[:10])


def run_stage(
    stage: Stage, settings: Settings, workspace: Path, *, device: str, executor: DaskExecutor | None = None
) -> float:
    """Run one stage and write its `manifest.json` last; returns the seconds it took."""
    folder = workspace / stage.name
    out = stage.writes(folder)
    real_folder(folder, below=workspace)
    before = out.manifest
    (folder / "manifest.json").unlink(missing_ok=True)
    InHand(folder, run="").close()  # workers of an earlier run that still write, write for nobody
    material = made_from(stage, settings, workspace)
    runtime = Runtime(stage=stage.name, key=digest(material), device_name=device, workspace=workspace)
    if executor is not None and stage.job is not None:
        runtime.executor = executor.bound(stage, settings)
    elif executor is not None:
        executor.rest()  # workers do not wait, and block a cluster, while networks are trained here
    log.info("%s: starts", stage.name)
    begun, started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    try:
        stage.run(**stage.opened(workspace), out=out, config=getattr(settings, stage.name), runtime=runtime)
    except Refused:
        if before is not None:
            write_record(folder / "manifest.json", before)
        raise
    taken = time.monotonic() - started
    contents = {"fingerprint": runtime.key, "counts": {}, **out.contents(), **runtime.results}
    write_record(
        folder / "manifest.json",
        {
            "stage": stage.name,
            "key": runtime.key,
            "made_from": material,
            **contents,
            "files": out.hashes(),
            "notes": runtime.notes,
            "started": begun,
            "seconds": round(taken, 1),
            "device": device,
            "versions": versions(),
            "git_commit": git_commit(),
            "machine": machine(),
        },
    )
    counts = ", ".join(f"{count} {name}" for name, count in contents["counts"].items())
    log.info("%s: done in %.1f s%s → %s", stage.name, taken, f", {counts}" if counts else "", folder)
    return taken


def collect(workspace: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Failures and notes of all stages, those of earlier runs and of a stage that was broken off included."""
    failures: list[dict[str, str]] = []
    notes: list[str] = []
    for stage in STAGES:
        folder = workspace / stage.name
        manifest = Artifact(folder).manifest
        if manifest is None:
            found = {path.parent.name: read_record(path) or {} for path in sorted(folder.glob("*/failure.json"))}
            manifest = {"failures": [{"scan": scan, "reason": f.get("reason", "")} for scan, f in found.items()]}
        failures += [{"stage": stage.name, **failure} for failure in manifest.get("failures", ())]
        notes += [f"{stage.name}: {note}" for note in manifest.get("notes", ())]
    return failures, notes


def write_failures(failures: Sequence[Mapping[str, str]], workspace: Path, *, for_spreadsheets: bool = False) -> None:
    """`failures.csv`: one row a scan that could not be used, with the stage and the reason.

    Args:
        failures: as from `collect`.
        workspace: of the run.
        for_spreadsheets: as in `files.writing.write_rows`.
    """
    import csv

    columns, scans = ("stage", "scan", "subject", "modality", "path", "reason"), {}
    with contextlib.suppress(OSError, UnusableFileError, csv.Error):  # a damaged table has its own message
        text = read_bytes(workspace / "cohort" / "scans.csv").decode("utf-8", "replace")
        scans = {row.get("scan"): row for row in csv.DictReader(io.StringIO(text, newline=""))}
    rows = [{**{c: scans.get(failure["scan"], {}).get(c, "") for c in columns}, **failure} for failure in failures]
    write_rows(workspace / "failures.csv", columns, rows, for_spreadsheets=for_spreadsheets)


def check_device(steps: Sequence[Step], device: str, *, elsewhere: bool = False) -> None:
    """Refuse a device that is not there before anything is touched; "auto" and "cpu" always are.

    Args:
        steps: of the plan.
        device: as asked for.
        elsewhere: the work on scans is done on other machines; this one needs the device for the other stages only.

    Raises:
        InputError: it is not there.
    """
    moving = [step for step in steps if step.state != "up to date" and not (elsewhere and step.stage.job)]
    if device not in ("auto", "cpu") and moving:
        _ = Runtime(stage="", key="", device_name=device, workspace=Path()).device


def save_settings(settings: Settings, workspace: Path) -> bytes | None:
    """`settings.yaml`: the settings of the newest run, as a config file holds them; returns what it held before."""
    path = workspace / "settings.yaml"
    before = None
    with contextlib.suppress(FileNotFoundError, UnusableFileError):  # what is no file is replaced, and not put back
        before = None if path.is_symlink() else read_bytes(path, most=MOST_YAML)
    with replacing(path) as part:
        part.write_text(settings_yaml(settings), "utf-8")
    return before


def restore_settings(before: bytes | None, workspace: Path) -> None:
    """Put `settings.yaml` back after a run that was refused."""
    if before is not None:
        with replacing(workspace / "settings.yaml") as part:
            part.write_bytes(before)


def forget_splits(workspace: Path) -> None:
    """Set the frozen splits aside as `splits.before.csv`, so that new ones are dealt."""
    (workspace / "split" / "manifest.json").unlink(missing_ok=True)
    splits = workspace / "split" / "splits.csv"
    if splits.exists():
        splits.replace(splits.with_name("splits.before.csv"))

"""Execution of a plan: every stage that is not up to date, in order, each with its manifest written last."""

import datetime
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from console.errors import PreconditionError
from devices.allocator import release_freed_memory
from files.writing import real_folder
from pipeline.core.provenance import digest, git_commit, machine, versions
from pipeline.core.runtime import Runtime
from pipeline.runner.executor import Executor
from pipeline.runner.plan import Step, made_from, stale_reasons
from pipeline.runner.stage import Stage
from pipeline.store.base import DamagedError, write_record
from pipeline.store.claims import ScanClaims
from pipeline.store.scan_set import ScanSet

log = logging.getLogger("hypermm")


def run_plan(
    steps: Sequence[Step],
    settings: Any,
    workspace: Path,
    *,
    device: str,
    force: Sequence[str] = (),
    executor: Executor | None = None,
) -> dict[str, float]:
    """Run the stages that are not up to date, in order; scans with the executor, or in this process if None.

    Returns:
        Stage → seconds, of those that ran.

    Raises:
        InputError: a requirement of a stage is missing; no stage has been run then.
    """
    for step in steps:
        if step.state == "run":
            step.stage.check(getattr(settings, step.stage.name))
    seconds: dict[str, float] = {}
    for repairs_left in reversed(range(len(steps) + 1)):
        try:
            for step in steps:
                name = step.stage.name
                if name in force and name not in seconds:
                    step.stage.writes(workspace / name).invalidate_all()
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
    """Check the files of all scans, so that all damaged results are repeated together."""
    for step in steps:
        artifact = step.stage.writes(workspace / step.stage.name)
        if isinstance(artifact, ScanSet) and (damaged := artifact.check_all()):
            log.warning("%s: the results of %d scans are damaged: %s", step.stage.name, len(damaged), damaged[:10])


def run_stage(stage: Stage, settings: Any, workspace: Path, *, device: str, executor: Executor | None = None) -> float:
    """Run one stage and write its `manifest.json` last; return the seconds taken."""
    folder = workspace / stage.name
    out = stage.writes(folder)
    real_folder(folder, below=workspace)
    before = out.manifest
    (folder / "manifest.json").unlink(missing_ok=True)
    ScanClaims(folder, run="").close()  # pending writes of workers of an earlier run are discarded
    material = made_from(stage, settings, workspace)
    runtime = Runtime(stage=stage.name, key=digest(material), device_name=device, workspace=workspace)
    if executor is not None and stage.per_scan is not None:
        runtime.executor = executor.for_stage(stage, settings)
    elif executor is not None:
        executor.release_workers()  # workers do not occupy a cluster while networks are trained here
    log.info("%s: starts", stage.name)
    begun, started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    try:
        stage.run(settings, workspace, out=out, runtime=runtime)
    except PreconditionError:
        if before is not None:
            write_record(folder / "manifest.json", before)
        raise
    finally:
        release_freed_memory()
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
    counts = ", ".join(f"{count} {_named(name, count)}" for name, count in contents["counts"].items())
    log.info("%s: done in %.1f s%s → %s", stage.name, taken, f", {counts}" if counts else "", folder)
    return taken


def _named(plural: str, count: int) -> str:
    """Return the noun of a count, as its name in the manifest is in the plural."""
    singular = {"copies": "copy", "hypotheses": "hypothesis"}.get(plural, plural.removesuffix("s"))
    return singular if count == 1 else plural


def check_device(steps: Sequence[Step], device: str, *, elsewhere: bool = False) -> None:
    """Refuse a missing device before anything is changed; "auto" and "cpu" are always accepted.

    Args:
        steps: of the plan.
        device: as requested.
        elsewhere: scans are processed on other machines; this one needs the device for the other stages only.

    Raises:
        InputError: the device is not present.
    """
    moving = [step for step in steps if step.state != "up to date" and not (elsewhere and step.stage.per_scan)]
    if device not in ("auto", "cpu") and moving:
        _ = Runtime(stage="", key="", device_name=device, workspace=Path()).device

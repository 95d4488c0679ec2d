"""Functions that run in a worker: processing of single scans.

A task is a dict of strings and numbers and contains no code. The worker uses the code of the stage that is installed on
its machine, and compares the key of the scan, so that the result is the same as on the dispatching machine.
"""

import functools
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from console.errors import NOT_ALLOWED, InputError
from devices.allocator import prepare_allocator
from pipeline.core.runtime import Runtime
from pipeline.runner.per_scan import NOT_THE_SCANS_FAULT, ScanJob, do_scan
from pipeline.specs.registry import STAGES
from pipeline.store.base import DamagedError
from pipeline.store.claims import MOST_DEATHS, ScanClaims, StagingArea, new_name

log = logging.getLogger("hypermm")
NAME = new_name()  # of this process
VISIBLE_WITHIN_S = 20.0  # limit for files of another machine to appear
ONE_AT_A_TIME = threading.Lock()  # networks, threads and staging area serve one scan, however many threads Dask has


@dataclass(frozen=True)
class PreparedStage:
    """A stage in a workspace, with all that is needed to process scans.

    Attributes:
        job: work on one scan; writes into the staging area.
        staging: staging area for incomplete files.
        runtime: of the stage, in this process.
    """

    job: ScanJob
    staging: StagingArea
    runtime: Runtime


def do_some(task: Mapping[str, Any], scans: Sequence[str], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Process scans one after the other; end early if no further scan can be processed.

    Returns:
        The outcome of `do_one` for each scan, with `seconds` added.
    """
    outcomes: list[dict[str, Any]] = []
    for scan, key in zip(scans, keys, strict=True):
        started = time.monotonic()
        outcome = do_one(task, scan, key)
        outcomes.append({**outcome, "seconds": time.monotonic() - started})
        if "stop" in outcome:
            break
    return outcomes


def do_one(task: Mapping[str, Any], scan: str, key: str) -> dict[str, Any]:
    """Process one scan and return the outcome.

    Args:
        task: entries that all scans of a stage share: `stage`, `workspace`, `settings` (of the stage, as JSON),
            `stage_key`, `device`, `run`, `memory` (limit of a worker, as text).
        scan: its id.
        key: of the scan, computed by the dispatching run.

    Returns:
        `lines`: [level, text], for the run log; `notes`: for the report; `died`: number of workers that died at this
        scan in this run. After too many deaths the scan is skipped, and `suspect` is the reason. If no scan can be
        processed: `stop` ("input", "damaged" or "disk"), `reason` and, for a disk, `errno`.
    """
    with ONE_AT_A_TIME, _captured_log() as lines:
        notes: list[str] = []
        outcome: dict[str, Any] = {"lines": lines, "notes": notes, "died": 0}
        try:
            outcome["died"] = _do(task, scan, key, notes)
            if outcome["died"] >= MOST_DEATHS:
                outcome["suspect"] = _suspect_reason(task)
        except InputError as error:
            outcome |= {"stop": "input", "reason": str(error)}
        except DamagedError as error:
            outcome |= {"stop": "damaged", "reason": str(error)}
        except OSError as error:
            if error.errno not in (*NOT_THE_SCANS_FAULT, *NOT_ALLOWED):
                raise
            reason = f"{error.strerror or error} on {socket.gethostname()}: {error.filename or task['workspace']}"
            outcome |= {"stop": "disk", "reason": reason, "errno": error.errno}
        return outcome


def _do(task: Mapping[str, Any], scan: str, key: str, notes: list[str]) -> int:
    """Process one scan unless too many workers died at it; return the number of these workers."""
    workspace = Path(task["workspace"])
    claims = ScanClaims(workspace / task["stage"], task["run"])
    if not _sees_the_run(claims):
        raise InputError(
            f"a worker on {socket.gethostname()} does not find this run in {workspace}. The workspace has to be on a "
            "file system that all workers share, under the same path"
        )
    stage = _prepared_stage(task["stage"], str(workspace), task["settings"], task["device"], task["stage_key"])
    job, staging = stage.job, stage.staging
    out = staging.out
    if out.has(scan, key):
        return 0  # its worker was lost after finishing it
    if job.keys.get(scan) != key:
        raise InputError(
            f"{task['stage']}: a worker on {socket.gethostname()} would compute something else for scan {scan}: its "
            "code, packages or weights are not those of this run. Install the same version there and start it again"
        )
    died = claims.claim_of(scan).get("times", 0)
    if died >= MOST_DEATHS:
        return died
    claims.claim(scan, NAME)
    staging.reset(scan)
    stage.runtime.notes.clear()
    do_scan(job, staging.staged, scan, loaded=lambda: job.load(scan), write=lambda finish: finish())
    if claims.holds(scan, NAME):
        staging.commit(scan)
        claims.release(scan)
    notes += stage.runtime.notes
    return died


def _sees_the_run(claims: ScanClaims) -> bool:
    """Return whether this folder is that of the dispatching run; waits for slow network file systems."""
    deadline = time.monotonic() + VISIBLE_WITHIN_S
    while claims.dispatching_run() != claims.run:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _suspect_reason(task: Mapping[str, Any]) -> str:
    return (
        f"its worker died {MOST_DEATHS} times while it processed this scan: killed, crashed, or above its memory "
        f"limit ({task['memory']}). The scan is skipped now and in later runs; after a remedy (another file, more "
        f"--worker-memory) --force {task['stage']} tries again"
    )


@functools.lru_cache(maxsize=1)  # networks of an earlier stage are released
def _prepared_stage(stage_name: str, workspace: str, settings: str, device: str, stage_key: str) -> PreparedStage:
    prepare_allocator()
    stage = next(stage for stage in STAGES if stage.name == stage_name)
    out = stage.writes(Path(workspace) / stage_name)
    runtime = Runtime(stage=stage_name, key=stage_key, device_name=device, workspace=Path(workspace))
    staging = StagingArea(out, NAME)  # type: ignore[arg-type]
    config = stage.config.model_validate_json(settings)
    job = stage.job(Path(workspace), out=staging.staged, config=config, runtime=runtime)
    return PreparedStage(job, staging, runtime)


@contextmanager
def _captured_log() -> Iterator[list[list[Any]]]:
    """Collect log records, which the run logs again."""
    lines: list[list[Any]] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
            lines.append([record.levelno, text])

    handler, before = Collect(), (log.level, log.propagate)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield lines
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]

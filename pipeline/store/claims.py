"""The scans that workers have claimed: who began what, how often, and a staging area for each worker to write in.

All of it is files in `<stage>/.claims`, which every worker sees, so that it holds with any scheduler and outlives it:

- `run.json` names the run that dispatches. A worker that does not find it is not on the same file system; one that
  finds another run works for a run that is over.
- `scan-<id>.json` says who has begun a scan and how often it was begun. It is removed when the scan is finished. If it
  is still there when the scan is begun again, its worker died; scans that only waited for that worker are not blamed.
- `<worker>/<scan>/` is where a worker writes. Files move to the artifact as a whole when they are complete, and only if
  the worker still holds the claim: one that was thought dead and is not cannot spoil what its successor wrote.
"""

import os
import socket
import uuid
from pathlib import Path
from typing import Any

from files.writing import remove_folder
from pipeline.store.base import read_json, safe_id, write_json
from pipeline.store.scan_set import ScanSet

FOLDER = ".claims"
MOST_DEATHS = 3


class ScanClaims:
    """The folder `.claims` of a stage.

    Args:
        stage_folder: of the stage.
        run: name of the run that dispatches.
    """

    def __init__(self, stage_folder: Path, run: str) -> None:
        self.folder = stage_folder / FOLDER
        self.run = run

    def open(self) -> None:
        """Begin to dispatch; what earlier runs left is removed."""
        self.close()
        write_json(self.folder / "run.json", {"run": self.run})

    def close(self) -> None:
        """Remove the folder: no claim holds any more."""
        remove_folder(self.folder, below=self.folder.parent, others_write=True)

    def release_all(self) -> None:
        """Blame no scan for workers that were lost with their scheduler; what they still write is dropped."""
        for path in self.folder.glob("*.json"):
            if path.name != "run.json":
                path.unlink(missing_ok=True)

    def dispatching_run(self) -> str | None:
        """Return the run that dispatches here; None if no run does, or this machine sees another folder."""
        return (read_json(self.folder / "run.json") or {}).get("run")

    def claim_of(self, scan: str) -> dict[str, Any]:
        """Return who began the scan, and how often it was begun in this run; empty if nobody has."""
        claim = read_json(self._path(scan)) or {}
        return claim if claim.get("run") == self.run else {}

    def claim(self, scan: str, worker: str) -> None:
        """Note that the worker begins the scan."""
        content = {"run": self.run, "times": self.claim_of(scan).get("times", 0) + 1, "worker": worker}
        write_json(self._path(scan), {**content, "host": socket.gethostname(), "process": os.getpid()})

    def holds(self, scan: str, worker: str) -> bool:
        """Return whether the worker is the last that claimed the scan."""
        return self.dispatching_run() == self.run and self.claim_of(scan).get("worker") == worker

    def release(self, scan: str) -> None:
        """Note that the scan is finished, well or not."""
        self._path(scan).unlink(missing_ok=True)

    def _path(self, scan: str) -> Path:
        return self.folder / f"scan-{safe_id(scan)}.json"


class StagingArea:
    """Where one worker writes the files of a scan until they are complete.

    Args:
        out: the stage's artifact.
        worker: name of the worker, unlike any other's.

    Attributes:
        staged: the artifact as the worker sees it: the current scan is in the staging area, all others in `out`.
    """

    def __init__(self, out: ScanSet, worker: str) -> None:
        self.out = out
        self.folder = out.folder / FOLDER / worker
        self.staged = _staged_class(type(out))(out.folder)
        self.staged.staging_folder = self.folder

    def reset(self, scan: str) -> None:
        """Empty the area, and take the scan for the current one."""
        self.staged.current_scan = scan
        remove_folder(self.folder, below=self.folder.parent, others_write=True)

    def commit(self, scan: str) -> None:
        """Move the complete files of the scan to the artifact."""
        self.out.remove(scan)
        os.replace(self.staged.folder_of(scan), self.out.folder_of(scan))


class _Staged:
    """An artifact whose current scan lies in a staging area; all others are where they belong."""

    staging_folder: Path
    current_scan: str | None = None

    def folder_of(self, scan: str) -> Path:
        """Return the folder of a scan."""
        if scan == self.current_scan:
            return self.staging_folder / safe_id(scan)
        return super().folder_of(scan)  # type: ignore[misc]


def _staged_class(kind: type[ScanSet]) -> Any:
    return type(f"Staged{kind.__name__}", (_Staged, kind), {})


def new_name() -> str:
    """Return a name that no other run or worker has; no host or user is in it."""
    return uuid.uuid4().hex[:12]

"""Claims of workers on scans, and a staging area for the files of each worker.

Claims are files in `<stage>/.claims`, which all workers see; they do not depend on the scheduler:

- `run.json` names the run that dispatches. A worker that cannot read it is not on the same file system; one that
  reads another name belongs to a run that has ended.
- `scan-<id>.json` records which worker has begun a scan, and how often. It is removed when the scan is finished. If it
  still exists when the scan is begun again, its worker died; scans that only waited for that worker have no such file.
- `<worker>/<scan>/` is the staging area of a worker. Complete files move to the artifact together, and only if the
  worker still holds the claim, so that a worker wrongly taken for dead cannot overwrite the files of its successor.
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
    """Claims of workers on the scans of a stage, in the folder `.claims`.

    Args:
        stage_folder: of the stage.
        run: name of the run that dispatches.
    """

    def __init__(self, stage_folder: Path, run: str) -> None:
        self.folder = stage_folder / FOLDER
        self.run = run

    def open(self) -> None:
        """Start dispatching for this run; claims of earlier runs are removed."""
        self.close()
        write_json(self.folder / "run.json", {"run": self.run})

    def close(self) -> None:
        """Remove the folder with all claims."""
        remove_folder(self.folder, below=self.folder.parent, others_write=True)

    def release_all(self) -> None:
        """Remove the claims of workers that were lost with their scheduler; their pending writes are discarded."""
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
    """Folder in which one worker writes the files of a scan until they are complete.

    Args:
        out: the stage's artifact.
        worker: unique name of the worker.

    Attributes:
        staged: the artifact as the worker sees it: the current scan is in the staging area, all others in `out`.
    """

    def __init__(self, out: ScanSet, worker: str) -> None:
        self.out = out
        self.folder = out.folder / FOLDER / worker
        self.staged = _staged_class(type(out))(out.folder)
        self.staged.staging_folder = self.folder

    def reset(self, scan: str) -> None:
        """Empty the staging area and make the scan the current one."""
        self.staged.current_scan = scan
        remove_folder(self.folder, below=self.folder.parent, others_write=True)

    def commit(self, scan: str) -> None:
        """Move the complete files of the scan to the artifact."""
        self.out.remove(scan)
        os.replace(self.staged.folder_of(scan), self.out.folder_of(scan))


class _Staged:
    """An artifact whose current scan is in a staging area; all other scans are in the artifact's folder."""

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
    """Return a unique name for a run or worker, without host or user names."""
    return uuid.uuid4().hex[:12]

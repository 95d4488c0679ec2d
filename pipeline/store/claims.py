"""The scans that workers have in hand: who began what, how often, and a private place for each to write in.

All of it is files in `<stage>/.in-hand`, which every worker sees, so that it holds with any scheduler and outlives it:

- `run.json` names the run that hands out. A worker that does not find it is not on the same file system; one that finds
  another run works for a run that is over.
- `<scan>.json` says who has begun a scan and how often it was begun. It goes when the scan is finished. What is still
  there when a scan is begun again has lost its worker; a scan that waits behind another is not blamed.
- `<worker>/<scan>/` is where a worker writes. Files move to their place as a whole when they are complete, and only if
  the scan is still this worker's: one that was thought dead and is not cannot spoil what its successor wrote.
"""

import os
import socket
import uuid
from pathlib import Path
from typing import Any

from files.writing import remove_folder
from pipeline.store.base import read_json, safe_id, write_json
from pipeline.store.scan_set import ScanSet

FOLDER = ".in-hand"
MOST_DEATHS = 3


class InHand:
    """The folder `.in-hand` of a stage.

    Args:
        stage_folder: of the stage.
        run: name of the run that hands out.
    """

    def __init__(self, stage_folder: Path, run: str) -> None:
        self.folder = stage_folder / FOLDER
        self.run = run

    def open(self) -> None:
        """Begin: what earlier runs left goes."""
        self.close()
        write_json(self.folder / "run.json", {"run": self.run})

    def close(self) -> None:
        """End: nothing is in hand."""
        remove_folder(self.folder, below=self.folder.parent, others_write=True)

    def forget_all(self) -> None:
        """Blame no scan for the workers that went with their scheduler; what they still write is dropped."""
        for path in self.folder.glob("*.json"):
            if path.name != "run.json":
                path.unlink(missing_ok=True)

    def runs_here(self) -> str | None:
        """The run that hands out here; None if no run does, or another folder is seen here than there."""
        return (read_json(self.folder / "run.json") or {}).get("run")

    def begun(self, scan: str) -> dict[str, Any]:
        """Who began the scan, and how often it was begun in this run; empty if nobody has."""
        found = read_json(self._note(scan)) or {}
        return found if found.get("run") == self.run else {}

    def begin(self, scan: str, worker: str) -> None:
        """The worker begins the scan."""
        note = {"run": self.run, "times": self.begun(scan).get("times", 0) + 1, "worker": worker}
        write_json(self._note(scan), {**note, "host": socket.gethostname(), "process": os.getpid()})

    def holds(self, scan: str, worker: str) -> bool:
        """Whether the scan is this worker's."""
        return self.runs_here() == self.run and self.begun(scan).get("worker") == worker

    def end(self, scan: str) -> None:
        """The scan is finished, well or not."""
        self._note(scan).unlink(missing_ok=True)

    def _note(self, scan: str) -> Path:
        return self.folder / f"scan-{safe_id(scan)}.json"


class Desk:
    """The private place of one worker: what it writes in a stage, until it is complete.

    Args:
        out: the stage's artifact.
        worker: name of the worker, unlike any other's.
    """

    def __init__(self, out: ScanSet, worker: str) -> None:
        self.out = out
        self.place = out.folder / FOLDER / worker
        self.staged = _staged_class(type(out))(out.folder)
        self.staged.desk = self.place

    def clear(self, scan: str) -> None:
        """Make room for a scan."""
        self.staged.in_hand = scan
        remove_folder(self.place, below=self.place.parent, others_write=True)

    def hand_in(self, scan: str) -> None:
        """Move the complete files of the scan to their place."""
        self.out.remove(scan)
        os.replace(self.staged.place(scan), self.out.place(scan))


class _Staged:
    """An artifact whose scan in hand lies on a desk; all others are where they belong."""

    desk: Path
    in_hand: str | None = None

    def place(self, scan: str) -> Path:
        """The folder of a scan."""
        return self.desk / safe_id(scan) if scan == self.in_hand else super().place(scan)  # type: ignore[misc]


def _staged_class(kind: type[ScanSet]) -> Any:
    return type(f"Staged{kind.__name__}", (_Staged, kind), {})


def new_name() -> str:
    """A name that no other run or worker has; no host or user in it."""
    return uuid.uuid4().hex[:12]

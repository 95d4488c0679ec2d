"""State of the scans of a stage during dispatch: waiting, finished, and suspected of killing workers."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from console.errors import InputError
from pipeline.core.runtime import Runtime
from pipeline.executors.workers import KEPT
from pipeline.runner.per_scan import ScanJob
from pipeline.store.base import DamagedError
from pipeline.store.claims import MOST_DEATHS, ScanClaims
from pipeline.store.scan_set import ScanSet

log = logging.getLogger("hypermm")
VISIBLE_WITHIN_S = 90.0  # limit for files of a worker to appear on a caching file system
MOST_SUSPECTS = 3  # in a row; more point to another cause than the scans
MOST_DEAD = 12  # workers in a row that died before they began a scan


@dataclass
class PendingScans:
    """State of the scans of a stage during dispatch; kept when the connection is lost.

    Attributes:
        task: what all scans have in common, see `pipeline.executors.worker.do_one`.
        job: the work; only its keys are used here.
        out: where results go.
        runtime: of the stage.
        advance: called after every scan.
        waiting: scans to dispatch.
        claims: which scans workers have begun.
        suspects: scan → reason, of scans that killed all their workers; recorded as failed when another scan finishes.
        dead_workers: addresses of workers that died before they began a scan, since the last finished scan.
        invisible: finished scans whose files are not visible on this machine yet.
        task_numbers: unique numbers for the names of tasks.
    """

    task: dict[str, Any]
    job: ScanJob
    out: ScanSet
    runtime: Runtime
    advance: Callable[[], None]
    waiting: deque[str]
    claims: ScanClaims
    suspects: dict[str, str] = field(default_factory=dict)
    dead_workers: set[str] = field(default_factory=set)
    invisible: set[str] = field(default_factory=set)
    task_numbers: Iterator[int] = field(default_factory=count)

    def record_result(self, scan: str, outcome: dict[str, Any]) -> None:
        """Record the outcome of a scan.

        Args:
            scan: its id.
            outcome: what `pipeline.executors.worker.do_one` returned.

        Raises:
            InputError: a fault that every scan would meet.
            DamagedError: an earlier stage has to repeat a scan first.
            OSError: the worker found the disk full.
        """
        if outcome["died"]:
            log.warning("scan %s: %d of its workers died", scan, outcome["died"])
        for level, text in outcome["lines"]:
            log.log(level, "%s", text)
        self.runtime.notes += outcome["notes"]
        if outcome.get("stop") == "input":
            raise InputError(outcome["reason"])
        if outcome.get("stop") == "damaged":
            raise DamagedError(outcome["reason"])
        if outcome.get("stop") == "disk":
            raise OSError(outcome["errno"], outcome["reason"])
        self.dead_workers.clear()
        if "suspect" in outcome:
            self._suspect(scan, outcome["suspect"])
        else:
            if not self._visible(scan):
                self.invisible.add(scan)
            self._fail_suspects()
        self.advance()

    def _suspect(self, scan: str, reason: str) -> None:
        self.suspects[scan] = reason
        if len(self.suspects) >= MOST_SUSPECTS:
            first = next(iter(self.suspects))
            raise InputError(
                f"{len(self.suspects)} scans in a row killed {MOST_DEATHS} workers each, {first} first; the "
                f"scans are probably not the cause, so none is left out. {self._memory()}"
            )

    def _fail_suspects(self) -> None:
        for scan, reason in self.suspects.items():
            log.warning("scan %s left out: %s", scan, reason)
            self.out.fail(scan, self.job.keys[scan], reason, retryable=False)
        self.suspects.clear()

    def requeue(self, scans: Sequence[str], worker: str) -> None:
        """Queue the scans of a worker that died again.

        If the worker had begun one of them, its death counts for that scan only.

        Args:
            scans: of one task; finished ones are recognised by the next worker.
            worker: its address.

        Raises:
            InputError: too many workers died before they began a scan.
        """
        if not any(self.claims.claim_of(scan) for scan in scans):
            self.dead_workers.add(worker)
        if len(self.dead_workers) > MOST_DEAD:
            raise InputError(
                f"{len(self.dead_workers)} workers died before they began a scan, the last of them at {worker}. "
                + self._memory()
            )
        self.waiting.extendleft(reversed(scans))

    def finalise(self) -> None:
        """Record the remaining suspects as failed, and wait for files that a network file system shows late.

        Raises:
            InputError: files that workers have finished do not appear.
        """
        self._fail_suspects()
        deadline = time.monotonic() + VISIBLE_WITHIN_S
        while invisible := [scan for scan in self.invisible if not self._visible(scan)]:
            if time.monotonic() > deadline:
                raise InputError(
                    f"workers have finished {len(invisible)} scans whose files are not visible here, {invisible[0]} "
                    f"among them. Is {self.out.folder} the same folder for workers and for this machine? {KEPT}"
                )
            time.sleep(0.5)
        self.invisible.clear()

    def _memory(self) -> str:
        return f"Is the workers' memory too small (--worker-memory, now {self.task['memory']})? {KEPT}"

    def _visible(self, scan: str) -> bool:
        key = self.job.keys[scan]
        return self.out.has(scan, key) or self.out.failure(scan, key) is not None

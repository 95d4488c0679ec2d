"""The books of a stage whose scans are handed out: what waits, what came back, and who is to blame."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from console.errors import InputError
from pipeline.core.runtime import Runtime
from pipeline.executors.connection import SAFE
from pipeline.runner.per_scan import ScanJob
from pipeline.store.base import DamagedError
from pipeline.store.claims import MOST_DEATHS, InHand
from pipeline.store.scan_set import ScanSet

log = logging.getLogger("hypermm")
SHOWN_WITHIN_S = 90.0  # what a worker has written is seen here, on a file system that caches
MOST_SUSPECTS = 3  # in a row; then it is not the scans
MOST_DEAD = 12  # workers that died with scans that they had not begun, no scan being done meanwhile


@dataclass
class Errand:
    """The scans of a stage, some waiting to be handed out; it outlives a connection.

    Attributes:
        task: what all scans have in common, see `pipeline.executors.worker.do_one`.
        job: the work; only its keys are used here.
        out: where results go.
        runtime: of the stage.
        advance: called after every scan.
        waiting: scans that nobody has in hand.
        hand: what workers have begun.
        suspects: scan → reason, of those that killed all their workers; blamed as soon as another scan ends otherwise.
        dead: addresses of workers that died with scans that they had not begun, since a scan was done.
        unseen: scans whose files cannot be seen here yet.
        numbers: of tasks; Dask must not take one for another.
    """

    task: dict[str, Any]
    job: ScanJob
    out: ScanSet
    runtime: Runtime
    advance: Callable[[], None]
    waiting: deque[str]
    hand: InHand
    suspects: dict[str, str] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    unseen: set[str] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=count)

    def take(self, scan: str, outcome: dict[str, Any]) -> None:
        """Write down how a scan ended.

        Args:
            scan: which.
            outcome: what `pipeline.executors.worker.do_one` returned.

        Raises:
            InputError: a fault that every scan would meet.
            DamagedError: an earlier stage has to make a scan again first.
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
        self.dead.clear()
        if "suspect" in outcome:
            self._suspect(scan, outcome["suspect"])
        else:
            if not self._shown(scan):
                self.unseen.add(scan)
            self._blame_suspects()
        self.advance()

    def _suspect(self, scan: str, reason: str) -> None:
        self.suspects[scan] = reason
        if len(self.suspects) >= MOST_SUSPECTS:
            first = next(iter(self.suspects))
            raise InputError(
                f"{len(self.suspects)} scans in a row killed {MOST_DEATHS} workers each, {first} first; that is "
                f"hardly the scans' fault, and none is left out for it. {self._memory()}"
            )

    def _blame_suspects(self) -> None:
        for scan, reason in self.suspects.items():
            log.warning("scan %s left out: %s", scan, reason)
            self.out.fail(scan, self.job.keys[scan], reason, again=False)
        self.suspects.clear()

    def try_again(self, scans: Sequence[str], worker: str) -> None:
        """A worker died. If it had begun a scan, that is counted there; the others have nothing to do with it.

        Args:
            scans: assigned to it together; those that it has finished are found done.
            worker: its address.

        Raises:
            InputError: workers die and die before they begin anything.
        """
        if not any(self.hand.begun(scan) for scan in scans):
            self.dead.add(worker)
        if len(self.dead) > MOST_DEAD:
            raise InputError(
                f"{len(self.dead)} workers died before they began a scan, the last of them at {worker}. "
                + self._memory()
            )
        self.waiting.extendleft(reversed(scans))

    def settle(self) -> None:
        """Close the books: blame who is left, and wait for what a network file system shows only after a while.

        Raises:
            InputError: files that workers have finished do not appear.
        """
        self._blame_suspects()
        deadline = time.monotonic() + SHOWN_WITHIN_S
        while unseen := [scan for scan in self.unseen if not self._shown(scan)]:
            if time.monotonic() > deadline:
                raise InputError(
                    f"workers have finished {len(unseen)} scans whose files are not seen here, {unseen[0]} among them. "
                    f"Is {self.out.folder} the same folder for workers and for this machine? {SAFE}"
                )
            time.sleep(0.5)
        self.unseen.clear()

    def _memory(self) -> str:
        return f"Is the workers' memory too small (--worker-memory, now {self.task['memory']})? {SAFE}"

    def _shown(self, scan: str) -> bool:
        key = self.job.keys[scan]
        return self.out.has(scan, key) or self.out.failure(scan, key) is not None

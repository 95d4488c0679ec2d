"""Dispatch of scans to Dask workers, with recovery when workers or the scheduler are lost."""

import asyncio
import concurrent.futures
import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from distributed import Client, Future, KilledWorker

from console.errors import InputError
from pipeline.core.runtime import Runtime
from pipeline.executors.connection import Connection, SchedulerLostError
from pipeline.executors.pending import PendingScans
from pipeline.executors.worker import do_some
from pipeline.runner.per_scan import ScanJob
from pipeline.runner.stage import Stage
from pipeline.store.claims import ScanClaims, new_name
from pipeline.store.scan_set import ScanSet

log = logging.getLogger("hypermm")
CHECK_EVERY_S = 1.0  # that workers are connected
TASKS_PER_WORKER, FEWEST_TASKS = 3, 32  # submitted at a time: so many that no worker waits for this process
TASK_S, LARGEST_TASK = 0.05, 32  # faster scans share a task; Dask needs some 2 ms per task
GATHER_AFTER_S = 0.02  # results are gathered several at a time


class DispatchingExecutor:
    """Executor that dispatches scans to Dask workers, which start with the first scan.

    Args:
        connection: to the workers.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.run = new_name()

    @property
    def elsewhere(self) -> bool:
        """Whether scans are processed on other machines."""
        return self.connection.workers.elsewhere

    def describe(self) -> str:
        """Return "": nothing to add to the plan."""
        return ""

    def release_workers(self) -> None:
        """Stop the workers; the next scans start new ones."""
        self.connection.close()

    def for_stage(self, stage: Stage, settings: Any) -> Callable[..., None]:
        """Return a function that processes the scans of a stage."""
        return partial(self._dispatch, stage.name, getattr(settings, stage.name).model_dump_json())

    def _dispatch(
        self,
        stage: str,
        settings: str,
        job: ScanJob,
        out: ScanSet,
        scans: Sequence[str],
        runtime: Runtime,
        advance: Callable[[], None],
    ) -> None:
        """Process scans, called like `pipeline.runner.per_scan.in_process` once stage and settings are given.

        Raises:
            InputError: a fault that every scan would meet; scheduler or workers cannot be reached.
            OSError: a worker found the disk full.
        """
        task = {
            "stage": stage,
            "workspace": str(runtime.workspace),
            "settings": settings,
            "stage_key": runtime.key,
            "device": self.connection.workers.device,
            "run": self.run,
            "memory": self.connection.workers.memory,
        }
        claims = ScanClaims(out.folder, self.run)
        claims.open()
        pending = PendingScans(task, job, out, runtime, advance, deque(scans), claims)
        try:
            while pending.waiting:
                try:
                    DispatchLoop(self.connection, pending).run()
                except SchedulerLostError:
                    log.warning("lost the Dask scheduler; reconnecting. %d scans to do", len(pending.waiting))
                    claims.release_all()
                    self.connection.close()
            pending.finalise()
        except BaseException:
            self.connection.close()
            raise
        finally:
            claims.close()


class DispatchLoop:
    """Loop that dispatches scans and collects results during one connection.

    Args:
        connection: to the workers.
        pending: the scans of a stage.
    """

    def __init__(self, connection: Connection, pending: PendingScans) -> None:
        self.connection, self.pending = connection, pending
        self.client: Client = connection.client()
        self.in_flight: dict[Future, list[str]] = {}
        self.scans_per_task = 1  # more only if scans are very fast
        self.ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self.workers, self.checked = connection.count_workers(), time.monotonic()

    def run(self) -> None:
        """Dispatch until every scan is done.

        Raises:
            SchedulerLostError: the connection broke; the scans in flight are queued again.
        """
        try:
            while self.pending.waiting or self.in_flight:
                self._submit()
                self._collect()
                if time.monotonic() - self.checked > CHECK_EVERY_S:
                    self.workers, self.checked = self.connection.count_workers(), time.monotonic()
        except SchedulerLostError:
            self.pending.waiting.extendleft(reversed([scan for scans in self.in_flight.values() for scan in scans]))
            raise

    def _submit(self) -> None:
        waiting, job, task = self.pending.waiting, self.pending.job, self.pending.task
        free = max(FEWEST_TASKS, TASKS_PER_WORKER * self.workers) - len(self.in_flight)
        batches: list[list[str]] = []
        while waiting and len(batches) < free:
            batches.append([waiting.popleft() for _ in range(min(self.scans_per_task, len(waiting)))])
        if not batches:
            return
        names = [(f"{task['stage']}-{task['run']}", next(self.pending.task_numbers)) for _ in batches]
        keys = [[job.keys[scan] for scan in scans] for scans in batches]
        futures = self.client.map(do_some, [task] * len(batches), batches, keys, key=names, pure=False)
        for scans, future in zip(batches, futures, strict=True):
            self.in_flight[future] = scans
            future.add_done_callback(self.ended.put)

    def _collect(self) -> None:
        try:
            ended = [self.ended.get(timeout=CHECK_EVERY_S)]
        except queue.Empty:
            return
        time.sleep(GATHER_AFTER_S)
        while not self.ended.empty():
            ended.append(self.ended.get())
        for future in ended:
            if future.status in ("cancelled", "lost"):
                raise SchedulerLostError
            if future.status == "error":
                self._handle_error(future)
        finished = [future for future in ended if future.status == "finished"]
        for future, outcomes in self._outcomes(finished):
            scans = self.in_flight.pop(future)
            slowest = max(outcome["seconds"] for outcome in outcomes)
            self.scans_per_task = max(1, min(LARGEST_TASK, int(TASK_S / max(slowest, 1e-6))))
            for scan, outcome in zip(scans, outcomes, strict=False):  # fewer outcomes: the last one raises
                self.pending.record_result(scan, outcome)

    def _outcomes(self, futures: list[Future]) -> list[tuple[Future, list[dict[str, Any]]]]:
        """Return the outcomes of finished tasks; if a worker with a result died meanwhile, they are gathered later."""
        try:
            outcomes = self.client.sync(_gather, self.client, futures, callback_timeout=60 * CHECK_EVERY_S)
            return list(zip(futures, outcomes, strict=True))
        except TimeoutError:
            for future in futures:
                self.ended.put(future)
            return []
        except (asyncio.CancelledError, concurrent.futures.CancelledError, OSError) as error:
            raise SchedulerLostError from error

    def _handle_error(self, future: Future) -> None:
        error = future.exception()
        if isinstance(error, KilledWorker):
            self.pending.requeue(self.in_flight.pop(future), error.last_worker.address)
        elif isinstance(error, ImportError):
            raise InputError(
                f"a worker cannot start: {type(error).__name__}: {error}. Start workers with the Python environment "
                "and in the folder of this checkout"
            ) from error
        else:
            raise error or RuntimeError(f"scans {', '.join(self.in_flight[future])} failed without a reason")


async def _gather(client: Client, futures: list[Future]) -> list[list[dict[str, Any]]]:
    return list(await client.gather(futures, asynchronous=True))

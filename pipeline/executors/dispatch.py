"""Hand scans out to Dask workers, and keep count when workers or the scheduler go away."""

import asyncio
import concurrent.futures
import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from distributed import Client, Future, KilledWorker

from console.errors import InputError
from files.writing import remove_folder
from pipeline.core.runtime import Runtime
from pipeline.executors.certificate import FOLDER as PRIVATE
from pipeline.executors.config import ExecutorConfig
from pipeline.executors.connection import Connection, SchedulerLostError
from pipeline.executors.pending import Errand
from pipeline.executors.worker import do_some
from pipeline.runner.per_scan import ScanJob
from pipeline.runner.stage import Stage
from pipeline.store.claims import InHand, new_name
from pipeline.store.scan_set import ScanSet

log = logging.getLogger("hypermm")
LOOK_EVERY_S = 1.0  # at the cluster
A_WORKER, AT_LEAST = 3, 32  # scans that are with Dask: so many that no worker waits for this process
TASK_S, MOST_TOGETHER = 0.05, 32  # scans that take no longer together go together; Dask needs some 2 ms a task
TOGETHER_S = 0.02  # answers are asked for together


@contextmanager
def opened(config: ExecutorConfig, workspace: Path, *, device: str) -> Iterator["DaskExecutor | None"]:
    """The executor that the settings name; None is this process. Its workers stop at the end, however that comes.

    What a killed run left of its private folder goes first.
    """
    remove_folder(workspace / PRIVATE, below=workspace)
    if config.kind == "local":
        yield None
        return
    executor = DaskExecutor(Connection(config, workspace, device=device))
    try:
        yield executor
    finally:
        executor.release_workers()


class DaskExecutor:
    """Hands out scans. Workers start at the first scan there is to do.

    Args:
        connection: the way to the workers.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.run = new_name()

    def release_workers(self) -> None:
        """Let the workers go; there is nothing to do for them for a while."""
        self.connection.close()

    def for_stage(self, stage: Stage, settings: Any) -> Callable[..., None]:
        """What `Runtime.executor` is in a stage."""
        return partial(self._each, stage.name, getattr(settings, stage.name).model_dump_json())

    def _each(
        self,
        stage: str,
        settings: str,
        job: ScanJob,
        out: ScanSet,
        scans: Sequence[str],
        runtime: Runtime,
        advance: Callable[[], None],
    ) -> None:
        """As `pipeline.runner.per_scan.in_process`.

        Raises:
            InputError: a fault that every scan would meet; scheduler or workers stayed away.
            OSError: a worker found the disk full.
        """
        hand = InHand(out.folder, self.run)
        hand.open()
        task = {
            "stage": stage,
            "workspace": str(runtime.workspace),
            "settings": settings,
            "stage_key": runtime.key,
            "device": self.connection.worker_device,
            "run": self.run,
            "memory": self.connection.worker_memory,
        }
        errand = Errand(task, job, out, runtime, advance, deque(scans), hand)
        try:
            while errand.waiting:
                try:
                    _Round(self.connection, errand).go()
                except SchedulerLostError:
                    log.warning("lost the Dask scheduler; looking for it. %d scans to do", len(errand.waiting))
                    hand.forget_all()
                    self.connection.close()
            errand.settle()
        except BaseException:
            self.connection.close()
            raise
        finally:
            hand.close()


class _Round:
    """Handing out as long as one connection lasts."""

    def __init__(self, connection: Connection, errand: Errand) -> None:
        self.connection, self.errand = connection, errand
        self.client: Client = connection.client()
        self.flying: dict[Future, list[str]] = {}
        self.together = 1  # scans in one task: several only if they take next to no time
        self.back: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self.workers, self.looked = connection.look(), time.monotonic()

    def go(self) -> None:
        """Until every scan is done.

        Raises:
            SchedulerLostError: the connection broke; what was under way waits again.
        """
        try:
            while self.errand.waiting or self.flying:
                self._hand_out()
                self._take_back()
                if time.monotonic() - self.looked > LOOK_EVERY_S:
                    self.workers, self.looked = self.connection.look(), time.monotonic()
        except SchedulerLostError:
            self.errand.waiting.extendleft(reversed([scan for scans in self.flying.values() for scan in scans]))
            raise

    def _hand_out(self) -> None:
        waiting, job = self.errand.waiting, self.errand.job
        room = max(AT_LEAST, A_WORKER * self.workers) - len(self.flying)
        tasks: list[list[str]] = []
        while waiting and len(tasks) < room:
            tasks.append([waiting.popleft() for _ in range(min(self.together, len(waiting)))])
        if not tasks:
            return
        names = [(f"{self.errand.task['stage']}-{self.errand.task['run']}", next(self.errand.numbers)) for _ in tasks]
        keys = [[job.keys[scan] for scan in scans] for scans in tasks]
        futures = self.client.map(do_some, [self.errand.task] * len(tasks), tasks, keys, key=names, pure=False)
        for scans, future in zip(tasks, futures, strict=True):
            self.flying[future] = scans
            future.add_done_callback(self.back.put)

    def _take_back(self) -> None:
        try:
            ended = [self.back.get(timeout=LOOK_EVERY_S)]
        except queue.Empty:
            return
        time.sleep(TOGETHER_S)
        while not self.back.empty():
            ended.append(self.back.get())
        for future in ended:
            if future.status in ("cancelled", "lost"):
                raise SchedulerLostError
            if future.status == "error":
                self._failed(future)
        good = [future for future in ended if future.status == "finished"]
        for future, outcomes in self._outcomes(good):
            scans = self.flying.pop(future)
            slowest = max(outcome["seconds"] for outcome in outcomes)
            self.together = max(1, min(MOST_TOGETHER, int(TASK_S / max(slowest, 1e-6))))
            for scan, outcome in zip(scans, outcomes, strict=False):  # fewer outcomes: the last one raises
                self.errand.take(scan, outcome)

    def _outcomes(self, futures: list[Future]) -> list[tuple[Future, list[dict[str, Any]]]]:
        """What the workers returned. If one that has an answer died meanwhile, they are asked again later."""
        try:
            outcomes = self.client.sync(_gathered, self.client, futures, callback_timeout=60 * LOOK_EVERY_S)
            return list(zip(futures, outcomes, strict=True))
        except TimeoutError:
            for future in futures:
                self.back.put(future)
            return []
        except (asyncio.CancelledError, concurrent.futures.CancelledError, OSError) as error:
            raise SchedulerLostError from error

    def _failed(self, future: Future) -> None:
        error = future.exception()
        if isinstance(error, KilledWorker):
            self.errand.try_again(self.flying.pop(future), error.last_worker.address)
        elif isinstance(error, ImportError):
            raise InputError(
                f"a worker cannot begin: {type(error).__name__}: {error}. Start workers with the Python environment "
                "and in the folder of this checkout"
            ) from error
        else:
            raise error or RuntimeError(f"scans {', '.join(self.flying[future])} failed without a reason")


async def _gathered(client: Client, futures: list[Future]) -> list[list[dict[str, Any]]]:
    return list(await client.gather(futures, asynchronous=True))

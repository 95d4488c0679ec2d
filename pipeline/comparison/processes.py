"""Units of the comparison side by side in processes, each with one thread; or one after the other in this process.

On the CPU a unit is computed with one thread wherever it runs, so that its result is the same with any number of
processes and cores. Messages of the processes come to this one as they are logged; notes and failures are put in the
order of the units.
"""

import copy
import dataclasses
import logging
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, nullcontext
from logging.handlers import QueueHandler, QueueListener
from multiprocessing.connection import Connection
from typing import Any

from console.messages import show_warnings_safely
from devices.allocator import prepare_allocator
from devices.cores import available_cores
from devices.memory import main_memory_bytes
from devices.threads import one_thread
from pipeline.comparison.tasks import ComparisonTasks, Unit

log = logging.getLogger("hypermm")
# Measured: docs/comparison.md, "Memory".
PROCESS_BYTES = 700_000_000  # Python, torch and the pipeline
COPIES_OF_NETWORK = 8  # weights, gradients, two moments of Adam, kept weights, and what is between
COPIES_OF_FEATURE_MAPS = 6
HIDDEN = 512  # units of the first layer of the largest networks
SHARE_OF_MEMORY = 0.75  # of the machine's main memory, for all processes


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a process has to say of a unit beside the files it wrote.

    Attributes:
        notes: for the report.
        failures: of its tasks.
    """

    notes: list[str]
    failures: list[dict[str, Any]]


def do_units(run: ComparisonTasks, units: Sequence[Unit], advance: Callable[[int], None]) -> None:
    """Fit the baselines of all units; what is finished is kept whatever happens.

    Args:
        run: what all tasks share; its runtime receives notes and failures.
        units: in the order of the tables.
        advance: called with a number of finished tasks.

    Raises:
        InputError: a fault that every task would meet.
        OSError: the disk is full.
    """
    outcomes: dict[int, Outcome] = {}
    try:
        count = number_of_processes(run, units)
        while count > 1 and len(outcomes) < len(units):
            try:
                _side_by_side(run, units, outcomes, count, advance)
            except BrokenProcessPool:
                count //= 2
                log.warning(
                    "baselines: a process ended before its work was done, as when the system runs out of memory; going "
                    "on with %d",
                    count,
                )
        with one_thread() if run.runtime.device.type == "cpu" else nullcontext():
            for number, unit in enumerate(units):
                if number not in outcomes:
                    outcomes[number] = _do(run, unit, lambda: advance(1))
    finally:
        for number in sorted(outcomes):
            run.runtime.notes += outcomes[number].notes
            if outcomes[number].failures:
                run.runtime.results.setdefault("failures", []).extend(outcomes[number].failures)


def number_of_processes(run: ComparisonTasks, units: Sequence[Unit]) -> int:
    """Return how many processes to use: one per core, as far as there are units and memory for them."""
    if run.runtime.device.type != "cpu" or not units:
        return 1
    if run.config.workers is not None:
        return min(run.config.workers, len(units))
    largest = max(units, key=lambda unit: len(unit.data.scans))
    shape = run.features.feature_map_shape()
    need = memory_of_process(shape, scans=len(largest.data.scans), modalities=len(run.modalities))
    return max(1, min(available_cores(), len(units), int(SHARE_OF_MEMORY * main_memory_bytes() / need)))


def memory_of_process(shape: Sequence[int], *, scans: int, modalities: int) -> int:
    """Estimate the most memory that a process takes for any baseline but those that impute scans, in bytes.

    Args:
        shape: of a feature map, (C, H, W).
        scans: of the largest scenario.
        modalities: M.
    """
    numbers = math.prod(shape)
    network = HIDDEN * numbers * max(modalities, 2)  # the first layer of a Multi-CNN, or φ and ρ
    return PROCESS_BYTES + 4 * (COPIES_OF_FEATURE_MAPS * scans * numbers + COPIES_OF_NETWORK * network)


def _do(run: ComparisonTasks, unit: Unit, advance: Callable[[], None]) -> Outcome:
    """Fit the baselines of a unit."""
    runtime = dataclasses.replace(run.runtime, notes=[], results={})
    dataclasses.replace(run, runtime=runtime, keys={}).fit(unit, advance)
    return Outcome(runtime.notes, runtime.results.get("failures", []))


def _side_by_side(
    run: ComparisonTasks,
    units: Sequence[Unit],
    outcomes: dict[int, Outcome],
    count: int,
    advance: Callable[[int], None],
) -> None:
    """Do the units that have no outcome in processes, and add their outcomes.

    Raises:
        BrokenProcessPool: a process was killed, or could not begin.
    """
    context = multiprocessing.get_context("spawn")  # a forked process could hang in torch's threads
    messages = context.Queue()
    ours, theirs = context.Pipe(duplex=False)
    plain = dataclasses.replace(run, runtime=dataclasses.replace(run.runtime, executor=None), keys={})
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(plain, messages, ours))
    listener = QueueListener(messages, _Relay())
    listener.start()
    try:
        with _interrupts_held():
            futures: dict[Future[Outcome], int] = {
                pool.submit(_do_in_process, unit): number for number, unit in enumerate(units) if number not in outcomes
            }
        killed: BaseException | None = None
        for future in as_completed(futures):
            if isinstance(future.exception(), BrokenProcessPool):
                killed = future.exception()
                continue
            outcomes[futures[future]] = future.result()
            advance(len(units[futures[future]].tasks))
        if killed is not None:
            raise killed
    except BaseException:
        theirs.close()  # the processes end at once
        messages.cancel_join_thread()  # one that was killed may hold the queue's lock for ever
        raise
    else:
        listener.stop()
    finally:
        pool.shutdown(cancel_futures=True)
        theirs.close()
        ours.close()


class _Sender(QueueHandler):
    """Send a record with its traceback as text, apart from the message; Python's own adds it to the message."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        record = copy.copy(record)
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_info = record.stack_info = None
        return record


class _Relay(logging.Handler):
    """Log a message of another process in this one."""

    def emit(self, record: logging.LogRecord) -> None:
        log.handle(record)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while the block runs; processes started in it never get it, and end when this one says so."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- in the other process ---

_run: list[ComparisonTasks] = []  # of this process: one, for as long as it lives
_for_ever = ExitStack()


def _begin(run: ComparisonTasks, messages: Any, alive: Connection) -> None:
    """Set up a process: one thread, messages to the run, and an end once the run ends, however it does."""
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    prepare_allocator(keep=True)
    show_warnings_safely()
    log.handlers = [_Sender(messages)]
    log.setLevel(logging.DEBUG)
    log.propagate = False
    _for_ever.enter_context(one_thread())
    _run.append(run)


def _end_with(alive: Connection) -> None:
    try:
        alive.recv()
    except (EOFError, OSError):
        os._exit(1)


def _do_in_process(unit: Unit) -> Outcome:
    return _do(_run[0], unit, lambda: None)

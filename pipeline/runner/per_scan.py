"""Per-scan processing: cached and resumable; a failed scan does not stop the others."""

import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from console.errors import DISK_FULL, InputError
from pipeline.core.provenance import digest
from pipeline.core.runtime import Runtime
from pipeline.store.base import DamagedError
from pipeline.store.scan_set import ScanSet
from preprocessing.errors import ScanError

log = logging.getLogger("hypermm")
NOT_THE_SCANS_FAULT = (*DISK_FULL, errno.EROFS, errno.EMFILE)


@dataclass(frozen=True)
class ScanJob:
    """Work of a stage on single scans.

    Creating a job is cheap. Networks, weights and devices are loaded in `work`, with the first scan that needs them, so
    that a process that only dispatches scans never loads them.

    Attributes:
        keys: scan → hash of everything that its result depends on.
        load: reads a scan; may run in a thread ahead of the work.
        work: computes from what was loaded, one scan at a time.
        save: writes the files, maybe in a thread behind the work; returns facts for the scan's record.
        readers: number of reading threads.
        second_pass: scans that read results of other scans of this job; processed after all others.
        all_may_fail: whether the run goes on without a single scan.
    """

    keys: Mapping[str, str]
    load: Callable[[str], Any]
    work: Callable[[str, Any], Any]
    save: Callable[[str, Any], Mapping[str, Any]]
    readers: int = 1
    second_pass: frozenset[str] = frozenset()
    all_may_fail: bool = False


def each_scan(job: ScanJob, out: ScanSet, runtime: Runtime) -> None:
    """Process every scan without a result, in this process or with the runtime's executor.

    A `ScanError` is a fault of the data: it is recorded and not tried again while file and settings stay the same.
    Other exceptions are recorded too, with a traceback in the run log, and the scan is tried again in the next run.
    A full disk ends the run.

    Args:
        job: work on each scan.
        out: artifact for the results; results with the same key are kept.
        runtime: of the stage.

    Raises:
        InputError: no scan could be processed, and the job requires at least one.
        OSError: the disk is full or cannot be written to.
    """
    keys = job.keys
    todo = [scan for scan, key in keys.items() if not out.has(scan, key) and not _settled(out, scan, key)]
    if len(todo) < len(keys):
        log.info("%s: %d of %d scans are finished already", runtime.stage, len(keys) - len(todo), len(keys))
    with runtime.progress(len(todo), "scan") as progress:
        for wave in ([s for s in todo if s not in job.second_pass], [s for s in todo if s in job.second_pass]):
            if wave:
                (runtime.executor or in_process)(job, out, wave, runtime, progress.advance)
    if keys and not job.all_may_fail and not any(out.has(scan, key) for scan, key in keys.items()):
        reasons = [(out.failure(scan, key) or {}).get("reason", "?") for scan, key in keys.items()]
        raise InputError(f"{runtime.stage}: none of {len(keys)} scans could be processed. The first: {reasons[0]}")


def in_process(job: ScanJob, out: ScanSet, scans: Sequence[str], runtime: Runtime, advance: Callable[[], None]) -> None:
    """Process scans in this process; threads read ahead of the work and write behind it.

    Args:
        job: work on each scan.
        out: artifact for the results.
        scans: to process, in this order.
        runtime: of the stage.
        advance: called after every scan.

    Raises:
        InputError: an error that affects every scan.
        OSError: the disk is full or cannot be written to.
    """
    with ThreadPoolExecutor(job.readers) as read_pool, ThreadPoolExecutor(1) as writer:
        writing: deque[Future[None]] = deque()

        def behind(finish: Callable[[], None]) -> None:
            while writing:
                writing.popleft().result()
            writing.append(writer.submit(finish))

        try:
            for scan, loaded in _ahead(scans, read_pool, job.load, depth=job.readers + 1):
                do_scan(job, out, scan, loaded=loaded.result, write=behind)
                advance()
            while writing:
                writing.popleft().result()
        except BaseException:
            read_pool.shutdown(wait=False, cancel_futures=True)
            raise


def do_scan(
    job: ScanJob,
    out: ScanSet,
    scan: str,
    *,
    loaded: Callable[[], Any],
    write: Callable[[Callable[[], None]], None],
) -> None:
    """Process one scan and record the outcome; called by every executor.

    Args:
        job: work on each scan.
        out: artifact for the result.
        scan: its id.
        loaded: returns the result of `job.load`, or raises its exception.
        write: calls its argument, now or later, which writes the result and the record.

    Raises:
        InputError: an error that affects every scan.
        OSError: the disk is full or cannot be written to.
    """
    started = time.monotonic()
    try:
        result = job.work(scan, loaded())
    except Exception as error:  # noqa: BLE001 - failures of single scans are recorded
        _record_failure(out, scan, job.keys[scan], error)
    else:
        write(lambda: _finish(out, scan, job.keys[scan], job.save, result, started))


def _ahead(
    scans: Sequence[str], read_pool: ThreadPoolExecutor, load: Callable[[str], Any], *, depth: int
) -> Iterator[tuple[str, Future[Any]]]:
    """Yield scans in order, with at most `depth` of them loading or loaded."""
    waiting: deque[tuple[str, Future[Any]]] = deque()
    for scan in scans:
        waiting.append((scan, read_pool.submit(load, scan)))
        if len(waiting) >= depth:
            yield waiting.popleft()
    yield from waiting


def _finish(
    out: ScanSet, scan: str, key: str, save: Callable[[str, Any], Mapping[str, Any]], result: Any, started: float
) -> None:
    try:
        facts = save(scan, result)
        out.finish(scan, key, {**facts, "seconds": round(time.monotonic() - started, 3)})
    except Exception as error:  # noqa: BLE001 - as above, for errors while writing
        _record_failure(out, scan, key, error)


def _record_failure(out: ScanSet, scan: str, key: str, error: Exception) -> None:
    if isinstance(error, OSError) and error.errno in NOT_THE_SCANS_FAULT:
        raise error
    if isinstance(error, InputError | DamagedError):  # an earlier stage has to repeat a scan first
        raise error
    if isinstance(error, ScanError):
        log.warning("scan %s left out: %s", scan, error)
        out.fail(scan, key, str(error), retryable=False)
    else:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, FileNotFoundError) and error.filename is not None:
            reason = f"there is no file {error.filename}"
        log.warning("scan %s failed: %s", scan, reason)
        log.debug("scan %s", scan, exc_info=error)
        out.fail(scan, key, reason, retryable=True)


def _settled(out: ScanSet, scan: str, key: str) -> bool:
    failure = out.failure(scan, key)
    return failure is not None and not failure["retryable"]


def scan_contents(out: ScanSet, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return finished scans, failures with reasons, and counts, for the manifest of a per-scan stage."""
    done = {scan: (out.record(scan) or {})["content"] for scan, key in keys.items() if out.has(scan, key)}
    failures = [
        {"scan": scan, **{k: v for k, v in (out.failure(scan, key) or {}).items() if k in ("reason", "retryable")}}
        for scan, key in keys.items()
        if scan not in done
    ]
    return {
        "fingerprint": digest(done),
        "scans": done,
        "failures": failures,
        "counts": {"scans": len(done), "failed": len(failures)},
    }

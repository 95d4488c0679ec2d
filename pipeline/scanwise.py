"""Work done scan by scan: cached, resumable, and no scan stops the others."""

import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from pipeline.artifacts import ScanSet
from pipeline.provenance import digest
from pipeline.runtime import DISK_FULL, InputError, Runtime
from preprocessing.errors import ScanError

log = logging.getLogger("hypermm")
Loaded = TypeVar("Loaded")
Result = TypeVar("Result")
NOT_THE_SCANS_FAULT = (*DISK_FULL, errno.EROFS, errno.EMFILE)


def each_scan(
    keys: Mapping[str, str],
    out: ScanSet,
    runtime: Runtime,
    *,
    load: Callable[[str], Loaded],
    work: Callable[[str, Loaded], Result],
    save: Callable[[str, Result], Mapping[str, Any]],
    readers: int = 1,
) -> None:
    """Do every scan that is not there yet; reading and writing overlap the work.

    A `ScanError` is a fault of the data: it is recorded and, while file and settings stay the same, not tried again.
    Anything else that one scan raises is recorded too, with its traceback in the log, and tried again in the next run.
    A full disk ends the run.

    Args:
        keys: scan → hash of all that its result depends on.
        out: where results go; what it has under the same key is not done again.
        runtime: of the stage.
        load: reads a scan, in a thread ahead of the work.
        work: computes, in the calling thread, one scan at a time.
        save: writes the files, in a thread behind the work; returns facts for the scan's record.
        readers: threads that read.

    Raises:
        InputError: not one scan could be done.
        OSError: the disk is full or cannot be written to.
    """
    todo = [scan for scan, key in keys.items() if not out.has(scan, key) and not _settled(out, scan, key)]
    if len(todo) < len(keys):
        log.info("%s: %d of %d scans are there already", runtime.stage, len(keys) - len(todo), len(keys))
    with (
        runtime.progress(len(todo), "scan") as progress,
        ThreadPoolExecutor(readers) as reader,
        ThreadPoolExecutor(1) as writer,
    ):
        writing: Future[None] | None = None
        try:
            for scan, loaded in _ahead(todo, reader, load, depth=readers + 1):
                started = time.monotonic()
                try:
                    result = work(scan, loaded.result())
                except Exception as error:  # noqa: BLE001 - the one place where a scan's failure is caught
                    _record_failure(out, scan, keys[scan], error)
                else:
                    if writing is not None:
                        writing.result()
                    writing = writer.submit(_finish, out, scan, keys[scan], save, result, started)
                progress.advance()
            if writing is not None:
                writing.result()
        except BaseException:
            reader.shutdown(wait=False, cancel_futures=True)
            raise
    if keys and not any(out.has(scan, key) for scan, key in keys.items()):
        reasons = [(out.failure(scan, key) or {}).get("reason", "?") for scan, key in keys.items()]
        raise InputError(f"{runtime.stage}: not one of {len(keys)} scans could be done. The first: {reasons[0]}")


def _ahead(
    scans: list[str], reader: ThreadPoolExecutor, load: Callable[[str], Loaded], *, depth: int
) -> Iterator[tuple[str, Future[Loaded]]]:
    """Scans in order, each with its loading under way, never more than `depth` at once."""
    waiting: deque[tuple[str, Future[Loaded]]] = deque()
    for scan in scans:
        waiting.append((scan, reader.submit(load, scan)))
        if len(waiting) >= depth:
            yield waiting.popleft()
    yield from waiting


def _finish(
    out: ScanSet, scan: str, key: str, save: Callable[[str, Result], Mapping[str, Any]], result: Result, started: float
) -> None:
    try:
        facts = save(scan, result)
        out.finish(scan, key, {**facts, "seconds": round(time.monotonic() - started, 3)})
    except Exception as error:  # noqa: BLE001 - as above, for what fails while writing
        _record_failure(out, scan, key, error)


def _record_failure(out: ScanSet, scan: str, key: str, error: Exception) -> None:
    if isinstance(error, OSError) and error.errno in NOT_THE_SCANS_FAULT:
        raise error
    if isinstance(error, InputError):
        raise error
    if isinstance(error, ScanError):
        log.warning("scan %s left out: %s", scan, error)
        out.fail(scan, key, str(error), again=False)
    else:
        log.warning("scan %s failed: %s: %s", scan, type(error).__name__, error)
        log.debug("scan %s", scan, exc_info=error)
        out.fail(scan, key, f"{type(error).__name__}: {error}", again=True)


def _settled(out: ScanSet, scan: str, key: str) -> bool:
    failure = out.failure(scan, key)
    return failure is not None and not failure["again"]


def scan_contents(out: ScanSet, keys: Mapping[str, str]) -> dict[str, Any]:
    """For the manifest of a finished scan-wise stage: what is there, what failed and why."""
    done = {scan: (out.record(scan) or {})["content"] for scan, key in keys.items() if out.has(scan, key)}
    failures = [
        {"scan": scan, **{k: v for k, v in (out.failure(scan, key) or {}).items() if k in ("reason", "again")}}
        for scan, key in keys.items()
        if scan not in done
    ]
    return {
        "fingerprint": digest(done),
        "scans": done,
        "failures": failures,
        "counts": {"scans": len(done), "failed": len(failures)},
    }

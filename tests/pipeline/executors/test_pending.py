"""Scans that are dispatched: which of them kill workers, what stops a run, what is waited for."""

import errno
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from console.errors import InputError
from pipeline.core.runtime import Runtime
from pipeline.executors import pending as module
from pipeline.executors.pending import PendingScans
from pipeline.runner.per_scan import ScanJob
from pipeline.store.claims import ScanClaims
from pipeline.store.scan_set import ScanSet


@pytest.fixture
def pending(tmp_path: Path) -> PendingScans:
    """Three scans to dispatch; none is done."""
    out = ScanSet(tmp_path / "stage")
    job = ScanJob({scan: f"key of {scan}" for scan in "abc"}, lambda scan: None, lambda scan, _: None, lambda *_: {})
    runtime = Runtime(stage="stage", key="", device_name="cpu", workspace=tmp_path)
    claims = ScanClaims(out.folder, "a run")
    return PendingScans({"memory": "2GB"}, job, out, runtime, lambda: None, deque(), claims)


def outcome(**more: Any) -> dict[str, Any]:
    return {"lines": [], "notes": [], "died": 0, **more}


def test_what_a_worker_says_reaches_the_run(pending: PendingScans, caplog: pytest.LogCaptureFixture) -> None:
    pending.out.begin("a")
    pending.out.finish("a", "key of a", {})
    pending.record_result("a", outcome(lines=[[30, "scan a: 100 % of it"]], notes=["half on the CPU"], died=1))
    assert caplog.messages == ["scan a: 1 of its workers died", "scan a: 100 % of it"]
    assert pending.runtime.notes == ["half on the CPU"]
    pending.finalise()


def test_a_worker_stops_the_run(pending: PendingScans) -> None:
    with pytest.raises(InputError, match="no such weights"):
        pending.record_result("a", outcome(stop="input", reason="no such weights"))
    with pytest.raises(OSError, match="no space") as caught:
        pending.record_result("a", outcome(stop="disk", reason="no space", errno=errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC


def test_files_that_are_not_visible_here_are_waited_for(pending: PendingScans, monkeypatch: pytest.MonkeyPatch) -> None:
    pending.record_result("a", outcome())
    appear = iter([None, {"key": "key of a"}])
    monkeypatch.setattr(pending.out, "record", lambda scan: next(appear))
    pending.finalise()
    monkeypatch.undo()
    monkeypatch.setattr(module, "VISIBLE_WITHIN_S", 0.0)
    pending.record_result("b", outcome())
    with pytest.raises(
        InputError, match=r"finished 1 scans whose files are not visible here, b among them\. Is .*stage"
    ):
        pending.finalise()


def test_a_scan_that_killed_its_workers_is_blamed_when_another_one_ends(pending: PendingScans) -> None:
    pending.record_result("a", outcome(died=3, suspect="its worker died 3 times"))
    assert pending.out.failure("a", "key of a") is None
    pending.out.fail("c", "key of c", "no brain", retryable=False)
    pending.record_result("c", outcome())
    assert pending.out.failure("a", "key of a") == {
        "key": "key of a", "reason": "its worker died 3 times", "retryable": False
    }  # fmt: skip
    pending.record_result("b", outcome(died=3, suspect="its worker died 3 times, too"))
    pending.finalise()  # and at the latest in the end
    assert pending.out.failure("b", "key of b") is not None


def test_scan_after_scan_that_kills_is_not_the_scans_fault(pending: PendingScans) -> None:
    pending.record_result("a", outcome(died=3, suspect="its worker died 3 times"))
    pending.record_result("b", outcome(died=3, suspect="its worker died 3 times"))
    with pytest.raises(InputError, match=r"3 scans in a row killed 3 workers each, a first.*--worker-memory, now 2GB"):
        pending.record_result("c", outcome(died=3, suspect="its worker died 3 times"))
    assert not any(pending.out.failure(scan, f"key of {scan}") for scan in "abc")


def test_workers_that_die_before_they_begin_end_the_run(pending: PendingScans) -> None:
    pending.claims.open()
    pending.claims.claim("b", "a worker that died in the middle")
    for number in range(2 * module.MOST_DEAD):
        pending.requeue(["b"], f"worker {number}")  # the workers themselves put an end to this
    for scan in "acac" * module.MOST_DEAD:
        pending.requeue([scan], "worker 0")  # one death, and many scans that waited there
        assert pending.waiting.popleft() == scan
    for number in range(1, module.MOST_DEAD):
        pending.requeue(["a"], f"worker {number}")
    pattern = (
        r"13 workers died before they began a scan, the last of them at worker 12. .* \(--worker-memory, now 2GB\)"
    )
    with pytest.raises(InputError, match=pattern):
        pending.requeue(["a"], "worker 12")


def test_scans_that_went_together_come_back_in_order_and_blame_nobody_who_had_not_begun(pending: PendingScans) -> None:
    pending.waiting.append("c")
    pending.claims.open()
    pending.claims.claim("b", "a worker that died in the middle")
    pending.requeue(["a", "b"], "worker 1")
    assert list(pending.waiting)[:2] == ["a", "b"]
    assert not pending.dead_workers
    pending.requeue(["a"], "worker 2")
    assert pending.dead_workers == {"worker 2"}

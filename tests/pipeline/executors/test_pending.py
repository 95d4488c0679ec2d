"""The books of scans that are handed out: who is to blame, what stops a run, what is waited for."""

import errno
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from console.errors import InputError
from pipeline.core.runtime import Runtime
from pipeline.executors import pending as errands
from pipeline.executors.pending import Errand
from pipeline.runner.per_scan import ScanJob
from pipeline.store.claims import InHand
from pipeline.store.scan_set import ScanSet


@pytest.fixture
def errand(tmp_path: Path) -> Errand:
    """Three scans to hand out; none is done."""
    out = ScanSet(tmp_path / "stage")
    job = ScanJob({scan: f"key of {scan}" for scan in "abc"}, lambda scan: None, lambda scan, _: None, lambda *_: {})
    runtime = Runtime(stage="stage", key="", device_name="cpu", workspace=tmp_path)
    return Errand({"memory": "2GB"}, job, out, runtime, lambda: None, deque(), InHand(out.folder, "a run"))


def outcome(**more: Any) -> dict[str, Any]:
    return {"lines": [], "notes": [], "died": 0, **more}


def test_what_a_worker_says_reaches_the_run(errand: Errand, caplog: pytest.LogCaptureFixture) -> None:
    errand.out.begin("a")
    errand.out.finish("a", "key of a", {})
    errand.take("a", outcome(lines=[[30, "scan a: 100 % of it"]], notes=["half on the CPU"], died=1))
    assert caplog.messages == ["scan a: 1 of its workers died", "scan a: 100 % of it"]
    assert errand.runtime.notes == ["half on the CPU"]
    errand.settle()


def test_a_worker_stops_the_run(errand: Errand) -> None:
    with pytest.raises(InputError, match="no such weights"):
        errand.take("a", outcome(stop="input", reason="no such weights"))
    with pytest.raises(OSError, match="no space") as caught:
        errand.take("a", outcome(stop="disk", reason="no space", errno=errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC


def test_files_that_are_not_seen_here_are_waited_for(errand: Errand, monkeypatch: pytest.MonkeyPatch) -> None:
    errand.take("a", outcome())
    appear = iter([None, {"key": "key of a"}])
    monkeypatch.setattr(errand.out, "record", lambda scan: next(appear))
    errand.settle()
    monkeypatch.undo()
    monkeypatch.setattr(errands, "SHOWN_WITHIN_S", 0.0)
    errand.take("b", outcome())
    with pytest.raises(InputError, match=r"finished 1 scans whose files are not seen here, b among them\. Is .*stage"):
        errand.settle()


def test_a_scan_that_killed_its_workers_is_blamed_when_another_one_ends(errand: Errand) -> None:
    errand.take("a", outcome(died=3, suspect="its worker died 3 times"))
    assert errand.out.failure("a", "key of a") is None
    errand.out.fail("c", "key of c", "no brain", again=False)
    errand.take("c", outcome())
    assert errand.out.failure("a", "key of a") == {
        "key": "key of a", "reason": "its worker died 3 times", "again": False
    }  # fmt: skip
    errand.take("b", outcome(died=3, suspect="its worker died 3 times, too"))
    errand.settle()  # and at the latest in the end
    assert errand.out.failure("b", "key of b") is not None


def test_scan_after_scan_that_kills_is_not_the_scans_fault(errand: Errand) -> None:
    errand.take("a", outcome(died=3, suspect="its worker died 3 times"))
    errand.take("b", outcome(died=3, suspect="its worker died 3 times"))
    with pytest.raises(InputError, match=r"3 scans in a row killed 3 workers each, a first.*--worker-memory, now 2GB"):
        errand.take("c", outcome(died=3, suspect="its worker died 3 times"))
    assert not any(errand.out.failure(scan, f"key of {scan}") for scan in "abc")


def test_workers_that_die_before_they_begin_end_the_run(errand: Errand) -> None:
    errand.hand.open()
    errand.hand.begin("b", "a worker that died in the middle")
    for number in range(2 * errands.MOST_DEAD):
        errand.try_again(["b"], f"worker {number}")  # the workers themselves put an end to this
    for scan in "acac" * errands.MOST_DEAD:
        errand.try_again([scan], "worker 0")  # one death, and many scans that waited there
        assert errand.waiting.popleft() == scan
    for number in range(1, errands.MOST_DEAD):
        errand.try_again(["a"], f"worker {number}")
    words = r"13 workers died before they began a scan, the last of them at worker 12. .* \(--worker-memory, now 2GB\)"
    with pytest.raises(InputError, match=words):
        errand.try_again(["a"], "worker 12")


def test_scans_that_went_together_come_back_in_order_and_blame_nobody_who_had_not_begun(errand: Errand) -> None:
    errand.waiting.append("c")
    errand.hand.open()
    errand.hand.begin("b", "a worker that died in the middle")
    errand.try_again(["a", "b"], "worker 1")
    assert list(errand.waiting)[:2] == ["a", "b"]
    assert not errand.dead
    errand.try_again(["a"], "worker 2")
    assert errand.dead == {"worker 2"}

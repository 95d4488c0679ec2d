"""Scan by scan: what is done, what is not done again, what stops everything."""

import errno
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from console.errors import InputError
from pipeline.core.runtime import Runtime
from pipeline.runner.per_scan import ScanJob, each_scan, in_process, scan_contents
from pipeline.store.scan_set import ScanSet
from preprocessing.errors import ScanError


@pytest.fixture
def out(tmp_path: Path) -> ScanSet:
    return ScanSet(tmp_path / "stage")


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(stage="stage", key="", device_name="cpu", workspace=tmp_path)


def make(out: ScanSet, work: Callable[[str, Any], Any] = lambda scan, loaded: loaded + "!") -> ScanJob:
    """Four scans; what is loaded is the scan's name, what is written the work's result."""

    def save(scan: str, result: Any) -> Mapping[str, Any]:
        (out.begin(scan) / "picture.png").write_text(result)
        return {"letters": len(result)}

    return ScanJob({scan: f"key of {scan}" for scan in "dacb"}, load=lambda scan: scan, work=work, save=save)


def test_every_scan_is_done_once_in_order_by_the_calling_thread(out: ScanSet, runtime: Runtime) -> None:
    done: list[str] = []

    def work(scan: str, loaded: Any) -> str:
        assert threading.current_thread() is threading.main_thread()
        done.append(scan)
        return str(loaded) * 2

    job = make(out, work)
    each_scan(job, out, runtime)
    assert done == ["d", "a", "c", "b"]
    assert {scan: (out.folder_of(scan) / "picture.png").read_text() for scan in done} == {s: s * 2 for s in done}
    assert all((out.record(scan) or {})["letters"] == 2 for scan in done)
    each_scan(job, out, runtime)
    assert len(done) == 4
    each_scan(replace(job, keys={**job.keys, "c": "another setting"}), out, runtime)
    assert done[4:] == ["c"]


def test_a_bad_scan_is_not_tried_again_and_a_mishap_is(out: ScanSet, runtime: Runtime) -> None:
    tried: list[str] = []

    def work(scan: str, loaded: Any) -> str:
        tried.append(scan)
        if scan == "a":
            raise ScanError("no brain")
        if scan == "c":
            raise RuntimeError("a hiccup")
        return "done"

    job = make(out, work)
    each_scan(job, out, runtime)
    each_scan(job, out, runtime)
    assert tried == ["d", "a", "c", "b", "c"]
    assert scan_contents(out, job.keys)["failures"] == [
        {"scan": "a", "reason": "no brain", "retryable": False},
        {"scan": "c", "reason": "RuntimeError: a hiccup", "retryable": True},
    ]


def test_a_file_that_is_not_there_is_named_in_words(out: ScanSet, runtime: Runtime) -> None:
    def work(scan: str, loaded: Any) -> str:
        return Path(f"/nowhere/{scan}.nii.gz").read_text(encoding="utf-8") if scan == "b" else scan

    job = make(out, work)
    each_scan(job, out, runtime)
    assert scan_contents(out, job.keys)["failures"] == [
        {"scan": "b", "reason": "there is no file /nowhere/b.nii.gz", "retryable": True}
    ]


@pytest.mark.parametrize("where", ["load", "save"])
def test_a_failure_in_reading_or_writing_is_the_scans(out: ScanSet, runtime: Runtime, where: str) -> None:
    job = make(out)
    usual = getattr(job, where)

    def fails(scan: str, *result: Any) -> Any:
        if scan == "a":
            raise ScanError("torn")
        return usual(scan, *result)

    each_scan(replace(job, **{where: fails}), out, runtime)
    assert [failure["scan"] for failure in scan_contents(out, job.keys)["failures"]] == ["a"]


@pytest.mark.parametrize("where", ["load", "work", "save"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), InputError("no weights")])
def test_what_every_scan_would_meet_stops_the_run(out: ScanSet, runtime: Runtime, where: str, error: Exception) -> None:
    def fails(*_: Any) -> Any:
        raise error

    with pytest.raises(type(error)) as caught:
        each_scan(replace(make(out), **{where: fails}), out, runtime)
    assert caught.value is error
    assert not list(out.folder.glob("*/failure.json"))


def test_not_one_scan_done_is_an_error_with_the_first_reason(out: ScanSet, runtime: Runtime) -> None:
    def work(scan: str, loaded: Any) -> str:
        raise ScanError(f"{scan} is empty")

    with pytest.raises(InputError, match="none of 4 scans could be processed. The first: d is empty"):
        each_scan(make(out, work), out, runtime)


def test_an_executor_gets_what_is_to_do_and_nothing_else(out: ScanSet, runtime: Runtime) -> None:
    job = make(out)
    each_scan(replace(job, keys={"a": "key of a"}), out, runtime)
    handed: list[list[str]] = []

    def elsewhere(
        job: ScanJob, out: ScanSet, scans: Sequence[str], runtime: Runtime, advance: Callable[[], None]
    ) -> None:
        handed.append(list(scans))
        in_process(job, out, scans, runtime, advance)

    runtime.executor = elsewhere
    each_scan(job, out, runtime)
    each_scan(job, out, runtime)  # nothing is left: nobody is asked
    assert handed == [["d", "c", "b"]]
    assert scan_contents(out, job.keys)["counts"] == {"scans": 4, "failed": 0}


def test_making_a_job_loads_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that only dispatches scans needs neither weights nor the device."""
    from pipeline.stages import features
    from pipeline.store.features import FeatureStore
    from pipeline.store.volumes import VolumeSet

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a network was loaded")

    monkeypatch.setattr(features, "loaded_backbone", refused)
    config = features.FeaturesConfig(weights="random")
    elsewhere = Runtime(stage="features", key="", device_name="cuda:77", workspace=tmp_path)
    job = features.features_job(
        VolumeSet(tmp_path / "preprocess"), FeatureStore(tmp_path / "features"), config, elsewhere
    )
    assert job.keys == {}
    with pytest.raises(InputError, match="cuda:77"):
        job.work("a", None)

"""One scan in a worker: done, failed, suspected, refused, taken over; no Dask needed."""

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.main import main
from pipeline.core.runtime import Runtime
from pipeline.executors import worker
from pipeline.executors.worker import do_one, do_some
from pipeline.specs.preprocess import PreprocessConfig
from pipeline.stages import preprocess as stage_module
from pipeline.stages.preprocess import preprocess, preprocess_job
from pipeline.store.claims import ScanClaims
from pipeline.store.tables import CohortTables
from pipeline.store.volumes import VolumeSet

RUN = "a run"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, picture_cohort: Callable[..., Path]) -> Path:
    """A workspace whose cohort is read; one scan is no picture."""
    folder = tmp_path_factory.mktemp("prepared")
    config = picture_cohort(folder / "data", subjects=12)
    (folder / "data" / "p01_low.png").write_bytes(b"no picture")
    assert main(["--config", str(config), "--workspace", str(folder / "run"), "--stages", "cohort", "--quiet"]) == 0
    return folder / "run"


@pytest.fixture
def out(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> VolumeSet:
    """The artifact of preprocess, empty, of a run that dispatches."""
    monkeypatch.setattr(worker, "VISIBLE_WITHIN_S", 0.0)
    worker._prepared_stage.cache_clear()
    out = VolumeSet(prepared / "preprocess")
    for folder in (p for p in out.folder.glob("p*") if p.is_dir()):
        out.begin(folder.name)
        folder.rmdir()
    ScanClaims(out.folder, RUN).open()
    return out


def runtime(workspace: Path) -> Runtime:
    return Runtime(stage="preprocess", key="key", device_name="cpu", workspace=workspace)


def key(out: VolumeSet, scan: str) -> str:
    workspace = out.folder.parent
    tables = CohortTables(workspace / "cohort")
    return preprocess_job(tables, out, PreprocessConfig(), runtime(workspace)).keys[scan]


def done(out: VolumeSet, scan: str, **other: Any) -> dict[str, Any]:
    task = {
        "stage": "preprocess",
        "workspace": str(out.folder.parent),
        "settings": PreprocessConfig().model_dump_json(),
        "stage_key": "key",
        "device": "cpu",
        "run": RUN,
        "memory": "2GB",
    }
    outcome = do_one({**task, **other}, scan, key(out, scan))
    assert json.loads(json.dumps(outcome)) == outcome  # plain types only
    return outcome


def test_a_scan_is_done_as_in_process(out: VolumeSet, prepared: Path) -> None:
    assert done(out, "p00_low") == {"lines": [], "notes": [], "died": 0}
    assert out.has("p00_low", key(out, "p00_low"))
    pictures = {path.name: path.read_bytes() for path in out.folder_of("p00_low").glob("*.png")}
    record = out.record("p00_low") or {}
    other = VolumeSet(prepared / "in_process")
    preprocess(CohortTables(prepared / "cohort"), other, PreprocessConfig(), runtime(prepared))
    assert {path.name: path.read_bytes() for path in other.folder_of("p00_low").glob("*.png")} == pictures
    expected = other.record("p00_low") or {}
    assert {**record, "seconds": 0} == {**expected, "seconds": 0}
    assert ScanClaims(out.folder, RUN).claim_of("p00_low") == {}


def test_what_is_there_is_not_done_again(out: VolumeSet) -> None:
    done(out, "p00_low")
    before = (out.folder_of("p00_low") / "record.json").stat().st_mtime_ns
    assert done(out, "p00_low")["died"] == 0
    assert (out.folder_of("p00_low") / "record.json").stat().st_mtime_ns == before


def test_a_bad_scan_is_recorded_and_told_to_the_run(out: VolumeSet) -> None:
    outcome = done(out, "p01_low")
    ((level, line), *_) = outcome["lines"]
    failure = out.failure("p01_low", key(out, "p01_low"))
    assert failure is not None
    assert level == 30
    assert line == f"scan p01_low left out: {failure['reason']}"
    assert "stop" not in outcome


def test_the_fourth_claim_is_refused(out: VolumeSet) -> None:
    claims = ScanClaims(out.folder, RUN)
    for _ in range(2):
        claims.claim("p00_low", "a worker that died")
    assert done(out, "p00_low")["died"] == 2
    assert out.has("p00_low", key(out, "p00_low"))
    for _ in range(3):
        claims.claim("p02_low", "a worker that died")
    outcome = done(out, "p02_low")
    assert outcome["died"] == 3
    assert not out.folder_of("p02_low").exists()
    assert "its worker died 3 times" in outcome["suspect"]
    assert "memory limit (2GB)" in outcome["suspect"]
    assert "--force preprocess" in outcome["suspect"]


def test_deaths_in_an_earlier_run_do_not_count(out: VolumeSet) -> None:
    earlier = ScanClaims(out.folder, "an earlier run")
    for _ in range(3):
        earlier.claim("p00_low", "a worker that died")
    assert done(out, "p00_low")["died"] == 0
    assert out.has("p00_low", key(out, "p00_low"))


def test_a_worker_that_was_thought_dead_spoils_nothing(out: VolumeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = ScanClaims(out.folder, RUN)
    read = stage_module.read_picture

    def slow(path: Path, **options: Any) -> Any:  # meanwhile another one takes the scan and finishes it
        claims.claim("p00_low", "the successor")
        (out.begin("p00_low") / "picture.png").write_bytes(b"of the successor")
        return read(path, **options)

    monkeypatch.setattr(stage_module, "read_picture", slow)
    done(out, "p00_low")
    assert (out.folder_of("p00_low") / "picture.png").read_bytes() == b"of the successor"
    assert claims.holds("p00_low", "the successor")


def test_other_code_or_weights_stop_the_run(out: VolumeSet) -> None:
    outcome = done(out, "p00_low", settings=PreprocessConfig(spacing_mm=3).model_dump_json())
    assert outcome["stop"] == "input"
    assert "would compute something else for scan p00_low" in outcome["reason"]
    assert not out.folder_of("p00_low").exists()


def test_a_workspace_that_is_not_shared_stops_the_run(out: VolumeSet, tmp_path: Path) -> None:
    outcome = do_one({"stage": "preprocess", "workspace": str(tmp_path), "run": RUN}, "p00_low", "key")
    assert outcome["stop"] == "input"
    assert f"does not find this run in {tmp_path}" in outcome["reason"]
    other = done(out, "p00_low", run="another run")
    assert other["stop"] == "input"


def test_a_full_disk_stops_the_run(out: VolumeSet) -> None:
    """A file size limit stands for the full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    expected = key(out, "p00_low")
    task = {"stage": "preprocess", "workspace": str(out.folder.parent), "stage_key": "key", "device": "cpu"}
    task |= {"settings": PreprocessConfig().model_dump_json(), "run": RUN, "memory": ""}
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        outcome = do_one(task, "p00_low", expected)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert outcome["stop"] == "disk"
    assert "File too large" in outcome["reason"]
    assert out.failure("p00_low", expected) is None


def test_notes_of_the_work_come_back(out: VolumeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    read = stage_module.read_picture

    settings = PreprocessConfig().model_dump_json()

    def noting(path: Path, **options: Any) -> Any:
        stage = worker._prepared_stage("preprocess", str(out.folder.parent), settings, "cpu", "key")
        if path.name == "p00_low.png":
            stage.runtime.note("half of it on the CPU")
        return read(path, **options)

    monkeypatch.setattr(stage_module, "read_picture", noting)
    outcome = done(out, "p00_low")
    assert outcome["notes"] == ["half of it on the CPU"]
    assert outcome["lines"] == [[30, "preprocess: half of it on the CPU"]]
    assert done(out, "p02_low")["notes"] == []


def test_one_scan_at_a_time_however_many_threads(out: VolumeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    read, inside, most = stage_module.read_picture, [0], [0]

    def counting(path: Path, **options: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)
        inside[0] -= 1
        return read(path, **options)

    monkeypatch.setattr(stage_module, "read_picture", counting)
    scans = ["p00_low", "p02_low", "p03_low", "p04_low"]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda scan: done(out, scan), scans))
    assert most == [1]
    assert all(out.has(scan, key(out, scan)) for scan in scans)


def test_several_at_once_until_nothing_more_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def one(task: object, scan: str, key: str) -> dict[str, object]:
        seen.append((scan, key))
        return {"lines": [], **({"stop": "input", "reason": "all alike"} if scan == "b" else {})}

    monkeypatch.setattr("pipeline.executors.worker.do_one", one)
    outcomes = do_some({}, ["a", "b", "c"], ["1", "2", "3"])
    assert seen == [("a", "1"), ("b", "2")]
    assert [outcome.get("stop") for outcome in outcomes] == [None, "input"]
    assert all(0 <= outcome["seconds"] < 1 for outcome in outcomes)

"""The executor that the settings name is made, and its workers stop at the end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.runtime import Runtime
from pipeline.executors.config import ExecutorConfig
from pipeline.executors.local import LocalExecutor
from pipeline.executors.opened import executor_of, opened
from pipeline.executors.private_folder import FOLDER
from pipeline.executors.registry import EXECUTORS, ExecutorEntry
from pipeline.runner.executor import Executor
from pipeline.runner.per_scan import ScanJob, each_scan, in_process
from pipeline.runner.stage import Stage
from pipeline.store.scan_set import ScanSet


@pytest.mark.parametrize("kind", EXECUTORS)
def test_what_a_killed_run_left_is_removed_before_anything_is_done(tmp_path: Path, kind: str) -> None:
    key = tmp_path / FOLDER / "key.pem"
    key.parent.mkdir()
    key.touch()
    with opened(ExecutorConfig(kind=kind), tmp_path, device="cpu"):
        assert not key.parent.exists()


def test_scans_are_done_in_this_process_unless_said_otherwise(tmp_path: Path) -> None:
    executor = executor_of(ExecutorConfig(), tmp_path, device="cpu")
    assert isinstance(executor, LocalExecutor)
    assert executor.for_stage(None, None) is in_process  # type: ignore[arg-type]
    assert (executor.elsewhere, executor.describe()) == (False, "")


class ReversedExecutor:
    """A fourth executor: does the last scan first."""

    elsewhere = False

    def __init__(self, config: ExecutorConfig, workspace: Path, *, device: str) -> None:
        self.device, self.released = device, False

    def for_stage(self, stage: Stage, settings: Any) -> Callable[..., None]:
        def do_scans(job: ScanJob, out: ScanSet, scans: list[str], *rest: Any) -> None:
            in_process(job, out, scans[::-1], *rest)

        return do_scans

    def release_workers(self) -> None:
        self.released = True

    def describe(self) -> str:
        return "the last scan first"


def test_a_fourth_executor_is_one_class_and_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXECUTORS, "reversed", ExecutorEntry(f"{__name__}:ReversedExecutor"))
    begun: list[str] = []
    keys = {scan: f"key of {scan}" for scan in "abc"}
    job = ScanJob(keys, load=begun.append, work=lambda scan, _: None, save=lambda scan, _: {})
    out = ScanSet(tmp_path / "stage")
    for scan in keys:
        out.begin(scan)
    runtime = Runtime(stage="stage", key="", device_name="cpu", workspace=tmp_path)
    config = ExecutorConfig().model_copy(update={"kind": "reversed"})  # its choices were made when it was imported
    executor: Executor
    with opened(config, tmp_path, device="cpu") as executor:
        assert isinstance(executor, ReversedExecutor)
        assert executor.describe() == "the last scan first"
        runtime.executor = executor.for_stage(None, None)  # type: ignore[arg-type]
        each_scan(job, out, runtime)
    assert begun == ["c", "b", "a"]
    assert executor.released

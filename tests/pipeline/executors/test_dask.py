"""Workers on this machine: how many, which GPU for which. And schedulers that someone else has started."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import pytest
import torch

from benchmarks.simulated_stage import STAGE, SimulatedConfig
from console.errors import InputError
from pipeline.executors import dask as module
from pipeline.executors.config import ExecutorConfig
from pipeline.executors.connection import Connection
from pipeline.executors.dask import DaskExecutor, LocalWorkers, SchedulerWorkers, visible_gpus
from pipeline.executors.dispatch import DispatchingExecutor
from pipeline.executors.opened import opened
from pipeline.runner.run import run_stage


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with so many cores and GPUs."""

    def make(cores: int, gpus: list[str]) -> None:
        monkeypatch.setattr(module, "available_cores", lambda: cores)
        monkeypatch.setattr(module, "visible_gpus", lambda: gpus)

    return make


def workers(count: int | None, device: str) -> LocalWorkers:
    return LocalWorkers(ExecutorConfig(kind="dask", workers=count), Path("run"), device=device)


@pytest.mark.parametrize(("cores", "count", "threads"), [(16, 4, 4), (16, 3, 5), (2, 2, 1), (2, 8, 1), (1, 1, 1)])
def test_workers_share_the_cores(machine: Callable[..., None], cores: int, count: int, threads: int) -> None:
    machine(cores, [])
    environment = workers(count, "cpu").dask_settings()["distributed.nanny.pre-spawn-environ"]
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == threads


@pytest.mark.parametrize(("cores", "gpus", "expected"), [(16, 0, 4), (2, 0, 1), (16, 3, 3)])
def test_so_many_workers_if_none_are_asked_for(
    machine: Callable[..., None], cores: int, gpus: int, expected: int
) -> None:
    machine(cores, [str(number) for number in range(gpus)])
    assert len(workers(None, "auto").gpus()) == expected


def test_each_worker_takes_one_gpu(machine: Callable[..., None]) -> None:
    machine(16, ["2", "GPU-5f"])  # as CUDA_VISIBLE_DEVICES had named them
    assert workers(2, "auto").gpus() == ["2", "GPU-5f"]
    assert workers(2, "cpu").gpus() == [None, None]
    assert workers(1, "cuda:1").gpus() == ["GPU-5f"]
    with pytest.raises(InputError, match=r"--workers 3, but 2 GPU\(s\) for --device cuda: .* --workers 2, or"):
        workers(3, "cuda").gpus()
    with pytest.raises(InputError, match=r"--workers 2, but 1 GPU\(s\) for --device cuda:0"):
        workers(2, "cuda:0").gpus()


def test_a_worker_sees_only_its_gpu_and_calls_it_cuda(machine: Callable[..., None]) -> None:
    machine(16, ["2", "GPU-5f"])
    assert workers(1, "cuda:1").device == "cuda"
    assert workers(2, "cpu").device == "cpu"
    machine(16, [])
    assert workers(2, "auto").device == "auto"
    assert SchedulerWorkers("tls://10.0.0.5:8786", patience_minutes=1, device="cuda:1").device == "cuda:1"


@pytest.mark.slow
def test_two_gpus_are_both_used_each_by_a_worker_of_its_own(
    machine: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real workers, GPUs that are only names: what each scan's record says of the process that computed it."""
    mark = tmp_path / "mark.py"
    mark.write_text(
        "import os\n"
        "from pipeline.core.runtime import Runtime\n"
        "from pipeline.store.scan_set import ScanSet\n"
        "finish, made = ScanSet.finish, Runtime.__init__\n"
        "def note_device(self, *given, **named):\n"
        "    made(self, *given, **named)\n"
        "    os.environ['REQUESTED'] = self.device_name\n"
        "def note(self, scan, key, facts):\n"
        "    seen = {name: os.environ.get(name) for name in ('CUDA_VISIBLE_DEVICES', 'REQUESTED')}\n"
        "    finish(self, scan, key, {**facts, **seen, 'process': os.getpid()})\n"
        "def dask_setup(worker):\n"
        "    Runtime.__init__, ScanSet.finish = note_device, note\n"
    )
    machine(2, ["0", "GPU-5f"])
    workspace, scans = tmp_path / "run", 40
    settings: Any = SimpleNamespace(simulated=SimulatedConfig(scans=scans, seconds=0.05))
    preloads = ["benchmarks.simulated_stage", str(mark)]
    with (
        dask.config.set({"distributed.worker.preload": preloads}),
        opened(ExecutorConfig(kind="dask"), workspace, device="cuda") as executor,
    ):
        assert isinstance(executor, DispatchingExecutor)
        executor.connection.client().wait_for_workers(2)
        run_stage(STAGE, settings, workspace, device="cpu", executor=executor)
    records = [json.loads(path.read_text()) for path in (workspace / "simulated").glob("*/record.json")]
    assert len(records) == scans
    assert {record["CUDA_VISIBLE_DEVICES"] for record in records} == {"0", "GPU-5f"}
    assert {record["REQUESTED"] for record in records} == {"cuda"}  # the only one that a worker sees
    assert len({(record["CUDA_VISIBLE_DEVICES"], record["process"]) for record in records}) == 2


def test_gpus_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6, 7")
    assert visible_gpus() == ["6", "7"]


def test_scans_are_elsewhere_with_a_given_scheduler_only(tmp_path: Path) -> None:
    local = DaskExecutor(ExecutorConfig(kind="dask"), tmp_path, device="cpu")
    given = DaskExecutor(ExecutorConfig(kind="dask", scheduler="tls://10.0.0.5:8786"), tmp_path, device="cpu")
    assert (local.elsewhere, given.elsewhere) == (False, True)
    assert (local.describe(), given.describe()) == ("", "")


@pytest.mark.parametrize(("protocol", "warned"), [("tcp", True), ("tls", False)])
def test_an_open_scheduler_is_warned_of(
    tmp_path: Path,
    protocol: str,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(SchedulerWorkers, "_client", lambda *_: contextlib.nullcontext())
    address = f"{protocol}://10.0.0.5:8786"
    connection = Connection(SchedulerWorkers(address, patience_minutes=1, device="cpu"), patience_minutes=1)
    with caplog.at_level("WARNING", logger="hypermm"):
        connection.client()
    connection.close()
    warning = f"the connection to {address} is not encrypted and not authenticated: anyone who reaches"
    assert (warning in caplog.text) == warned
    assert list(tmp_path.iterdir()) == []

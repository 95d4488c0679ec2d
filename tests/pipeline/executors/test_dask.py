"""Workers on this machine: how many, which GPU for which. And schedulers that someone else has started."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from console.errors import InputError
from pipeline.executors import dask as module
from pipeline.executors.config import ExecutorConfig
from pipeline.executors.connection import Connection
from pipeline.executors.dask import DaskExecutor, LocalWorkers, SchedulerWorkers, visible_gpus


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

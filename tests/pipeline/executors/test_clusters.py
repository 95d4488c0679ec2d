"""How many workers, which GPU for which, what Slurm is told; and what settings are refused."""

import contextlib
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from console.errors import InputError
from pipeline.cli.main import main
from pipeline.core.provenance import REPOSITORY
from pipeline.executors import certificate, clusters, dispatch
from pipeline.executors.config import ExecutorConfig
from pipeline.executors.connection import Connection


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with so many cores and GPUs."""

    def make(cores: int, gpus: list[str]) -> None:
        monkeypatch.setattr(clusters, "_cores", lambda: cores)
        monkeypatch.setattr(clusters, "_gpus", lambda: gpus)

    return make


@pytest.mark.parametrize(("cores", "workers", "threads"), [(16, 4, 4), (16, 3, 5), (2, 2, 1), (2, 8, 1), (1, 1, 1)])
def test_workers_share_the_cores(machine: Callable[..., None], cores: int, workers: int, threads: int) -> None:
    machine(cores, [])
    settings = clusters.local_settings(ExecutorConfig(kind="dask", workers=workers), "cpu")
    environment = settings["distributed.nanny.pre-spawn-environ"]
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == threads


@pytest.mark.parametrize(("cores", "gpus", "expected"), [(16, 0, 4), (2, 0, 1), (16, 3, 3)])
def test_so_many_workers_if_none_are_asked_for(
    machine: Callable[..., None], cores: int, gpus: int, expected: int
) -> None:
    machine(cores, [str(number) for number in range(gpus)])
    assert clusters.local_workers(ExecutorConfig(kind="dask"), "auto")[0] == expected


def test_each_worker_takes_one_gpu(machine: Callable[..., None]) -> None:
    machine(16, ["2", "GPU-5f"])  # as CUDA_VISIBLE_DEVICES had named them
    two = ExecutorConfig(kind="dask", workers=2)
    assert clusters.local_workers(two, "auto") == (2, ["2", "GPU-5f"])
    assert clusters.local_workers(two, "cpu") == (2, [None, None])
    one = ExecutorConfig(kind="dask", workers=1)
    assert clusters.local_workers(one, "cuda:1") == (1, ["GPU-5f"])
    with pytest.raises(InputError, match=r"--workers 3, but 2 GPU\(s\) for --device cuda: .* --workers 2, or"):
        clusters.local_workers(ExecutorConfig(kind="dask", workers=3), "cuda")
    with pytest.raises(InputError, match=r"--workers 2, but 1 GPU\(s\) for --device cuda:0"):
        clusters.local_workers(two, "cuda:0")


def test_gpus_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert clusters._gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6, 7")
    assert clusters._gpus() == ["6", "7"]


def script_of(capsys: pytest.CaptureFixture[str], config: Path, workspace: Path, *words: str) -> str:
    given = ["--config", str(config), "--workspace", str(workspace), "--dry-run", "--executor", "slurm", *words]
    assert main([*given, "--stages", "preprocess"]) == 0
    return capsys.readouterr().out.partition("each worker's job for Slurm:\n")[2]


def test_dry_run_shows_the_job_script_and_touches_nothing(
    picture_cohort: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = picture_cohort(tmp_path / "data", subjects=6)
    workspace = tmp_path / "two words"
    words = ["--workers", "3", "--worker-memory", "24GiB", "--executor.slurm.partition", "gpu"]
    words += ["--executor.slurm.account", "neuro", "--executor.slurm.cores", "6", "--executor.slurm.gpus", "1"]
    words += ["--executor.slurm.time", "1-06:00:00", "--executor.slurm.lines", '["--constraint=a100"]']
    words += ["--executor.slurm.interface", "ib0"]
    lines = script_of(capsys, config, workspace, *words).splitlines()
    directives = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert directives == {
        "-J hypermm", "-p gpu", "-A neuro", "-n 1", "--cpus-per-task=6", "--mem=24G", "-t 1-06:00:00",
        f"-o '{workspace / 'logs'}'/worker-%J.log", "--open-mode=append", "--gres=gpu:1", "--constraint=a100",
    }  # fmt: skip
    private = workspace / certificate.FOLDER
    assert f"export PYTHONPATH={shlex.quote(str(REPOSITORY))}" in lines
    assert "export PYTHONSAFEPATH=1" in lines
    assert f"umask {clusters._umask():04o}" in lines
    assert "export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True" in lines
    assert f"export DASK_TEMPORARY_DIRECTORY={shlex.quote(str(private))}" in lines
    assert "export OMP_NUM_THREADS=6" in lines
    command = shlex.split([line for line in lines if line][-1])
    assert command[:3] == [sys.executable, "-m", "distributed.cli.dask_worker"]
    options = dict(zip(command[4::2], command[5::2], strict=False))
    assert options["--nthreads"] == "1"
    assert options["--memory-limit"] == "24.00GiB"
    assert command[3] == "tls://ADDRESS:PORT"
    assert command[-4:] == ["--interface", "ib0", "--protocol", "tls://"]
    shown, key = map(str, certificate.certificate_files(private))
    assert command[-10:-4] == ["--tls-ca-file", shown, "--tls-cert", shown, "--tls-key", key]
    assert not workspace.exists()


def test_a_plain_job_asks_for_no_partition_and_no_gpu(
    picture_cohort: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = script_of(capsys, picture_cohort(tmp_path / "data", subjects=6), tmp_path / "run")
    assert "--cpus-per-task=4" in script
    for absent in ("-p ", "-A ", "gres", "--interface"):
        assert absent not in script


def test_without_sbatch_slurm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="there is no sbatch on this machine"):
        clusters.slurm_cluster(ExecutorConfig(kind="slurm"), tmp_path, certificate.write_certificate(tmp_path))


@pytest.mark.parametrize(("protocol", "warned"), [("tcp", True), ("tls", False)])
def test_an_open_scheduler_is_warned_of(
    tmp_path: Path,
    protocol: str,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Connection, "_client_of", lambda *_: contextlib.nullcontext())
    scheduler = f"{protocol}://10.0.0.5:8786"
    connection = Connection(ExecutorConfig(kind="dask", scheduler=scheduler), tmp_path, device="cpu")
    with caplog.at_level("WARNING", logger="hypermm"):
        connection.client()
    connection.close()
    words = f"the connection to {scheduler} is not encrypted, and nobody has to prove who they are: whoever reaches"
    assert (words in caplog.text) == warned
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["local", "dask", "slurm"])
def test_what_a_killed_run_left_goes_before_anything_is_done(tmp_path: Path, kind: str) -> None:
    key = tmp_path / certificate.FOLDER / "key.pem"
    key.parent.mkdir()
    key.touch()
    with dispatch.opened(ExecutorConfig(kind=kind), tmp_path, device="cpu"):
        assert not key.parent.exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"workers": 2}, "--executor dask"),
        ({"worker_memory": "8GB"}, "--executor dask"),
        ({"kind": "dask", "workers": 0}, "greater than or equal to 1"),
        ({"kind": "dask", "worker_memory": "lots"}, "should match pattern"),
        ({"kind": "slurm", "scheduler": "tcp://10.0.0.5:8786"}, "goes with executor.kind dask"),
        ({"kind": "dask", "scheduler": "10.0.0.5:8786"}, "begins with tcp:// or tls://"),
        ({"kind": "dask", "scheduler": "tcp://10.0.0.5"}, "should match pattern"),
        ({"kind": "dask", "scheduler": "tcp://10.0.0.5:8786", "workers": 2}, "are started elsewhere"),
        ({"kind": "slurm", "slurm": {"gpus": 2}}, "less than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ExecutorConfig(**given)


def test_the_executor_changes_no_key(picture_cohort: Callable[..., Path], tmp_path: Path) -> None:
    """Results of one executor are up to date for another."""
    from pipeline.runner.plan import made_from
    from pipeline.settings import load_settings
    from pipeline.specs.registry import STAGES

    config = picture_cohort(tmp_path / "data", subjects=6)
    local = load_settings(config, {"features.weights": "random"})
    slurm = load_settings(config, {"features.weights": "random", "executor.kind": "slurm", "executor.workers": "9"})
    assert slurm.executor != local.executor
    for stage in STAGES:
        assert made_from(stage, local, tmp_path) == made_from(stage, slurm, tmp_path)

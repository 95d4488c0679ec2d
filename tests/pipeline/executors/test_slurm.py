"""The job script of a worker, as --dry-run shows it."""

import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from console.errors import InputError
from pipeline.cli.main import main
from pipeline.core.provenance import REPOSITORY
from pipeline.executors.certificate import certificate_files
from pipeline.executors.config import ExecutorConfig
from pipeline.executors.private_folder import FOLDER
from pipeline.executors.slurm import SlurmExecutor, SlurmWorkers, current_umask


def script_of(capsys: pytest.CaptureFixture[str], config: Path, workspace: Path, *argv: str) -> str:
    given = ["--config", str(config), "--workspace", str(workspace), "--dry-run", "--executor", "slurm", *argv]
    assert main([*given, "--stages", "preprocess"]) == 0
    return capsys.readouterr().out.partition("each worker's job for Slurm:\n")[2]


def test_dry_run_shows_the_job_script_and_touches_nothing(
    picture_cohort: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = picture_cohort(tmp_path / "data", subjects=6)
    workspace = tmp_path / "two words"
    argv = ["--workers", "3", "--worker-memory", "24GiB", "--executor.slurm.partition", "gpu"]
    argv += ["--executor.slurm.account", "neuro", "--executor.slurm.cores", "6", "--executor.slurm.gpus", "1"]
    argv += ["--executor.slurm.time", "1-06:00:00", "--executor.slurm.lines", '["--constraint=a100"]']
    argv += ["--executor.slurm.interface", "ib0"]
    lines = script_of(capsys, config, workspace, *argv).splitlines()
    directives = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert directives == {
        "-J hypermm", "-p gpu", "-A neuro", "-n 1", "--cpus-per-task=6", "--mem=24G", "-t 1-06:00:00",
        f"-o '{workspace / 'logs'}'/worker-%J.log", "--open-mode=append", "--gres=gpu:1", "--constraint=a100",
    }  # fmt: skip
    private = workspace / FOLDER
    assert f"export PYTHONPATH={shlex.quote(str(REPOSITORY))}" in lines
    assert "export PYTHONSAFEPATH=1" in lines
    assert f"umask {current_umask():04o}" in lines
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
    shown, key = map(str, certificate_files(private))
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
    workers = SlurmWorkers(ExecutorConfig(kind="slurm"), tmp_path, device="cpu")
    with pytest.raises(InputError, match="there is no sbatch on this machine"), ExitStack() as stack:
        workers.start(stack)
    assert list(tmp_path.iterdir()) == []


def test_scans_are_elsewhere_and_the_device_is_that_of_the_jobs(tmp_path: Path) -> None:
    executor = SlurmExecutor(ExecutorConfig(kind="slurm"), tmp_path, device="cuda:1")
    assert executor.elsewhere
    assert (executor.workers.device, executor.workers.memory) == ("cuda:1", "16GB")

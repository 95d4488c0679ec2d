"""Real worker processes on loopback, really killed: the end is that of a run in one process, byte for byte."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import pytest
from helpers import thin_backbone

from files.reading import file_sha256
from pipeline.cli.main import main
from pipeline.core.provenance import REPOSITORY
from pipeline.executors import certificate, private_folder
from pipeline.store.claims import FOLDER
from pipeline.store.volumes import VolumeSet

TIME_STAMPED = ("manifest.json", "record.json", "settings.yaml", ".lock")
TWO_WORKERS = ("--executor", "dask", "--workers", "2")
ONE_WORKER = ("--executor", "dask", "--workers", "1")
THIN = {"DASK_DISTRIBUTED__WORKER__PRELOAD": json.dumps([thin_backbone.__file__])}
SOON = 240  # seconds within which everything below has to happen


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, picture_cohort: Callable[..., Path]) -> Path:
    """Large pictures: time to be hit in."""
    return picture_cohort(tmp_path_factory.mktemp("large"), subjects=12, side=700)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, picture_cohort: Callable[..., Path]) -> Path:
    """Small pictures, for the backbone."""
    return picture_cohort(tmp_path_factory.mktemp("small"), subjects=6, second=1.0)


def argv(config: Path, workspace: Path, stage: str, *more: str) -> list[str]:
    given = ["--config", str(config), "--workspace", str(workspace), "--stages", stage, "--device", "cpu"]
    return [*given, *more]


@contextmanager
def started(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own; the group is ended with the feature map."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        umask=0o022,  # what most machines are set to
    )
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    errors = process.communicate(timeout=SOON)[1]
    return process.returncode, errors


def until(look: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """What `look` returns first, while the process runs."""
    deadline = time.monotonic() + SOON
    while not (result := look()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return result


def claims(stage_folder: Path) -> list[dict[str, Any]]:
    """The claims of workers on scans."""
    held = []
    for path in stage_folder.glob(f"{FOLDER}/scan-*.json"):
        try:
            held.append(json.loads(path.read_text()) | {"scan": path.stem.removeprefix("scan-")})
        except (FileNotFoundError, json.JSONDecodeError):
            continue  # it is done already
    return held


def stopped_worker(stage_folder: Path) -> dict[str, Any] | None:
    """The claim of a worker in the middle of a scan; it is stopped there."""
    for claim in claims(stage_folder):
        os.kill(claim["process"], signal.SIGSTOP)
        if claim in claims(stage_folder) and not (stage_folder / claim["scan"] / "record.json").exists():
            return claim
        os.kill(claim["process"], signal.SIGCONT)
    return None


def contents(workspace: Path) -> dict[str, str]:
    files = (p for p in workspace.rglob("*") if p.is_file() and "logs" not in p.parts)
    return {str(p.relative_to(workspace)): file_sha256(p) for p in files if p.name not in TIME_STAMPED}


def fingerprints(workspace: Path) -> list[Any]:
    stages = ("cohort", "preprocess", "features")
    manifests = [json.loads((workspace / stage / "manifest.json").read_text()) for stage in stages]
    return [(m["key"], m["fingerprint"], m["counts"], m.get("scans")) for m in manifests]


def alive(group: int) -> list[str]:
    """Processes of a group that are at work; those that nobody has buried do not count."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = (line.split(maxsplit=2) for line in listed.splitlines())
    return [row[2] for row in rows if int(row[0]) == group and not row[1].startswith("Z")]


def all_end_soon(group: int) -> None:
    deadline = time.monotonic() + 20
    while left := alive(group):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def failures(workspace: Path) -> list[dict[str, str]]:
    with (workspace / "failures.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
@pytest.mark.usefixtures("thin_backbone")
def test_two_workers_of_which_one_is_killed_give_the_same_bytes(small: Path, tmp_path: Path) -> None:
    assert main(argv(small, tmp_path / "local", "features", "--quiet")) == 0
    run = tmp_path / "dask"
    with started("run_pipeline.py", *argv(small, run, "features", *TWO_WORKERS), **THIN) as process:
        until(lambda: list((run / "features").glob("*/record.json")), process)
        victim = until(lambda: stopped_worker(run / "features"), process)
        assert victim["process"] != process.pid
        os.kill(victim["process"], signal.SIGKILL)
        code, errors = ended(process)
    assert code == 0, errors
    assert f"scan {victim['scan']}: 1 of its workers died" in errors
    assert failures(run) == []
    assert contents(run) == contents(tmp_path / "local")
    assert fingerprints(run) == fingerprints(tmp_path / "local")
    assert not (run / "features" / FOLDER).exists()
    assert [path for path in (run, *run.rglob("*")) if path.stat().st_mode & 0o077] == []  # for their owner to read


@pytest.mark.slow
def test_a_scan_that_kills_its_workers_is_quarantined_and_the_rest_finishes(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What kills is a preload of Dask's, which makes reading one file deadly; the product knows nothing of it."""
    deadly = tmp_path / "deadly.py"
    deadly.write_text(
        "import os, signal\n"
        "import preprocessing.pictures\n"
        "read = preprocessing.pictures.read_picture\n"
        "def read_picture(path, read=read, **options):\n"
        "    if path.name == 'p03_low.png':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return read(path, **options)\n"
        "preprocessing.pictures.read_picture = read_picture\n"
        "def dask_setup(worker): pass\n"
    )
    run = tmp_path / "run"
    with dask.config.set({"distributed.worker.preload": [str(deadly)]}):
        assert main(argv(small, run, "preprocess", *ONE_WORKER, "--quiet")) == 3
    (row,) = failures(run)
    assert (row["stage"], row["scan"], row["subject"], row["modality"]) == ("preprocess", "p03_low", "p03", "low")
    assert "its worker died 3 times" in row["reason"]
    assert "scan p03_low left out: its worker died 3 times" in capsys.readouterr().err
    manifest = json.loads((run / "preprocess" / "manifest.json").read_text())
    assert manifest["counts"] == {"scans": len(VolumeSet(run / "preprocess").scans()), "failed": 1}
    assert manifest["counts"]["scans"] == 11
    assert main(argv(small, run, "preprocess", "--quiet")) == 3  # left alone: up to date, and still named
    assert json.loads((run / "preprocess" / "manifest.json").read_text()) == manifest
    assert main(argv(small, run, "preprocess", "--quiet", "--force", "preprocess")) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("thin_backbone")
def test_what_a_worker_finds_damaged_is_made_again_in_the_same_run(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(argv(small, run, "features", "--quiet")) == 0
    before = contents(run)
    (run / "preprocess" / "p03_low" / "picture.png").write_bytes(b"half")
    capsys.readouterr()
    with dask.config.set({"distributed.worker.preload": [thin_backbone.__file__]}):
        assert main(argv(small, run, "features", *ONE_WORKER, "--force", "features", "--quiet")) == 0
    assert "the result of scan p03_low is damaged on disk" in capsys.readouterr().err
    assert contents(run) == before


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_loses_nothing(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started("run_pipeline.py", *argv(config, run, "preprocess", *ONE_WORKER)) as process:
        until(lambda: list((run / "preprocess").glob("*/record.json")), process)
        assert len(alive(process.pid)) >= 2
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        code, errors = ended(process)
        assert code == 130
        assert "stopped; run the same command again" in errors
        assert "Traceback" not in errors
        all_end_soon(process.pid)
    assert not (run / "preprocess" / "manifest.json").exists()
    assert not (run / private_folder.FOLDER).exists()
    done = {path: path.stat().st_mtime_ns for path in (run / "preprocess").glob("*/record.json")}
    assert main(argv(config, run, "preprocess", "--quiet")) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done


@pytest.mark.slow
def test_a_killed_run_takes_its_workers_with_it(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started("run_pipeline.py", *argv(config, run, "preprocess", *ONE_WORKER)) as process:
        until(lambda: list((run / "preprocess").glob("*/record.json")), process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        all_end_soon(process.pid)
    assert (run / private_folder.FOLDER).exists()
    assert main(argv(config, run, "preprocess", "--quiet")) == 0
    assert not (run / "preprocess" / FOLDER).exists()
    assert not (run / private_folder.FOLDER).exists()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def scheduler(port: int, *more: str) -> Any:
    options = ("--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    return started("-m", "distributed.cli.dask_scheduler", *options, *more)


def worker(port: int, *more: str, protocol: str = "tcp") -> Any:
    options = (f"{protocol}://127.0.0.1:{port}", "--nthreads", "1", "--no-dashboard")
    return started("-m", "distributed.cli.dask_worker", *options, *more)


@pytest.mark.slow
def test_the_scheduler_is_restarted_in_the_middle(config: Path, tmp_path: Path) -> None:
    port, run = free_port(), tmp_path / "run"
    given = argv(config, run, "preprocess", "--executor", "dask", "--scheduler", f"tcp://127.0.0.1:{port}")
    with started("run_pipeline.py", *given) as process:
        with scheduler(port) as first, worker(port):
            until(lambda: list((run / "preprocess").glob("*/record.json")), process)
            first.send_signal(signal.SIGKILL)
            first.wait()
        assert not (run / "preprocess" / "manifest.json").exists()
        with scheduler(port), worker(port):
            code, errors = ended(process)
    assert code == 0, errors
    assert "lost the Dask scheduler; reconnecting" in errors
    assert failures(run) == []
    assert main(argv(config, tmp_path / "local", "preprocess", "--quiet")) == 0
    assert contents(run) == contents(tmp_path / "local")


@pytest.mark.slow
def test_a_scheduler_of_ones_own_with_tls(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The certificates are those of Dask's own settings."""
    port, run = free_port(), tmp_path / "run"
    certificate.write_certificate(tmp_path)
    shown, key = map(str, certificate.certificate_files(tmp_path))
    tls = ("--tls-ca-file", shown, "--tls-cert", shown, "--tls-key", key)
    ours = {"ca-file": shown, "client.cert": shown, "client.key": key}
    given = argv(small, run, "preprocess", "--executor", "dask", "--scheduler", f"tls://127.0.0.1:{port}", "--quiet")
    with scheduler(port, *tls, "--protocol", "tls"), worker(port, *tls, protocol="tls"):
        with dask.config.set({f"distributed.comm.tls.{name}": path for name, path in ours.items()}):
            assert main(given) == 0
    assert len(VolumeSet(run / "preprocess").scans()) == 12
    assert "is not encrypted" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_scheduler_that_stays_away_ends_the_run_in_words(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    given = argv(config, tmp_path, "preprocess", "--executor", "dask", "--scheduler", address)
    assert main([*given, "--executor.patience_minutes", "0.02", "--quiet"]) == 2
    message = capsys.readouterr().err
    assert f"the connection to {address} is not encrypted" in message
    assert f"the Dask scheduler {address} has not answered for 0.02 minutes" in message
    assert "What is finished is kept; run the same command again" in message


@pytest.mark.slow
def test_a_scheduler_without_workers_ends_the_run_in_words(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    given = argv(config, tmp_path, "preprocess", "--executor", "dask", "--scheduler", f"tcp://127.0.0.1:{port}")
    with scheduler(port):
        assert main([*given, "--executor.patience_minutes", "0.05", "--quiet"]) == 2
    message = capsys.readouterr().err
    assert "no worker for 0.05 minutes" in message
    assert f"Start workers with: dask worker tcp://127.0.0.1:{port} --nthreads 1" in message

"""Killed in every stage, taken up again: the end is the same, byte for byte."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from files.reading import file_sha256
from pipeline.cli.main import main
from pipeline.core.provenance import REPOSITORY

pytestmark = pytest.mark.usefixtures("one_thread", "thin_backbone")
TIME_STAMPED = ("manifest.json", "record.json", "settings.yaml", ".lock")
FIRST_TRACE = {  # what shows that a stage is in the middle of its work
    "preprocess": "*/record.json",
    "features": "*/record.json",
    "pretrain": "repeat-1/record.json",
    "classify": "repeat-1/record.json",
}


LONG = [
    "--pretrain.epochs",
    "10",
    "--classify.fit",
    "epochs",
    "--classify.epochs",
    "300",
    "--classify.patience",
    "300",
]  # time to be hit in


def words(config: Path, workspace: Path) -> list[str]:
    return ["--config", str(config), "--workspace", str(workspace), "--stages", "classify", "--quiet", *LONG]


def start(config: Path, workspace: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}", "OMP_NUM_THREADS": "1"}
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    argv = [sys.executable, "-m", "helpers.thin_backbone", *words(config, workspace)]
    return subprocess.Popen(argv, cwd=REPOSITORY, env=environment, **piped)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end. In this process, libraries may have another number of threads, and sums other last digits."""
    errors = process.communicate()[1]
    assert process.returncode == 0, errors.decode()


def contents(workspace: Path) -> dict[str, str]:
    files = (p for p in workspace.rglob("*") if p.is_file() and not {"logs", "tensorboard"} & set(p.parts))
    return {str(p.relative_to(workspace)): file_sha256(p) for p in files if p.name not in TIME_STAMPED}


def stop_within(process: subprocess.Popen[bytes], stage_folder: Path, trace: str, how: signal.Signals) -> None:
    """Send a signal as soon as the stage has done something; it must not have finished by then."""
    deadline = time.monotonic() + 120
    while not any(stage_folder.glob(trace)):
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert not (stage_folder / "manifest.json").exists()
    process.send_signal(how)
    process.communicate()


@pytest.mark.slow
def test_killed_in_every_stage_and_the_same_in_the_end(picture_cohort: Callable[..., Path], tmp_path: Path) -> None:
    config = picture_cohort(tmp_path / "data", subjects=12, second=1.0, side=400)
    finish(start(config, tmp_path / "undisturbed"))
    for number, (stage, trace) in enumerate(FIRST_TRACE.items()):
        how = signal.SIGINT if number % 2 else signal.SIGKILL
        process = start(config, tmp_path / "disturbed")
        stop_within(process, tmp_path / "disturbed" / stage, trace, how)
        assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    finish(start(config, tmp_path / "disturbed"))
    expected, actual = contents(tmp_path / "undisturbed"), contents(tmp_path / "disturbed")
    assert set(actual) - {n for n in actual if Path(n).name.startswith(".")} == set(expected)
    assert [name for name, content in expected.items() if actual[name] != content] == []


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_loses_nothing(
    picture_cohort: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file size limit stands for the full disk: the kernel refuses the write in the same place."""
    config = picture_cohort(tmp_path / "data", subjects=6)
    argv = ["--config", str(config), "--workspace", str(tmp_path / "run"), "--stages", "features", "--quiet"]
    command = "ulimit -f 64; trap '' XFSZ; exec " + " ".join([sys.executable, "run_pipeline.py", *argv])
    limited = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True)
    assert limited.returncode == 2
    assert "the disk is full" in limited.stderr
    assert main(argv) == 0
    with (tmp_path / "run" / "failures.csv").open() as stream:
        assert list(csv.DictReader(stream)) == []


def test_what_was_left_half_written_is_not_taken_for_finished(tmp_path: Path) -> None:
    from files.writing import replacing
    from pipeline.store.scan_set import ScanSet

    scans = ScanSet(tmp_path)
    scans.begin("a")
    (tmp_path / "a" / "record.json").write_text('{"key": "k"')  # cut short
    assert not scans.has("a", "k")
    scans.finish("a", "k", {})
    assert scans.has("a", "k")
    assert not scans.has("a", "other")

    def break_off() -> None:
        with replacing(tmp_path / "table.csv") as partial:
            partial.write_text("half")
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        break_off()
    assert os.listdir(tmp_path) == ["a"]

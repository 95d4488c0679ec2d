"""What is of patients is for its owner to read; nothing is written or deleted through a link; cells are no formulas."""

import csv
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from files.writing import PlantedLinkError
from intake import __main__ as intake
from pipeline.cli import derivatives, tracking, workspace
from pipeline.cli.main import main
from pipeline.core.provenance import REPOSITORY
from pipeline.core.tracking_config import TrackingConfig
from pipeline.doctor import machine
from pipeline.doctor.checks import CheckContext
from pipeline.settings import load_settings
from pipeline.store.predictions import PredictionSet

pytestmark = pytest.mark.usefixtures("thin_backbone")
EVIL = "=cmd|' /C calc'!A0"


@pytest.fixture(autouse=True)
def _usual_rights() -> Iterator[None]:
    """What most machines are set to."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def open_to_others(folder: Path, bits: int = 0o077) -> list[str]:
    return [str(path.relative_to(folder)) for path in [folder, *folder.rglob("*")] if path.stat().st_mode & bits]


# --- rights ---


@pytest.mark.parametrize(("argv", "bits"), [([], 0o077), (["--group-readable"], 0o027)])
def test_a_run_writes_for_its_owner(
    argv: list[str], bits: int, picture_cohort: Callable[..., Path], tmp_path: Path
) -> None:
    """And so do its workers: tests/pipeline/executors/test_dispatch.py."""
    config = picture_cohort(tmp_path / "data", subjects=12, side=24)
    base = ["--config", str(config), "--workspace", str(tmp_path / "deep" / "run"), "--stages", "features", "--quiet"]
    assert main([*base, *argv]) == 0
    run = tmp_path / "deep"
    assert len(list(run.rglob("*"))) > 30
    assert open_to_others(run, bits) == []
    assert bool(open_to_others(run)) is bool(argv)
    (tmp_path / "after").touch()
    assert stat.S_IMODE((tmp_path / "after").stat().st_mode) == 0o644


def data_set(folder: Path) -> Path:
    for name in ("sub-01", "sub-02"):
        (folder / name / "anat").mkdir(parents=True)
        (folder / name / "anat" / f"{name}_T1w.nii.gz").touch()
    (folder / "participants.tsv").write_text("participant_id\tdiagnosis\nsub-01\tCN\nsub-02\tAD\n")
    return folder


@pytest.mark.parametrize(("argv", "mode"), [([], 0o600), (["--group-readable"], 0o640)])
def test_intake_writes_for_its_owner(argv: list[str], mode: int, tmp_path: Path) -> None:
    root = data_set(tmp_path / "set")
    assert intake.main(["bids", str(root), str(tmp_path / "m.csv"), *argv]) == 0
    assert stat.S_IMODE((tmp_path / "m.csv").stat().st_mode) == mode
    (tmp_path / "export").mkdir()
    base = ["dicom", str(tmp_path / "export"), str(tmp_path / "out"), "--key", str(tmp_path / "key")]
    assert intake.main([*base, *argv]) == 2  # nothing to convert, and the tables are written
    assert open_to_others(tmp_path / "out", 0o027 if argv else 0o077) == []
    assert stat.S_IMODE((tmp_path / "out" / "left_out.csv").stat().st_mode) == mode


def test_the_doctor_warns_of_folders_that_are_open_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    overrides = {"cohort.manifest": str(tmp_path / "data" / "m.csv")}
    config = load_settings(REPOSITORY / "configs" / "adni.yaml", overrides)
    patient = CheckContext(lambda: config, lambda name: tmp_path / "run", "cpu", settings=config)
    (finding,) = machine.rights(patient)
    assert finding.status == "ok"  # above tmp_path there is a folder that nobody else may enter
    monkeypatch.setattr(machine.stat, "S_IXOTH", ~0)
    (finding,) = machine.rights(patient)
    assert (finding.status, finding.message) == (
        "warn", f"everyone on this machine may read {tmp_path / 'data'} (mode 0755)"
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    (tmp_path / "data").chmod(0o700)
    (finding,) = machine.rights(patient)
    assert finding.message == f"everyone on this machine may read and change {tmp_path / 'run'} (mode 0777)"
    assert finding.remedy == f"if these are patients: chmod -R o-rwx {tmp_path / 'run'}"
    (tmp_path / "run").chmod(0o750)
    (finding,) = machine.rights(patient)
    assert finding.status == "ok"


# --- links ---


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """A folder of somebody, which has to be as it was at the end."""
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "file").write_text("of someone else")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_text() == "of someone else"


def test_pages_and_maps(tmp_path: Path, precious: Path) -> None:
    volume = np.zeros((2, 2, 2), np.float32)
    for link in ("predict/patients", "predict/maps", "predict"):
        run = tmp_path / link.replace("/", "-")
        (run / link).parent.mkdir(parents=True)
        (run / link).symlink_to(precious)
        out = PredictionSet(run / "predict")
        acts = {
            "predict/patients": [lambda out=out: out.save_pages("", [("patients/x.html", "")])],
            "predict/maps": [out.remove_maps, lambda out=out: out.save_map("s", volume, np.eye(4), "")],
        }
        for act in acts.get(link, [act for several in acts.values() for act in several]):
            with pytest.raises(PlantedLinkError):
                act()


def test_pages_of_earlier_runs_go_and_links_among_them_are_not_followed(tmp_path: Path, precious: Path) -> None:
    out = PredictionSet(tmp_path / "predict")
    out.save_pages("list", [("patients/old.html", "")])
    (tmp_path / "predict" / "patients" / "link").symlink_to(precious)
    out.save_pages("list", [("patients/new.html", "page")])
    assert [path.name for path in (tmp_path / "predict" / "patients").iterdir()] == ["new.html"]


def test_files_of_the_run_itself(tmp_path: Path, precious: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("settings.yaml", "failures.csv"):
        (run / name).symlink_to(precious / "file")
    settings = load_settings(REPOSITORY / "configs" / "demo.yaml", {})
    assert workspace.save_settings(settings, run) is None  # what it held before is not put back
    workspace.write_failures([], run)
    assert not (run / "settings.yaml").is_symlink()
    assert not (run / "failures.csv").is_symlink()


def test_tracking(tmp_path: Path, precious: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "tensorboard").symlink_to(precious)
    (run / "mlruns").symlink_to(precious)
    with pytest.raises(PlantedLinkError):
        tracking.to_tensorboard(TrackingConfig(), run, name="x")
    with pytest.raises(PlantedLinkError):
        tracking._mlflow_store("mlruns", run)
    outside = tracking._mlflow_store(str(run / "mlruns"), run)[0]  # a whole path may have links, which are the user's
    assert outside.endswith("precious/mlflow.db")


def test_a_broken_tensorboard_folder_that_is_a_link(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "run" / "tensorboard").mkdir(parents=True)
    (tmp_path / "run" / "tensorboard" / ".part-x").symlink_to(precious)
    (tmp_path / "run" / "settings.yaml").touch()
    with pytest.raises(PlantedLinkError):
        tracking.to_tensorboard(TrackingConfig(), tmp_path / "run", name="x")


def test_tables_of_intake(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "export").mkdir()
    for name in ("m.csv", "out/manifest.csv", "out/left_out.csv"):
        (tmp_path / name).symlink_to(precious / "file")
    assert intake.main(["bids", str(data_set(tmp_path / "set")), str(tmp_path / "m.csv")]) == 0
    argv = ["dicom", str(tmp_path / "export"), str(tmp_path / "out"), "--key", str(tmp_path / "key")]
    assert intake.main(argv) == 2
    assert not [path for path in [tmp_path / "m.csv", *(tmp_path / "out").iterdir()] if path.is_symlink()]


def test_derivatives_come_whole_or_not_at_all(
    tmp_path: Path, precious: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from intake.bids.derivatives import Derivatives

    (tmp_path / "volume").write_bytes(b"x")
    (tmp_path / "planted").symlink_to(precious / "file")
    for out, source, error in (
        ("first", tmp_path / "planted", PlantedLinkError),
        ("second", tmp_path / "gone", FileNotFoundError),
        ("third", tmp_path / "volume", None),
    ):
        laid_out = Derivatives({"sub-1/a.nii.gz": tmp_path / "volume", "sub-1/b.nii.gz": source}, {"README": "x"})
        if error is None:
            derivatives._write_whole(laid_out, tmp_path / out)
        else:
            with pytest.raises(error):
                derivatives._write_whole(laid_out, tmp_path / out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["planted", "precious", "third", "volume"]
    (tmp_path / "fourth").symlink_to(tmp_path / "nowhere")
    assert derivatives.main([str(tmp_path), str(tmp_path / "fourth")]) == 2

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        derivatives._write_whole(laid_out, tmp_path / "fifth")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fourth", "planted", "precious", "third", "volume"]


# --- formulas ---


@pytest.mark.parametrize("safe", [False, True])
def test_cells_of_tables_for_people(safe: bool, tmp_path: Path) -> None:
    start = "'" if safe else ""
    (tmp_path / "cohort").mkdir()
    pd.DataFrame({"scan": ["s"], "subject": [EVIL]}).to_csv(tmp_path / "cohort" / "scans.csv", index=False)
    failure = {"stage": "preprocess", "scan": "s", "reason": "@x"}
    workspace.write_failures([failure], tmp_path, for_spreadsheets=safe)
    with (tmp_path / "failures.csv").open(encoding="utf-8", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["subject"], row["reason"], row["scan"]) == (f"{start}{EVIL}", f"{start}@x", "s")
    PredictionSet(tmp_path / "predict").save({}, pd.DataFrame({"subject": [EVIL], "p": [-0.5]}), csv_safe=safe)
    with (tmp_path / "predict" / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream)) == [["subject", "p"], [f"{start}{EVIL}", "-0.5"]]


def test_the_setting_redoes_nothing(
    picture_cohort: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = picture_cohort(tmp_path / "data", subjects=12, side=24)
    (tmp_path / "data" / "p00_low.png").write_bytes(b"no picture")
    argv = ["--config", str(config), "--workspace", str(tmp_path / "run"), "--stages", "preprocess", "--quiet"]
    manifest = pd.read_csv(tmp_path / "data" / "cohort.csv")
    manifest.loc[manifest["subject"] == "p00", "subject"] = EVIL
    manifest.to_csv(tmp_path / "data" / "cohort.csv", index=False)
    assert main(argv) == 3
    assert f"\n{EVIL}" not in (tmp_path / "run" / "failures.csv").read_text()
    capsys.readouterr()
    assert main([*argv, "--report.csv_safe", "true"]) == 3
    assert ",'=cmd" in (tmp_path / "run" / "failures.csv").read_text()
    assert " run  " not in capsys.readouterr().out
    assert EVIL in set(pd.read_csv(tmp_path / "run" / "cohort" / "scans.csv")["subject"])


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a,b\n1,2\n", b'"', b"scan\n\0"])
def test_a_damaged_table_does_not_hide_the_failures(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "scans.csv").write_bytes(content)
    workspace.write_failures([{"stage": "x", "scan": "s", "reason": "why"}], tmp_path)
    assert (tmp_path / "failures.csv").read_text().splitlines()[1] == "x,s,,,,why"

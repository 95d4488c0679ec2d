"""A scan that hangs, floods or is exchanged under way is a row in failures.csv; the others go on."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.cli.main import main
from pipeline.core.provenance import REPOSITORY
from pipeline.stages import cohort as cohort_stage


@pytest.fixture
def run(tmp_path: Path, head: Callable[..., np.ndarray], save_nifti: Callable[..., Path]) -> Callable[..., list[str]]:
    """The words of a run on the scans of a folder, p1 and p2 and those that are named."""

    def words(*others: str) -> list[str]:
        for number in (1, 2):
            save_nifti(tmp_path / f"p{number}.nii.gz", head(seed=number), 6.0)
        names = ["p1.nii.gz", "p2.nii.gz", *others]
        rows = [{"subject": name.split(".")[0], "modality": "T1", "path": name} for name in names]
        pd.DataFrame(rows).to_csv(tmp_path / "c.csv", index=False)
        settings = {
            "name": "hostile",
            "cohort": {
                "label": None,
                "modalities": {"T1": {"skull_strip": False}},
                "manifest": str(tmp_path / "c.csv"),
            },
            "preprocess": {"spacing_mm": 6.0},
        }
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
        words = ["--config", str(tmp_path / "run.yaml"), "--workspace", str(tmp_path / "run"), "--quiet"]
        return [*words, "--stages", "preprocess"]

    return words


def failures(tmp_path: Path) -> dict[str, str]:
    with (tmp_path / "run" / "failures.csv").open(encoding="utf-8", newline="") as stream:
        return {row["scan"]: row["reason"] for row in csv.DictReader(stream)}


def again(tmp_path: Path, scan: str) -> bool:
    return json.loads((tmp_path / "run" / "preprocess" / scan / "failure.json").read_text())["retryable"]


@pytest.mark.timeout(120)
def test_a_pipe_or_a_device_is_a_row_of_its_own(tmp_path: Path, run: Callable[..., list[str]]) -> None:
    words = run("pipe.nii.gz", "zero.nii")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "zero.nii").symlink_to("/dev/zero")
    assert main(words) == 3
    found = failures(tmp_path)
    assert sorted(found) == ["pipe_T1", "zero_T1"]
    assert all("is a pipe, a device or a socket" in reason for reason in found.values())
    scans = pd.read_csv(tmp_path / "run" / "cohort" / "scans.csv").set_index("scan")["sha256"]
    assert (scans == "unreadable").to_dict() == {"p1_T1": False, "p2_T1": False, "pipe_T1": True, "zero_T1": True}


def test_a_file_without_end_is_not_hashed(tmp_path: Path, run: Callable[..., list[str]]) -> None:
    words = run("holes.nii")
    with (tmp_path / "holes.nii").open("wb") as stream:
        stream.truncate(2**40)
    assert main(words) == 3
    notes = json.loads((tmp_path / "run" / "cohort" / "manifest.json").read_text())["notes"]
    assert any("holes.nii cannot be read (it has 1,099,511,627,776 bytes; at most" in note for note in notes)
    assert "takes about" in failures(tmp_path)["holes_T1"]


def test_a_scan_exchanged_after_it_was_hashed(
    tmp_path: Path,
    run: Callable[..., list[str]],
    head: Callable[..., np.ndarray],
    save_nifti: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = run()
    hashes = cohort_stage._hashes

    def then_exchanged(*arguments: object) -> list[str]:
        found = hashes(*arguments)  # type: ignore[arg-type]
        save_nifti(tmp_path / "p1.nii.gz", 3 * head(seed=7), 6.0)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(cohort_stage, "_hashes", then_exchanged)
        assert main(words) == 3
    assert "changed or replaced while the run was on" in failures(tmp_path)["p1_T1"]
    assert again(tmp_path, "p1_T1")
    assert main(words) == 0  # hashed anew
    volume = nibabel.load(tmp_path / "run" / "preprocess" / "p1_T1" / "volume.nii.gz").get_fdata()
    assert volume.max() == 1
    assert failures(tmp_path) == {}


def test_a_partner_exchanged_after_it_was_hashed(
    tmp_path: Path, run: Callable[..., list[str]], head: Callable[..., np.ndarray], save_nifti: Callable[..., Path]
) -> None:
    """The scan that another one is registered to is read again for it."""
    words = run()
    rows = pd.DataFrame(
        [("p1", "MRI", "p1.nii.gz"), ("p1", "PET", "p2.nii.gz")], columns=["subject", "modality", "path"]
    )
    rows.to_csv(tmp_path / "c.csv", index=False)
    settings = yaml.safe_load((tmp_path / "run.yaml").read_text())
    settings["cohort"]["modalities"] = {name: {"skull_strip": False} for name in ("MRI", "PET")}
    settings["preprocess"]["register_to"] = {"PET": "MRI"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main([*words[:-1], "cohort"]) == 0
    from pipeline.core.runtime import Runtime
    from pipeline.settings import load_settings
    from pipeline.stages.preprocess import preprocess
    from pipeline.store.tables import CohortTables
    from pipeline.store.volumes import VolumeSet

    config = load_settings(tmp_path / "run.yaml", {}).preprocess
    out, finish = VolumeSet(tmp_path / "run" / "preprocess"), VolumeSet.finish
    runtime = Runtime(stage="preprocess", key="", device_name="cpu", workspace=tmp_path / "run")

    def then_exchanged(self: VolumeSet, scan: str, *arguments: object) -> None:
        finish(self, scan, *arguments)  # type: ignore[arg-type]
        save_nifti(tmp_path / "p1.nii.gz", head(seed=9), 6.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VolumeSet, "finish", then_exchanged)
        preprocess(CohortTables(tmp_path / "run" / "cohort"), out, config, runtime)
    assert out.record("p1_MRI") is not None
    reason = json.loads((out.folder_of("p1_PET") / "failure.json").read_text())
    assert "p1.nii.gz is not what it was" in reason["reason"]
    assert reason["retryable"]


def test_a_scan_that_may_not_be_read_is_hashed_once_it_may(
    tmp_path: Path, run: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, opened, access = run(), cohort_stage.file_sha256, os.access

    def closed(path: Path) -> str:
        if path.name == "p1.nii.gz":
            raise PermissionError(13, "Permission denied")
        return opened(path)

    with monkeypatch.context() as patch:
        patch.setattr(cohort_stage, "file_sha256", closed)
        patch.setattr(
            cohort_stage.os, "access", lambda path, mode: Path(path).name != "p1.nii.gz" and access(path, mode)
        )
        assert main(words) == 3
        assert "could not be read then" in failures(tmp_path)["p1_T1"]  # nothing is stored under no hash
    assert main(words) == 0


def test_limits_are_settings_that_redo_nothing(
    tmp_path: Path, run: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = run("wide.nii.gz", "large.nii.gz")
    for name, spacing_mm, side in (("wide", 45.0, 24), ("large", 1.0, 150)):
        voxels = np.random.default_rng(0).normal(size=(side,) * 3).astype(np.float32)
        voxels[:3] = voxels.min()
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([spacing_mm] * 3 + [1])), tmp_path / f"{name}.nii.gz")
    assert main([*words, "--preprocess.memory_gb", "0.4"]) == 3
    found = failures(tmp_path)
    assert "24 voxels of 45 mm are 1080 mm" in found["wide_T1"]
    assert not again(tmp_path, "wide_T1")
    assert "set preprocess.memory_gb to" in found["large_T1"]
    assert again(tmp_path, "large_T1")  # more memory, here or on another machine, may do
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "preprocess").glob("*/record.json")}
    assert main([*words, "--preprocess.memory_gb", "8"]) == 3
    assert set(failures(tmp_path)) == {"wide_T1"}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    capsys.readouterr()
    assert main([*words, "--preprocess.largest_extent_mm", "700", "--dry-run"]) == 0
    assert "changed from" not in capsys.readouterr().out
    for value in ("0", "-1", ".inf", ".nan"):
        assert main([*words, "--preprocess.memory_gb", value]) == 2


@pytest.mark.slow
def test_the_memory_of_a_run_stays_below_its_limit(
    tmp_path: Path, run: Callable[..., list[str]], save_nifti: Callable[..., Path]
) -> None:
    """Two scans that just fit and one that does not, in a process of its own; beside it one without large scans."""
    words = run()
    code = "import sys, resource; from pipeline.cli.main import main; code = main(sys.argv[1:]); "
    code += "print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"

    def peak(*more: str) -> tuple[int, float]:
        done = subprocess.run(
            [sys.executable, "-c", code, *words, *more], cwd=REPOSITORY, capture_output=True, text=True, check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        status, kilobytes = done.stdout.split()[-2:]
        return int(status), 1024 * int(kilobytes)

    status, alone = peak()
    assert status == 0
    grid = np.indices((240, 240, 200)) - np.array([120, 120, 100])[:, None, None, None]
    inside = (grid**2).sum(0) < 90**2
    for seed, name in enumerate(("big1", "big2")):
        scan = np.where(inside, np.random.default_rng(seed).uniform(50, 100, inside.shape), 0).astype(np.float32)
        save_nifti(tmp_path / f"{name}.nii.gz", scan, 1.0)
    save_nifti(tmp_path / "huge.nii.gz", np.tile(scan, (2, 2, 1)), 1.0)
    words = run("big1.nii.gz", "big2.nii.gz", "huge.nii.gz")
    status, both = peak("--preprocess.memory_gb", "2.8")
    assert status == 3
    assert set(failures(tmp_path)) == {"huge_T1"}
    assert both - alone < 2.8e9

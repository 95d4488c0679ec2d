"""Every kind of bad scan: named with its reason, the rest goes on, exit code 3."""

import csv
import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.cli.main import main

pytestmark = pytest.mark.usefixtures("thin_backbone")

VOXEL_MM = 6.0
BAD = {
    "truncated": "truncated or damaged",
    "text": "not a NIfTI image",
    "absurd": "header promises",
    "nan": "1 voxels inside the brain are NaN",
    "constant": "every voxel is",
    "four": "4-D with 5 volumes",
    "affine": "affine",
    "full": "fills the frame",
    "wrong": "not a volume format",
}


def write_bad(folder: Path, head: Callable[..., np.ndarray], save_nifti: Callable[..., Path]) -> None:
    """One file of each kind."""
    good = save_nifti(folder / "good.nii.gz", head(), VOXEL_MM).read_bytes()
    (folder / "truncated.nii.gz").write_bytes(good[: len(good) // 2])
    (folder / "text.nii.gz").write_bytes(gzip.compress(b"this is a letter, not a scan"))
    header = bytearray(nibabel.Nifti1Image(np.zeros((8, 8, 8), np.uint8), np.eye(4)).header.binaryblock)
    header[40:56] = struct.pack("<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1)
    (folder / "absurd.nii").write_bytes(bytes(header) + b"\0" * 4)
    volume = head()
    volume[12, 14, 13] = np.nan
    save_nifti(folder / "nan.nii.gz", volume, VOXEL_MM)
    save_nifti(folder / "constant.nii.gz", np.full((20, 20, 20), 7, np.int16), VOXEL_MM)
    save_nifti(folder / "four.nii.gz", np.stack([head(seed=i) for i in range(5)], axis=3), VOXEL_MM)
    image = nibabel.Nifti1Image(head(), None)
    image.set_sform(np.zeros((4, 4)), code=2)
    image.set_qform(None, code=0)
    nibabel.save(image, folder / "affine.nii.gz")
    full = np.random.default_rng(0).uniform(1, 2, (20, 20, 20)).astype(np.float32)
    full[0, 0, 0] = 0.5
    save_nifti(folder / "full.nii.gz", full, VOXEL_MM)
    (folder / "wrong.docx").write_bytes(b"PK")


@pytest.mark.slow
def test_bad_scans_are_named_and_the_rest_goes_on(
    head: Callable[..., np.ndarray],
    save_nifti: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = []
    for number in range(12):
        path = save_nifti(tmp_path / f"s{number} é.nii.gz", head(seed=number) * (1 + number % 2), VOXEL_MM)
        rows.append((f"s{number}", "T1", path.name, "ab"[number % 2]))
    write_bad(tmp_path, head, save_nifti)
    suffix = {"absurd": "absurd.nii", "wrong": "wrong.docx"}
    rows += [("s0", "T1", suffix.get(kind, f"{kind}.nii.gz"), "a") for kind in BAD if kind not in ("text", "nan")]
    rows += [("lost", "T1", "text.nii.gz", "a"), ("lost", "T1", "nan.nii.gz", "a")]
    pd.DataFrame(rows, columns=["subject", "modality", "path", "diagnosis"]).to_csv(tmp_path / "c.csv", index=False)
    settings = {
        "name": "bad",
        "cohort": {"modalities": {"T1": {"skull_strip": False}}},
        "preprocess": {"spacing_mm": VOXEL_MM},
        "features": {"backbone": "vgg11", "weights": "random", "slice_spacing_mm": 40},
        "split": {"repeats": 1},
        "pretrain": {"epochs": 1},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    words = ["--config", str(tmp_path / "config.yaml"), "--cohort", str(tmp_path / "c.csv"), "--quiet"]
    words += ["--workspace", str(tmp_path / "run with spaces ü")]
    assert main(words) == 3
    with (tmp_path / "run with spaces ü" / "failures.csv").open(encoding="utf-8") as stream:
        failures = {Path(row["path"]).name.split(".")[0]: row for row in csv.DictReader(stream)}
    assert set(failures) == set(BAD)
    for kind, reason in BAD.items():
        assert reason in failures[kind]["reason"], kind
        assert failures[kind]["stage"] == "preprocess"
    predictions = pd.read_csv(tmp_path / "run with spaces ü" / "classify" / "predictions.csv")
    assert "lost" not in set(predictions["subject"])
    page = (tmp_path / "run with spaces ü" / "report" / "report.html").read_text("utf-8")
    assert "Excluded subjects: 1." in page
    assert "could be used: lost" in page
    assert "inside the brain are NaN" in page
    capsys.readouterr()
    assert main([*words, "--dry-run"]) == 0  # settled failures are not tried again
    assert "run " not in capsys.readouterr().out.replace("nothing changed since it ran", "")
    (tmp_path / "nan.nii.gz").write_bytes((tmp_path / "good.nii.gz").read_bytes())
    assert main(words) == 3
    with (tmp_path / "run with spaces ü" / "failures.csv").open(encoding="utf-8") as stream:
        assert len(list(csv.DictReader(stream))) == len(BAD) - 1


def test_all_problems_of_a_manifest_are_told_at_once(
    picture_cohort: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = picture_cohort(tmp_path / "data")
    manifest = pd.read_csv(tmp_path / "data" / "cohort.csv")
    manifest.loc[0, "path"] = "gone.png"
    manifest.loc[3, "modality"] = "hihg"
    manifest.loc[5, "path"] = "../outside.png"
    (tmp_path / "outside.png").write_bytes(b"")
    manifest.to_csv(tmp_path / "data" / "cohort.csv", index=False)
    root = ["--cohort.data_root", str(tmp_path / "data")]
    assert main(["--config", str(config), "--workspace", str(tmp_path / "run"), "--quiet", *root]) == 2
    told = capsys.readouterr().err
    for word in ("row 2", "gone.png", "row 5", "did you mean 'high'", "row 7", "outside"):
        assert word in told
    assert not (tmp_path / "run" / "cohort" / "scans.csv").exists()


def test_a_modality_without_training_scans_is_left_out_and_said(
    picture_cohort: Callable[..., Path], tmp_path: Path
) -> None:
    config = picture_cohort(tmp_path / "data", second=0.0)
    manifest = pd.read_csv(tmp_path / "data" / "cohort.csv")
    random = np.random.default_rng(0)
    parts = ["train"] * 16 + ["validation"] * 4 + ["test"] * 4
    manifest["split"] = parts
    from PIL import Image

    path = tmp_path / "data" / "extra.png"
    Image.fromarray(random.integers(0, 255, (40, 40, 3)).astype(np.uint8)).save(path)
    extra = {"subject": "p23", "modality": "high", "path": path.name, "class": "sick", "split": "test"}
    pd.concat([manifest, pd.DataFrame([extra])]).to_csv(tmp_path / "data" / "cohort.csv", index=False)
    assert main(["--config", str(config), "--workspace", str(tmp_path / "run"), "--quiet"]) == 3
    with (tmp_path / "run" / "failures.csv").open() as stream:
        (row,) = [r for r in csv.DictReader(stream) if "repeat 1" in r["reason"]]
    assert row["scan"] == "p23_high"
    assert "trained on low" in row["reason"]
    predictions = pd.read_csv(tmp_path / "run" / "classify" / "predictions.csv")
    assert set(predictions.loc[predictions["subject"] == "p23", "scans_used"]) == {"p23_low"}


def test_a_read_only_input_tree_is_enough(picture_cohort: Callable[..., Path], tmp_path: Path) -> None:
    config = picture_cohort(tmp_path / "data", subjects=12)
    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "data").rglob("*"))
    os.chmod(tmp_path / "data", 0o555)
    try:
        assert main(["--config", str(config), "--workspace", str(tmp_path / "run"), "--quiet"]) == 0
    finally:
        os.chmod(tmp_path / "data", 0o755)
    assert sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "data").rglob("*")) == before

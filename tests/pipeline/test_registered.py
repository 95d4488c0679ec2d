"""The stage preprocess with `register_to`: one grid and one mask for both scans, and a way on without a partner."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.cli.main import main
from preprocessing import volumes

SHAPE, SPACING_MM = (48, 56, 48), 4.0


def head(contrast: float, shift_mm: NDArray[np.float64], noise: float) -> nibabel.Nifti1Image:
    """A lopsided ellipsoid with blobs on zero; the second scan sees it moved and with another contrast."""
    affine = np.diag([SPACING_MM] * 3 + [1.0])
    affine[:3, 3] = -SPACING_MM * (np.array(SHAPE) - 1) / 2
    x, y, z = (SPACING_MM * i + affine[a, 3] - shift_mm[a] for a, i in enumerate(np.indices(SHAPE)))
    inside = (x / 62) ** 2 + ((y + 0.15 * x) / 78) ** 2 + ((z - 0.1 * y) / 60) ** 2 < 1
    inside &= (z - 0.9 * y > -45) & (x + 0.5 * z < 45)  # no half turn fits
    places = np.random.default_rng(7)
    blobs = sum(
        places.choice((-0.8, 0.9))
        * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 2 / places.uniform(5, 12) ** 2)
        for a, b, c in places.uniform((-45, -60, -45), (45, 60, 45), (40, 3))
    )
    random = np.random.default_rng(0 if contrast > 0 else 1)
    value = 2 + contrast * blobs + noise * ndimage.gaussian_filter(random.standard_normal(SHAPE), 1)
    return nibabel.Nifti1Image(np.where(inside, value, 0).astype(np.float32), affine)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """p1 has both, p2 a damaged MRI, p3 a PET alone, p4 a PET of nobody's head."""
    folder = tmp_path_factory.mktemp("registered")
    still, moved = np.zeros(3), np.array([6.0, -9.0, 5.0])
    for subject in ("p1", "p4"):
        nibabel.save(head(0.9, still, 0.05), folder / f"{subject}_MRI.nii.gz")
    for subject in ("p1", "p2", "p3"):
        nibabel.save(head(-0.6, moved, 0.1), folder / f"{subject}_PET.nii.gz")
    noise = np.abs(np.random.default_rng(5).standard_normal(SHAPE)).astype(np.float32)
    noise[:, :, 14:] = 0  # most of the brain is out of its view
    elsewhere = head(0.9, still, 0).affine.copy()
    elsewhere[:3, 3] += 150
    nibabel.save(nibabel.Nifti1Image(noise, elsewhere), folder / "p4_PET.nii.gz")
    (folder / "p2_MRI.nii.gz").write_bytes(b"damaged")
    rows = [{"subject": p.name[:2], "modality": p.name[3:6], "path": p.name} for p in sorted(folder.glob("*.nii.gz"))]
    pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False)
    settings = {
        "name": "registered",
        "cohort": {
            "manifest": str(folder / "cohort.csv"), "label": None,
            "modalities": {m: {"kind": "volume", "skull_strip": False} for m in ("MRI", "PET")},
        },
        "preprocess": {"spacing_mm": SPACING_MM, "register_to": {"PET": "MRI"}},
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


def run(data: Path, *words: str) -> int:
    return main(
        ["--config", str(data / "run.yaml"), "--workspace", str(data / "run"), "--stages", "preprocess", *words]
    )


def record(data: Path, scan: str) -> dict:
    return json.loads((data / "run" / "preprocess" / scan / "record.json").read_text())


def times(data: Path) -> dict[str, int]:
    return {p.parent.name: p.stat().st_mtime_ns for p in (data / "run" / "preprocess").glob("*/record.json")}


def test_pairs_share_grid_and_mask_and_others_go_their_own_way(data: Path) -> None:
    assert run(data) == 3  # the damaged MRI
    place = data / "run" / "preprocess"
    mri, pet = (nibabel.load(place / f"p1_{m}" / "volume.nii.gz") for m in ("MRI", "PET"))
    np.testing.assert_array_equal(mri.affine, pet.affine)
    found = [np.asarray(nibabel.load(place / f"p1_{m}" / "mask.nii.gz").dataobj) > 0 for m in ("MRI", "PET")]
    np.testing.assert_array_equal(*found)
    first = record(data, "p1_PET")
    assert first["registered_to"] == "p1_MRI"
    assert first["rotation_degrees"] < 1
    assert first["translation_mm"] == pytest.approx(np.linalg.norm([6, 9, 5]), abs=1)
    np.testing.assert_allclose(np.array(first["to_own_world"])[:3, 3], [6, -9, 5], atol=1.5)
    deep = ndimage.binary_erosion(found[0], iterations=3)
    a, b = (image.get_fdata()[deep] for image in (mri, pet))
    assert np.corrcoef(a, b)[0, 1] < -0.9  # one is bright where the other is dark, voxel by voxel
    assert "could not be used" in record(data, "p2_PET")["not_registered"]
    assert "not_registered" not in record(data, "p3_PET")  # there is nothing that it could be registered to
    assert record(data, "p4_PET")["not_registered"]
    assert not (place / "p2_MRI" / "record.json").exists()
    notes = json.loads((place / "manifest.json").read_text())["notes"]
    assert sorted(note.split()[0] for note in notes) == ["p2_PET", "p4_PET"]


def test_a_new_partner_moves_only_the_pair(data: Path) -> None:
    run(data)
    before = times(data)
    nibabel.save(head(0.9, np.zeros(3), 0.05), data / "p2_MRI.nii.gz")
    assert run(data) == 0
    after = times(data)
    assert {scan for scan in after if after[scan] != before.get(scan)} == {"p2_MRI", "p2_PET"}
    assert record(data, "p2_PET")["registered_to"] == "p2_MRI"


def test_a_partner_that_failed_for_the_moment_is_waited_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ["--config", str(data / "run.yaml"), "--workspace", str(tmp_path), "--stages", "preprocess"]
    table = pd.read_csv(data / "cohort.csv")
    table[table["subject"] == "p1"].to_csv(data / "p1.csv", index=False)
    read = volumes.read_volume

    def busy(path: Path, **options: object) -> object:
        if path.name == "p1_MRI.nii.gz":
            raise OSError("the server does not answer")
        return read(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stages.preprocess.read_volume", busy)
        assert main([*place, "--cohort", str(data / "p1.csv")]) == 3
    assert main([*place, "--cohort", str(data / "p1.csv")]) == 0
    told = json.loads((tmp_path / "preprocess" / "p1_PET" / "record.json").read_text())
    assert told["registered_to"] == "p1_MRI"


def test_without_registration_only_the_registered_change(data: Path) -> None:
    run(data)
    before = times(data)
    assert run(data, "--preprocess.register_to", "null") == 0
    after = times(data)
    assert {scan for scan in after if after[scan] != before[scan]} == {"p1_PET", "p2_PET", "p4_PET"}


def test_by_headers_the_mask_is_taken_over_and_nothing_moves(data: Path) -> None:
    run(data)
    before = times(data)
    assert run(data, "--preprocess.registration", "headers") == 0
    after, told = times(data), record(data, "p1_PET")
    assert {scan for scan in after if after[scan] != before[scan]} == {"p1_PET", "p2_PET", "p4_PET"}
    assert "does not lie on the MRI" in told["not_registered"]  # it is moved by 12 mm
    nibabel.save(head(-0.6, np.zeros(3), 0.1), data / "p1_PET.nii.gz")
    assert run(data, "--preprocess.registration", "headers") == 0
    told = record(data, "p1_PET")
    assert (told["registered_to"], told["registered_by"]) == ("p1_MRI", "headers")
    assert (told["rotation_degrees"], told["translation_mm"]) == (0, 0)
    np.testing.assert_array_equal(told["to_own_world"], np.eye(4))


def test_headers_without_pairs_are_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, "--preprocess.register_to", "null", "--preprocess.registration", "headers") == 2
    assert "register_to names no modality" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("{PET: CT}", "'CT' is no modality of volumes (there is: MRI, PET)"),
        ("{FDG: MRI}", "'FDG' is no modality of volumes"),
        ("{PET: MRI, MRI: PET}", "which is to be registered itself"),
    ],
)
def test_what_cannot_be_registered_is_said(
    data: Path, wanted: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, "--preprocess.register_to", wanted, "--dry-run") == 2
    assert message in capsys.readouterr().err

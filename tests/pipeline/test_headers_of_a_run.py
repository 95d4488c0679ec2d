"""Headers that contradict themselves in a run: `cohort.modalities.PET.trust`, and remarks that reach the person."""

import csv
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from helpers.small_study import SmallStudy, two_patients

from pipeline.cli.main import main
from pipeline.deployment.bundle import Bundle
from pipeline.deployment.bundle_settings import settings_of_model
from pipeline.settings import load_settings

pytestmark = pytest.mark.usefixtures("one_thread")
TRUST = ("--cohort.modalities.PET.trust", "qform")


def save(path: Path, voxels: np.ndarray, *, stale: bool = False) -> None:
    """Write a scan of 6 mm; a stale one has a sform of 1 mm."""
    image = nibabel.Nifti1Image(voxels, np.diag([6.0, 6, 6, 1]))
    image.set_qform(image.affine, 1)
    if stale:
        image.header.set_sform(np.eye(4), 1)
        image._affine = np.eye(4)
    image.to_filename(path)
    header = nibabel.load(path).header
    assert (header.get_sform()[0, 0], header.get_qform()[0, 0]) == (1 if stale else 6, 6)


@pytest.fixture
def study(tmp_path: Path, head: Callable[..., np.ndarray]) -> SmallStudy:
    """The sform of each PET is stale."""

    def save_scan(path: Path, patient: int, modality: str) -> None:
        save(path, head(seed=patient), stale=modality == "PET")

    return two_patients(tmp_path, save_scan, spacing_mm=6.0)


def test_headers_that_contradict_themselves_fail_until_one_affine_is_trusted(study: SmallStudy) -> None:
    assert study.run() == 3
    with (study.folder / "run" / "failures.csv").open(encoding="utf-8", newline="") as stream:
        failed = {row["scan"]: row["reason"] for row in csv.DictReader(stream)}
    assert set(failed) == {"p1_PET", "p2_PET"}
    assert "voxel size twice and differently: 1x1x1 mm by the sform, 6x6x6 mm by pixdim" in failed["p1_PET"]
    before = study.records()
    assert set(before) == {"p1_MRI", "p2_MRI"}
    assert before["p1_MRI"]["space_from"] == "sform and qform agree; no unit, taken for mm"
    assert study.run(*TRUST) == 0
    after = study.records()
    assert {scan: after[scan]["written"] for scan in before} == {scan: before[scan]["written"] for scan in before}
    assert (after["p1_PET"]["space_from"], after["p1_PET"]["voxel_mm"]) == ("trust: qform", [6.0, 6.0, 6.0])
    assert after["p1_PET"]["brain_ml"] == after["p1_MRI"]["brain_ml"]
    scans = pd.read_csv(study.folder / "run" / "cohort" / "scans.csv", keep_default_na=False)
    assert dict(zip(scans["modality"], scans["trust"], strict=True)) == {"MRI": "", "PET": "qform"}
    assert study.run("--cohort.modalities.PET.trust", "sform") == 3
    assert "the whole frame has 17.5 ml" in (study.folder / "run" / "failures.csv").read_text()


def test_what_cannot_be_trusted_is_said(study: SmallStudy, capsys: pytest.CaptureFixture[str]) -> None:
    assert study.run("--cohort.modalities.drawing.trust", "qform", "--dry-run") == 2
    assert "trust: qform is for volumes; a picture has no affine" in capsys.readouterr().err
    assert study.run("--cohort.modalities.PET.trust", "both", "--dry-run") == 2
    assert "cohort.modalities.PET.trust" in capsys.readouterr().err


def test_remarks_are_summed_up_at_the_end_of_the_run(study: SmallStudy, head: Callable[..., np.ndarray]) -> None:
    """A line for each kind, with the first scans; their records say more."""
    voxels = head(seed=0)
    voxels[12, 14, 13] = 1e4
    save(study.folder / "p1_MRI.nii.gz", voxels)
    rows = pd.read_csv(study.folder / "cohort.csv")
    for number in range(3, 10):
        save(study.folder / f"p{number}.nii.gz", np.where(head(seed=number) == 0, np.nan, head(seed=number)))
        rows.loc[len(rows)] = [f"p{number}", "MRI", f"p{number}.nii.gz"]
    rows.to_csv(study.folder / "cohort.csv", index=False)
    assert study.run(*TRUST) == 0
    notes = study.notes()
    assert len(notes) == 2
    assert notes[0].startswith("few voxels decide the range: 1 of 11 scans (p1_MRI); remarks in their record.json say")
    assert notes[1].startswith("NaN voxels: 7 of 11 scans (p3_MRI, p4_MRI, p5_MRI, p6_MRI, p7_MRI, …); remarks in")
    assert "brightest 0.01 % of the brain take 99%" in study.records()["p1_MRI"]["remarks"][0]
    assert study.records()["p2_MRI"]["remarks"] == []


def test_the_limits_of_a_brain_are_settings_that_redo_nothing(
    study: SmallStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study.run(*TRUST) == 0
    before = study.records()
    assert study.run(*TRUST, "--preprocess.brain_ml", "[1000, 3000]") == 0
    assert study.records() == before
    assert study.run(*TRUST, "--preprocess.brain_ml", "[1000, 3000]", "--force", "preprocess") == 3
    failed = (study.folder / "run" / "failures.csv").read_text()
    assert failed.count("taken for the brain has 894 ml; at least 1,000 ml expected") == 4
    for value in ("[4000, 150]", "[-1, 5]", "[1, .nan]"):
        assert study.run("--preprocess.brain_ml", value, "--dry-run") == 2
        assert "preprocess.brain_ml" in capsys.readouterr().err


def test_a_model_carries_the_affine_to_trust(
    study: SmallStudy, small_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(study.folder / "cohort.csv")
    table.assign(modality=table["modality"].map({"MRI": "t1", "PET": "pet"})).to_csv(study.folder / "new.csv")
    plain = {"kind": "volume", "skull_strip": False}
    kinds = {"pet": plain | {"normalise": "minmax", "trust": "qform"}, "t1": plain}  # t1 as models said it before
    model = small_model(study.folder / "model", kinds=kinds, weights={"preprocess": None, "features": "random"})
    assert Bundle.read(model).kinds == kinds
    settings = load_settings(settings_of_model(model), {})
    assert {name: each.trust for name, each in settings.cohort.modalities.items()} == {"pet": "qform", "t1": None}
    words = ["--model", str(model), "--cohort", str(study.folder / "new.csv"), "--workspace", str(study.folder / "n")]
    for name, other in (("pet", "sform"), ("t1", "qform")):
        assert main([*words, f"--cohort.modalities.{name}.trust", other]) == 2
        said = capsys.readouterr().err
        assert f"the model small was trained with {name} as" in said
        assert f"'trust': '{other}', " in said
    main([*words, "--dry-run"])
    assert "was trained with pet as" not in capsys.readouterr().err

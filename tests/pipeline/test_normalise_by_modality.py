"""`cohort.modalities.PET.normalise`: what it reaches, what it redoes, and what is refused."""

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
from preprocessing.normalise import NORMALISATIONS, rescale

pytestmark = pytest.mark.usefixtures("one_thread")
VOXEL_MM = 6.0
ROBUST = ("--cohort.modalities.PET.normalise", "minmax_robust")


def volume_of(study: SmallStudy, scan: str) -> np.ndarray:
    return nibabel.load(study.folder / "run" / "preprocess" / scan / "volume.nii.gz").get_fdata(dtype=np.float32)


@pytest.fixture
def study(tmp_path: Path, head: Callable[..., np.ndarray], save_nifti: Callable[..., Path]) -> SmallStudy:
    def save_scan(path: Path, patient: int, modality: str) -> None:
        save_nifti(path, head(seed=patient), VOXEL_MM)

    return two_patients(tmp_path, save_scan, spacing_mm=VOXEL_MM)


@pytest.mark.parametrize("registered", [(), ("--preprocess.register_to", "{PET: MRI}")], ids=["alone", "registered"])
def test_another_normalisation_of_pet_redoes_pet_alone(study: SmallStudy, registered: tuple[str, ...]) -> None:
    assert study.run(*registered) == 0
    before, volumes = study.records(), {scan: volume_of(study, scan) for scan in study.records()}
    assert {record["normalise"] for record in before.values()} == {"minmax"}
    assert study.run(*registered, *ROBUST) == 0
    after = study.records()
    assert {scan for scan in after if after[scan]["written"] != before[scan]["written"]} == {"p1_PET", "p2_PET"}
    assert {scan: record["normalise"] for scan, record in after.items()} == {
        "p1_MRI": "minmax", "p1_PET": "minmax_robust", "p2_MRI": "minmax", "p2_PET": "minmax_robust",
    }  # fmt: skip
    assert ("registered_to" in after["p1_PET"]) == bool(registered)
    assert not np.array_equal(volume_of(study, "p1_PET"), volumes["p1_PET"])
    scans = pd.read_csv(study.folder / "run" / "cohort" / "scans.csv")
    assert dict(zip(scans["modality"], scans["normalise"], strict=True)) == {"MRI": "minmax", "PET": "minmax_robust"}
    assert study.run(*registered) == 0
    for scan, volume in volumes.items():
        np.testing.assert_array_equal(volume_of(study, scan), volume)


@pytest.mark.parametrize("registered", [(), ("--preprocess.register_to", "{PET: MRI}")], ids=["alone", "registered"])
def test_a_new_name_reaches_the_volume(
    study: SmallStudy, registered: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe of docs/extend.md."""
    assert study.run(*registered) == 0
    before = {scan: volume_of(study, scan) for scan in study.records()}
    monkeypatch.setitem(NORMALISATIONS, "half", lambda volume, mask: rescale(volume, mask) / 2)
    assert study.run(*registered, "--cohort.modalities.PET.normalise", "half") == 0
    for scan, volume in before.items():
        np.testing.assert_allclose(volume_of(study, scan), volume / (2 if "PET" in scan else 1), atol=1e-6)
    assert study.records()["p1_PET"]["normalise"] == "half"


@pytest.mark.parametrize(
    ("modality", "name", "message"),
    [
        ("PET", "minmax_rbust", "cohort.modalities.PET.normalise: 'minmax_rbust' is unknown (did you mean 'minmax_rob"),
        ("MRI", "zscore", "cohort.modalities.MRI.normalise: 'zscore' is unknown (there is: minmax, minmax_robust)"),
        ("drawing", "minmax_robust", "normalise: minmax_robust is for volumes; a picture is kept as it is"),
    ],
)
def test_what_cannot_be_chosen_is_said(
    study: SmallStudy, modality: str, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study.run(f"--cohort.modalities.{modality}.normalise", name, "--dry-run") == 2
    assert message in capsys.readouterr().err


def test_the_settings_of_a_run_can_be_given_again(study: SmallStudy) -> None:
    assert study.run(*ROBUST) == 0
    again = load_settings(study.folder / "run" / "settings.yaml", {})
    assert {name: each.normalise for name, each in again.cohort.modalities.items()} == {
        "MRI": "minmax", "PET": "minmax_robust", "drawing": "minmax",
    }  # fmt: skip


def test_a_model_refuses_scans_that_were_normalised_otherwise(
    study: SmallStudy, small_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(study.folder / "cohort.csv")
    table.assign(modality=table["modality"].map({"MRI": "t1", "PET": "pet"})).to_csv(study.folder / "new.csv")
    plain = {"kind": "volume", "skull_strip": False}
    kinds = {
        "pet": plain | {"normalise": "minmax_robust"},
        "t1": plain,
    }  # t1 as models said it before there was a choice
    model = small_model(study.folder / "model", kinds=kinds, weights={"preprocess": None, "features": "random"})
    assert Bundle.read(model).kinds == kinds
    settings = load_settings(settings_of_model(model), {})
    assert {name: each.normalise for name, each in settings.cohort.modalities.items()} == {
        "pet": "minmax_robust", "t1": "minmax",
    }  # fmt: skip
    words = ["--model", str(model), "--cohort", str(study.folder / "new.csv"), "--workspace", str(study.folder / "n")]
    for name, other in (("pet", "minmax"), ("t1", "minmax_robust")):
        assert main([*words, f"--cohort.modalities.{name}.normalise", other]) == 2
        said = capsys.readouterr().err
        assert f"the model small was trained with {name} as" in said
        assert f"'normalise': '{other}', " in said
    assert not (study.folder / "n").exists()
    main([*words, "--dry-run"])
    assert "was trained with pet as" not in capsys.readouterr().err

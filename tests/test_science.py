"""The point of it all, on patients whose truth is known: both modalities together beat either alone."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml

from demo.phantoms import PhantomsConfig, make_scan, phantom
from evaluation.intervals import paired_difference
from pipeline.cli.main import main
from pipeline.store.fitted import ClassifierSet
from pipeline.training.scores import as_scored

pytestmark = pytest.mark.timeout(2400)  # 192 scans through VGG16, on two slow cores
SUBJECTS = 96
VOXEL_MM = 3.0
GAIN_IN_AUC = 0.05  # at least, of both modalities over either one


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More phantoms than in the demo, in coarser voxels, stripped by their true masks, all with both scans.

    Each sign is shown by 60 % of the AD phantoms, so that neither modality alone can do well.
    """
    folder = tmp_path_factory.mktemp("science")
    config = PhantomsConfig(
        subjects=SUBJECTS, penetrance=0.6, pet_share=1, mri_voxel_mm=VOXEL_MM, pet_voxel_mm=VOXEL_MM
    )

    def write(number: int) -> list[dict[str, str]]:
        rows, subject = [], phantom(number, config)
        for modality in ("MRI", "PET"):
            volume, mask, affine = make_scan(subject, modality, config)
            name = f"{subject.subject}_{modality}.nii.gz"
            stripped = np.where(mask > 0, volume, volume.min() - 1).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(stripped, affine), folder / name)
            rows.append(
                {"subject": subject.subject, "modality": modality, "path": name, "diagnosis": subject.diagnosis}
            )
        return rows

    with ThreadPoolExecutor(2) as pool:
        rows = [row for rows in pool.map(write, range(1, SUBJECTS + 1)) for row in rows]
    pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False)
    stripped_already = {"kind": "volume", "skull_strip": False}
    settings = {
        "name": "science",
        "split": {"repeats": 5},
        "cohort": {"positive": "AD", "modalities": {"MRI": stripped_already, "PET": stripped_already}},
        "preprocess": {"spacing_mm": VOXEL_MM},
        "features": {"backbone": "vgg16", "slice_spacing_mm": 15},
        "pretrain": {"epochs": 10},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    words = ["--config", str(folder / "config.yaml"), "--cohort", str(folder / "cohort.csv"), "--quiet"]
    assert main([*words, "--workspace", str(folder / "run"), "--stages", "classify"]) == 0
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("alone", ["MRI", "PET"])
def test_both_modalities_beat_either_alone(run: Path, alone: str) -> None:
    """The difference in AUC on the same test subjects, with its 95 % interval."""
    classes = tuple(json.loads((run / "cohort" / "classes.json").read_text()))
    frame = as_scored(pd.read_csv(run / "classify" / "subset_predictions.csv", dtype={"subject": str}), classes)
    both, one = (frame[frame["modalities"] == name].reset_index(drop=True) for name in ("MRI+PET", alone))
    gain = paired_difference(both, one, "auc")

    assert gain["difference"] > GAIN_IN_AUC
    assert gain["low"] > 0


@pytest.mark.slow
def test_both_modalities_tell_the_classes_apart(run: Path) -> None:
    auc = ClassifierSet(run / "classify").metrics()["threshold_half"]["auc"]

    assert auc["low"] > 0.7

"""Preprocessed scans get the names that BIDS asks for."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.bids_dataset import dataset, left_out

from intake.bids.derivatives import bids_derivatives, dataset_description

# The rules anat_nonparametric_volumetric and anat_nonparametric_mask of the BIDS schema, with the entities used here.
ANAT = re.compile(
    r"sub-([A-Za-z0-9]+)/(?:ses-([A-Za-z0-9]+)/)?anat/sub-\1(?(2)_ses-\2)(_run-\d+)?"
    r"((_desc-[A-Za-z0-9]+)?_(T1w|T2w|FLAIR)|(_space-[A-Za-z0-9]+)?(_desc-[A-Za-z0-9]+)?_mask)\.(nii\.gz|json)"
)


def table(*rows: tuple[str, str, str]) -> pd.DataFrame:
    scans = pd.DataFrame(rows, columns=["subject", "session", "modality"])
    return scans.assign(scan=[f"scan{number}" for number in range(len(rows))])


def derived(scans: pd.DataFrame, **arguments: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """Target → scan, and what the JSON files hold."""
    made = bids_derivatives(
        scans,
        **{
            "volumes": {scan: Path(scan) for scan in scans["scan"]},
            "masks": {scan: Path(scan) for scan in scans["scan"]},
            "spacing_mm": 1.5,
            "version": "0.1.0",
        }
        | arguments,
    )
    texts = {path: json.loads(text) for path, text in made.texts.items() if path.endswith(".json")}
    return {path: str(source) for path, source in made.copies.items()}, texts


def test_names_of_volumes_masks_and_sidecars() -> None:
    copies, texts = derived(table(("sub-01", "", "T1w"), ("p02", "m12", "FDG-PET"), ("p02", "m12", "PET")))
    assert copies == {
        "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz": "scan0",
        "sub-01/anat/sub-01_desc-brain_mask.nii.gz": "scan0",
        "sub-p02/ses-m12/pet/sub-p02_ses-m12_trc-FDG_desc-preproc_pet.nii.gz": "scan1",
        "sub-p02/ses-m12/pet/sub-p02_ses-m12_trc-FDG_desc-brain_mask.nii.gz": "scan1",
        "sub-p02/ses-m12/pet/sub-p02_ses-m12_desc-preproc_pet.nii.gz": "scan2",
        "sub-p02/ses-m12/pet/sub-p02_ses-m12_desc-brain_mask.nii.gz": "scan2",
    }
    assert {path.replace(".json", ".nii.gz") for path in texts} - {"dataset_description.nii.gz"} == set(copies)
    volume = texts["sub-01/anat/sub-01_desc-preproc_T1w.json"]
    assert (volume["SkullStripped"], volume["SpatialReference"]) == (True, "orig")
    assert "1.5 mm" in volume["Description"]
    assert texts["sub-01/anat/sub-01_desc-brain_mask.json"]["Type"] == "Brain"
    assert texts["sub-01/anat/sub-01_desc-brain_mask.json"]["Sources"] == [
        "bids::sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"
    ]


def test_names_are_those_of_the_schema_and_each_is_there_once() -> None:
    rows = [
        (subject, session, modality)
        for subject in ("sub-01", "Müller", "Mller", "p 1", "p_1", "P1", "漢")
        for session in ("", "ses-1", "m 12")
        for modality in ("T1w", "T1w", "T2w", "FLAIR")
    ]
    copies, texts = derived(table(*rows))
    assert len(copies) == 2 * len(rows)
    assert len({path.lower() for path in copies}) == len(copies)
    assert [path for path in [*copies, *texts] if not ANAT.fullmatch(path) and path != "dataset_description.json"] == []
    assert texts["sub-01/anat/sub-01_space-T2w_desc-brain_mask.json"]["SpatialReference"] == (
        "bids::sub-01/anat/sub-01_desc-preproc_T2w.nii.gz"
    )
    assert "sub-01/ses-1/anat/sub-01_ses-1_run-2_desc-preproc_T1w.nii.gz" in copies


def test_names_do_not_depend_on_the_order_of_subjects() -> None:
    scans = table(("b", "", "T1w"), ("a", "", "T1w"), ("a", "", "PET"))
    assert derived(scans)[0] == derived(scans[::-1])[0]


def test_scans_that_failed_and_volumes_without_a_mask() -> None:
    scans = table(("1", "", "T1w"), ("2", "", "T1w")).assign(skull_strip=["False", "True"])
    copies, texts = derived(scans, volumes={"scan0": Path("v")}, masks={})
    assert list(copies) == ["sub-1/anat/sub-1_desc-preproc_T1w.nii.gz"]
    assert texts["sub-1/anat/sub-1_desc-preproc_T1w.json"]["SkullStripped"] is False


def test_a_sidecar_says_how_intensities_were_normalised() -> None:
    scans = table(("1", "", "T1w"), ("1", "", "PET")).assign(normalise=["minmax", "minmax_robust"])
    _, texts = derived(scans)
    assert "standardised and scaled to [0, 1]" in texts["sub-1/anat/sub-1_desc-preproc_T1w.json"]["Description"]
    (pet,) = (text["Description"] for name, text in texts.items() if name.endswith("preproc_pet.json"))
    assert "scaled to [0, 1] by minmax_robust" in pet


def test_the_description_of_the_data_set() -> None:
    made = bids_derivatives(
        table(("1", "", "MRI")),
        volumes={"scan0": Path("v")},
        masks={},
        spacing_mm=1,
        version="9.9",
        kinds={"MRI": "T1w"},
    )
    description = json.loads(made.texts["dataset_description.json"])
    assert description == dataset_description("9.9")
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Version"] == "9.9"
    assert set(made.texts) == {"dataset_description.json", "README", "sub-1/anat/sub-1_desc-preproc_T1w.json"}


def test_pet_which_bids_has_no_rules_for_is_ignored_by_validators() -> None:
    made = bids_derivatives(table(("1", "", "PET")), volumes={"scan0": Path("v")}, masks={}, spacing_mm=1, version="1")
    assert made.texts[".bidsignore"] == "pet/\n"


def test_what_has_no_name_in_bids() -> None:
    with pytest.raises(ValueError, match=r"modality 'MRI' has no name in BIDS; say which of T1w, T2w, FLAIR, PET"):
        derived(table(("1", "", "MRI")))
    with pytest.raises(ValueError, match="not one preprocessed volume"):
        derived(table(("1", "", "T1w")), volumes={})


def test_what_is_derived_can_be_read_again_but_for_its_desc(tmp_path: Path) -> None:
    copies, _ = derived(table(("sub-01", "ses-1", "T1w"), ("sub-01", "ses-1", "FDG-PET")))
    root = dataset(tmp_path / "d", *copies)
    volumes = {path: reason for path, reason in left_out(root).items() if "_mask" not in path and "/" in path}
    assert volumes == {path: "processed already (desc)" for path in copies if "_mask" not in path}

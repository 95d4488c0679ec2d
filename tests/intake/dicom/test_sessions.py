"""Patients become pseudonyms, their dates sessions; the table of patients brings the diagnosis."""

from pathlib import Path

import pandas as pd
import pytest
from helpers.dicom_series import KEY, converted, reasons, write_series

from intake.dicom.convert import import_dicom
from intake.dicom.rules import DicomConfig
from intake.pseudonyms import pseudonym


def test_two_patients_of_one_name_stay_two(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a", patient="7001")
    write_series(tmp_path / "in" / "b", patient=" 7002 ")
    result = converted(tmp_path / "in")
    assert set(result.scans["subject"]) == {pseudonym("7001", KEY), pseudonym("7002", KEY)}
    other = import_dicom(tmp_path / "in", tmp_path / "other", key=KEY[::-1])
    assert not set(other.scans["subject"]) & set(result.scans["subject"])


def test_two_patients_of_one_id_are_found_by_their_birth_dates(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a")
    write_series(tmp_path / "in" / "b", PatientBirthDate="19670101")
    write_series(tmp_path / "in" / "c", patient="B", PatientBirthDate="")
    result = converted(tmp_path / "in")
    assert list(result.scans["subject"]) == [pseudonym("B", KEY)]
    assert len(reasons(result)) == 2
    assert "two birth dates" in reasons(result)[0]


def test_sessions_follow_the_dates_and_may_span_days(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_series(folder / "later", StudyDate="20220510", StudyInstanceUID="1.1")
    write_series(folder / "first", StudyDate="20210304", StudyInstanceUID="1.9")
    write_series(folder / "pet", StudyDate="20210320", StudyInstanceUID="1.5", modality="PT")
    write_series(folder / "ct", StudyDate="20200101", StudyInstanceUID="1.0", modality="CT")
    result = converted(folder)
    chosen = result.scans[["session", "modality", "age"]].values.tolist()
    assert chosen == [["ses-01", "T1w", "80"], ["ses-02", "FDG-PET", "80"], ["ses-03", "T1w", "81"]]
    assert len(result.notes) == 1
    assert result.notes[0].startswith("3 of 3 sessions have one modality only; if the scans of a visit were taken on")
    assert result.notes[0].endswith("raise --session-days")
    joined = converted(folder, config=DicomConfig(session_days=30, names={"T1w": "MRI", "FDG-PET": "PET"}))
    chosen = joined.scans[["session", "modality"]].values.tolist()
    assert chosen == [["ses-01", "MRI"], ["ses-01", "PET"], ["ses-02", "MRI"]]
    assert joined.scans["path"][0] == "{0}/ses-01/{0}_ses-01_MRI.nii.gz".format(pseudonym("PLANTID-77", KEY))


def test_the_table_of_patients_brings_the_diagnosis(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a", patient="001")
    write_series(tmp_path / "in" / "b", patient="002")
    table = pd.DataFrame(
        {"patient_id": ["001", "", "003"], "diagnosis": ["AD", "", "CN"], "age": ["66", "", ""], "name": ["X", "", "Y"]}
    )
    result = converted(tmp_path / "in", patients=table, keep=("diagnosis", "age"))
    row = result.scans.iloc[0].to_dict()
    assert (row["subject"], row["diagnosis"], row["age"], row["sex"]) == (pseudonym("001", KEY), "AD", "66", "F")
    assert "name" not in row
    assert reasons(result) == ["the patient is not in the table of patients"]
    assert result.notes == ("1 of 2 patients in the table have no scan that can be used",)


@pytest.mark.parametrize(
    ("ids", "keep", "message"),
    [
        (["1", "2", "1"], ("diagnosis",), "has a patient twice: row 4"),
        (["1", "2", "3"], ("label",), r"lacks 'label'; it has \['patient_id', 'diagnosis'\]"),
        (["1", "2", "3"], ("patient_id",), "cannot give patient_id"),
    ],
)
def test_a_table_of_patients_that_cannot_be_used(
    tmp_path: Path, ids: list[str], keep: tuple[str], message: str
) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match=message):
        converted(tmp_path / "in", patients=pd.DataFrame({"patient_id": ids, "diagnosis": "AD"}), keep=keep)

"""Ids that name nobody, ids that two people share, and the table of patients as people and spreadsheets write it."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.dicom_series import KEY, converted, reasons, write_series

from intake.dicom.words import nobody
from intake.pseudonyms import pseudonym


@pytest.mark.parametrize(
    "patient", ["ANONYMOUS", "anonymized", "NA", "n/a", "None", "UNKNOWN", "nan", "Anonymous^", "---"]
)
def test_words_that_are_no_id(tmp_path: Path, patient: str) -> None:
    write_series(tmp_path / "in", patient=patient)
    result = converted(tmp_path / "in")
    assert result.scans.empty
    (reason,) = reasons(result)
    assert reason.startswith(f"PatientID is {nobody(patient)}, which names nobody")
    assert reason.endswith("Give every patient an id of their own in the export")
    assert list(result.left_out["subject"]) == [""]


def three(folder: Path, patient: str, ages: list[str], **values: Any) -> None:
    for number, age in enumerate(ages, start=1):
        date = f"2021030{number}" if values.get("dated", True) else ""
        write_series(
            folder / str(number), patient=patient, PatientAge=age, PatientBirthDate=values.get("born", ""),
            PatientSex=values.get("sexes", "FFF")[number - 1], StudyDate=date, SeriesDate=date, AcquisitionDate=date,
        )  # fmt: skip


@pytest.mark.parametrize("patient", ["ANONYMOUS", "STUDY-7"])
def test_three_people_of_three_ages_are_not_one(tmp_path: Path, patient: str) -> None:
    three(tmp_path / "in", patient, ["070Y", "045Y", "081Y"])
    result = converted(tmp_path / "in")
    assert result.scans.empty
    assert len(reasons(result)) == 3
    assert all("ages" in reason for reason in reasons(result))


@pytest.mark.parametrize(
    ("ages", "values", "reason"),
    [
        (["070Y", "072Y", "070Y"], {}, "its ages contradict (70 and 72 years)"),
        (["070Y", "045Y", "081Y"], {"dated": False}, "its ages contradict (45 and 70 and 81 years)"),
        (["070Y", "070Y", "070Y"], {"sexes": "FMF"}, "its sexes contradict"),
        (["092Y", "045Y", "092Y"], {"sexes": "MFM"}, "its sexes and ages contradict (45 and 90 years)"),
        (["", "045Y", "081Y"], {"born": "19410213"}, "its ages contradict (45 and 80 and 81 years)"),
    ],
)
def test_facts_of_two_people_under_one_id(tmp_path: Path, ages: list[str], values: dict[str, Any], reason: str) -> None:
    three(tmp_path / "in", "7", ages, **values)
    assert set(reasons(converted(tmp_path / "in"))) == {
        f"one PatientID with two birth dates, sexes or ages: {reason}; two patients may share it. Import them from "
        "separate folders"
    }


@pytest.mark.parametrize(
    ("ages", "dates"),
    [
        (["070Y", "071Y"], ["20210304", "20210305"]),  # a birthday between them
        (["070Y", "080Y"], ["20110304", "20210305"]),
        (["089Y", "095Y"], ["20150304", "20210305"]),  # 90 stands for all above
        (["070Y", ""], ["20110304", "20210305"]),
    ],
)
def test_ages_of_one_person(tmp_path: Path, ages: list[str], dates: list[str]) -> None:
    for age, date in zip(ages, dates, strict=True):
        write_series(tmp_path / "in" / date, PatientAge=age, StudyDate=date, PatientBirthDate="")
    assert len(converted(tmp_path / "in").scans) == 2


def test_an_age_that_contradicts_the_birth_date_is_left_empty(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a", PatientAge="045Y")  # born in 1941, studied in 2021
    write_series(tmp_path / "in" / "b", patient="B", PatientAge="080Y")
    write_series(tmp_path / "in" / "c", patient="C", PatientAge="000Y", PatientBirthDate="")
    scans = converted(tmp_path / "in").scans.set_index("subject")
    assert scans.loc[pseudonym("PLANTID-77", KEY), ["age", "remarks"]].tolist() == [
        "", "no age: PatientAge and PatientBirthDate contradict each other",
    ]  # fmt: skip
    assert scans.loc[pseudonym("B", KEY), ["age", "remarks"]].tolist() == ["80", ""]
    assert scans.loc[pseudonym("C", KEY), ["age", "remarks"]].tolist() == ["", ""]


@pytest.mark.parametrize(("one", "other"), [("AB12", "ab12"), ("P-001", "P1"), ("7001", "07001"), ("A B", "AB")])
def test_ids_that_are_nearly_alike_are_noted_without_being_shown(tmp_path: Path, one: str, other: str) -> None:
    for patient in (one, other):
        write_series(tmp_path / "in" / patient, patient=patient)
    result = converted(tmp_path / "in")
    assert len(result.scans) == 2
    (note,) = [note for note in result.notes if "PatientIDs" in note]
    both = " and ".join(sorted(pseudonym(patient, KEY) for patient in (one, other)))
    assert note.startswith(f"{both} have PatientIDs that differ in case, spaces, dashes or zeros only")


# --- the table of patients ---


def table(ids: list[str], **columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"patient_id": ids, "diagnosis": ["AD"] * len(ids)} | columns, dtype=str)


@pytest.mark.parametrize(
    ("in_dicom", "in_table"),
    [("00123", "123"), ("123", "123.0"), ("AB12", "ab12"), ("AB-12", "AB 12"), ("\uff11\uff12\uff13", "123")],
)
def test_near_matches_are_offered(tmp_path: Path, in_dicom: str, in_table: str) -> None:
    write_series(tmp_path / "in" / "a", patient=in_dicom, SpecificCharacterSet="ISO_IR 192")
    write_series(tmp_path / "in" / "b", patient="9999")
    result = converted(tmp_path / "in", patients=table(["9999", in_table]), keep=("diagnosis",))
    assert reasons(result) == [
        "the patient is not in the table of patients; row 3 has the id in another form (zeros, case, spaces, .0): "
        "write it as in DICOM"
    ]


@pytest.mark.parametrize("word", ["NA", "n/a", "NaN", "#N/A", "null", "unknown", "."])
def test_words_for_missing_are_no_diagnosis(tmp_path: Path, word: str) -> None:
    for patient in ("1", "2"):
        write_series(tmp_path / "in" / patient, patient=patient)
    frame = table(["1", "2"], diagnosis=["AD", word])
    result = converted(tmp_path / "in", patients=frame, keep=("diagnosis",))
    assert sorted(result.scans["diagnosis"]) == ["", "AD"]
    assert result.notes[0] == f"diagnosis: {word!r} stands for no value and is left empty, row 3 of the table"

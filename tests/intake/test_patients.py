"""The table of patients beside a DICOM export: what does not match is counted, never guessed, and no id is told."""

import pandas as pd
import pytest

from intake.patients import patient_notes, patients_by_subject
from intake.pseudonyms import pseudonym

KEY = bytes(range(32))


def patients(*ids: str, diagnosis: str = "AD") -> pd.DataFrame:
    return pd.DataFrame({"patient_id": list(ids), "diagnosis": diagnosis}, dtype=str)


def test_what_is_kept_stands_under_pseudonyms_without_words_for_no_value() -> None:
    table = patients(" 007 ", "8").assign(diagnosis=["none", "NA"])
    known = patients_by_subject(table, ["diagnosis"], KEY)
    assert known["diagnosis"].to_dict() == {pseudonym("007", KEY): "", pseudonym("8", KEY): ""}
    assert patient_notes(table, ["diagnosis"], ["007"]) == [
        "diagnosis: 'NA', 'none' stands for no value and is left empty, rows 2, 3 of the table"
    ]
    assert set(patients_by_subject(table, ["diagnosis"], KEY, ("none",))["diagnosis"]) == {"none", ""}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (("7", "007"), "differ only in zeros in front: rows 2, 3; is it one patient"),
        (("H-4711", "h 4711"), "differ only in case or spaces, dashes or underscores: rows 2, 3"),
        (("7", "nan"), "has 1 ids that are none: row 3: the id stands for no value"),
        (("7", ""), "has 1 ids that are none: row 3: the id is empty"),
        (("7", "1.23E+05", "#REF!"), "has 2 ids that are none: row 3: the id is a number .* row 4: the id stands for"),
        (("7", "H12", "7"), "has a patient twice: row 4"),
    ],
)
def test_ids_that_cannot_be_trusted(ids: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        patients_by_subject(patients(*ids), ["diagnosis"], KEY)
    assert not any(name in str(caught.value) for name in ids if len(name) > 1)


@pytest.mark.parametrize(
    ("exported", "what"),
    [
        ("0012345", "zeros in front"),
        ("ab12345", "case or spaces"),
        ("12345.0", "a trailing .0"),
        ("12 345-A", "case or spaces, dashes or underscores"),
    ],
)
def test_a_table_that_matches_nobody_is_refused_with_what_is_near(exported: str, what: str) -> None:
    written = {"0012345": "12345", "ab12345": "AB12345", "12345.0": "12345", "12 345-A": "12-345a"}[exported]
    with pytest.raises(ValueError, match="not one of the 2 patients of the table is among the 1") as caught:
        patient_notes(patients("999", written), [], [exported])
    expected = f"1 ids of the table differ from those of the export only in {what} (row 3); spreadsheets change ids"
    assert expected in str(caught.value)
    assert "12345" not in str(caught.value)


def test_a_table_of_another_export() -> None:
    with pytest.raises(ValueError, match="not one of the 1 patients .*; is it the table of this export"):
        patient_notes(patients("1"), [], ["2"])
    assert patient_notes(patients("1"), [], []) == []


def test_some_that_match_and_some_that_are_near() -> None:
    assert patient_notes(patients("1", "2", "003"), [], ["1", "3", "4"]) == [
        "1 ids of the table differ from those of the export only in zeros in front (row 4); spreadsheets change ids: "
        "write them as in DICOM, in a column formatted as text"
    ]
    assert patient_notes(patients("1", "2"), [], ["1", "3"]) == []

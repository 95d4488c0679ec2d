"""Who the patients are: the table of patients, ids that name nobody, and ids that two people seem to share."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import pandas as pd

from intake.dicom.header import OLDEST
from intake.dicom.series import Series
from intake.dicom.words import canonical, is_missing
from intake.pseudonyms import pseudonym

AGES_DIFFER = 0.5  # years by which the years of birth may differ that ages imply; 20 where studies have no date
_MADE_BY_EXCEL = re.compile(r"\d+([.,]\d+)?E\+\d+", re.IGNORECASE)  # an id that became a number
_OF_SCANS = {"patient_id", "subject", "session", "modality", "path", "unit", "remarks"}


def by_subject(patients: pd.DataFrame, keep: Sequence[str], key: bytes) -> pd.DataFrame:
    """Index the columns to keep by pseudonym; cells that say "NA" or the like become "".

    Messages name rows, never ids; row 2 is the first below the header.

    Raises:
        ValueError: a column is missing or reserved, or an id is missing, broken, or there twice.
    """
    if missing := [name for name in ("patient_id", *keep) if name not in patients]:
        raise ValueError(f"the table of patients lacks {', '.join(map(repr, missing))}; it has {list(patients)}")
    if reserved := _OF_SCANS & set(keep):
        raise ValueError(f"the table of patients cannot give {', '.join(sorted(reserved))}; the scans have it")
    table = patients[patients.map(lambda cell: cell.strip() != "").any(axis=1)]
    ids = table["patient_id"].str.strip()
    if len(nobody := table.index[ids.map(is_missing)]):
        raise ValueError(f"the table of patients has no patient_id in {_rows(nobody)}; write it as in DICOM")
    if len(broken := table.index[ids.map(lambda text: _MADE_BY_EXCEL.fullmatch(text) is not None)]):
        raise ValueError(
            f"patient_id in {_rows(broken)} of the table of patients is a number such as 1.2E+05, which a spreadsheet "
            "made of an id; format the column as text and type the ids again"
        )
    subjects = ids.map(lambda patient: pseudonym(patient, key))
    if len(again := table.index[subjects.duplicated()]):
        raise ValueError(f"the table of patients has a patient twice: rows {', '.join(str(row + 2) for row in again)}")
    forms = ids.map(canonical)
    if len(alike := table.index[forms.duplicated(keep=False)]):
        raise ValueError(
            f"{_rows(alike)} of the table of patients have ids that differ in case, spaces, dashes, zeros or .0 only; "
            "keep one row for each patient, with the id as in DICOM"
        )
    return table[list(keep)].map(lambda cell: "" if is_missing(cell) else cell).set_axis(subjects, axis=0)


def near_rows(series: Iterable[Series], patients: pd.DataFrame) -> dict[str, int]:
    """Return the row of the table whose id is the patient's in another form (zeros, case, .0), by PatientID."""
    rows = {canonical(text): row + 2 for row, text in patients["patient_id"].items() if not is_missing(text)}
    return {each.patient: rows[canonical(each.patient)] for each in series if canonical(each.patient) in rows}


def notes_on_ids(series: Iterable[Series], key: bytes) -> list[str]:
    """Name patients, by pseudonym, whose ids differ in case, zeros or the like only: one person or two?"""
    forms: dict[str, set[str]] = defaultdict(set)
    for each in series:
        if each.patient:
            forms[canonical(each.patient)].add(pseudonym(each.patient, key))
    return [
        f"{' and '.join(sorted(subjects))} have PatientIDs that differ in case, spaces, dashes or zeros only; if they "
        "are one patient, give both one id in the export, or their scans may be in training and in test"
        for subjects in forms.values()
        if len(subjects) > 1
    ]


def notes_on_cells(patients: pd.DataFrame, keep: Sequence[str]) -> list[str]:
    """Name the rows of the table of patients that have a word for missing in a column to keep."""
    words = {name: patients.index[patients[name].map(lambda cell: bool(cell) and is_missing(cell))] for name in keep}
    return [
        f"{name} is a word for missing, such as NA, in {_rows(rows)} of the table of patients; it is left empty"
        for name, rows in words.items()
        if len(rows)
    ]


def mixed_patients(series: Sequence[Series]) -> dict[str, str]:
    """Find ids that two patients seem to share, as those of two hospitals may; names are not compared, they change.

    Returns:
        PatientID → the reason not to use its series.
    """
    births: dict[str, set[object]] = defaultdict(set)
    sexes: dict[str, set[str]] = defaultdict(set)
    several: dict[str, list[Series]] = defaultdict(list)
    for each in series:
        births[each.patient] |= {each.birth_date} - {None}
        sexes[each.patient] |= {each.sex} & {"F", "M"}
        several[each.patient].append(each)
    reasons = {}
    for patient, own in several.items():
        facts = [(len(births[patient]) > 1, "birth dates"), (len(sexes[patient]) > 1, "sexes"), (_ages(own), "ages")]
        if (found := [name for differ, name in facts if differ]) and patient:
            stated = sorted({each.age for each in own if each.age is not None})
            ages = f" ({' and '.join(map(str, stated))} years)" if "ages" in found else ""
            reasons[patient] = (
                f"one PatientID with two birth dates, sexes or ages: its {' and '.join(found)} contradict{ages}; two "
                "patients may share it. Import them from separate folders"
            )
    return reasons


def _ages(series: Sequence[Series]) -> bool:
    """Check if ages at the days of the studies imply years of birth that cannot be one person's."""
    dated = all(each.study_date for each in series if each.age is not None)
    births = [
        (each.study_date.toordinal() / 365.25 if dated and each.study_date else 0.0, each.age)
        for each in series
        if each.age is not None
    ]
    latest = [year - age for year, age in births]
    earliest = [year - age - 1 for year, age in births if age < OLDEST]
    return bool(earliest) and max(earliest) - min(latest) > (AGES_DIFFER if dated else 20)


def _rows(index: Iterable[int]) -> str:
    """Name rows by the index of `read_table`."""
    numbers = [str(row + 2) for row in index]
    return f"row{'s' * (len(numbers) > 1)} {', '.join(numbers)}"

"""The table of patients beside a DICOM export: what is kept of it, and whom it names; no message holds an id."""

from collections.abc import Iterable, Sequence

import pandas as pd

from cohort.names import broken_ids, canonical, difference, missing, without_missing
from intake.pseudonyms import pseudonym

OF_THE_SCANS = {"patient_id", "subject", "session", "modality", "path", "unit", "remarks"}
MOST_ROWS = 10  # that are listed; the rest are counted


def patients_by_subject(
    patients: pd.DataFrame, keep: Sequence[str], key: bytes, not_missing: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Index the columns to keep by pseudonym; cells that stand for no value are emptied.

    Args:
        patients: a row a patient, str, with a column `patient_id` (as in DICOM); index + 2 is the row in its file.
        keep: columns.
        key: secret, for the pseudonyms.
        not_missing: words that stand for no value elsewhere and are values here, such as none.

    Raises:
        ValueError: a column is missing or cannot be kept; an id is missing, broken by a spreadsheet, or there twice,
            were it in another spelling.
    """
    if absent := [name for name in ("patient_id", *keep) if name not in patients]:
        raise ValueError(f"the table of patients lacks {', '.join(map(repr, absent))}; it has {list(patients)}")
    if reserved := OF_THE_SCANS & set(keep):
        raise ValueError(f"the table of patients cannot give {', '.join(sorted(reserved))}; the scans have it")
    patients = patients[(patients != "").any(axis=1)]
    ids = patients["patient_id"].str.strip()
    if broken := {index: "is empty" for index in ids.index[ids == ""]} | broken_ids(ids):
        listed = "; ".join(f"row {index + 2}: the id {what}" for index, what in sorted(broken.items())[:MOST_ROWS])
        raise ValueError(f"the table of patients has {len(broken)} ids that are none: {listed}")
    subjects = ids.map(lambda patient: pseudonym(patient, key))
    if len(again := ids.index[subjects.duplicated()]):
        raise ValueError(f"the table of patients has a patient twice: {_rows(again)}")
    for _, same in ids.groupby(ids.map(canonical), sort=False):
        if len(same) > 1:
            raise ValueError(
                f"the table of patients has ids that differ only in {difference(*same.iloc[:2])}: {_rows(same.index)}; "
                "is it one patient?"
            )
    kept = patients[list(keep)].apply(lambda cells: without_missing(cells.str.strip(), not_missing))
    return kept.set_axis(subjects, axis=0)


def patient_notes(
    patients: pd.DataFrame, keep: Sequence[str], exported: Iterable[str], not_missing: tuple[str, ...] = ()
) -> list[str]:
    """Describe the words that stand for no value, and the ids that match none of the export as they are written.

    Args:
        patients: as for `patients_by_subject`, which has checked it.
        keep: columns.
        exported: the patient ids of the export.
        not_missing: the same.

    Raises:
        ValueError: the export has patients, and none of them is in the table.
    """
    patients = patients[(patients != "").any(axis=1)]
    notes = []
    for name in keep:
        cells = patients[name].str.strip()
        words = cells[(cells != "") & missing(cells, not_missing)]
        if len(words):
            named = ", ".join(map(repr, sorted(set(words))))
            notes.append(f"{name}: {named} stands for no value and is left empty, {_rows(words.index)} of the table")
    written = {patient.strip() for patient in exported if patient.strip()}
    ids = patients["patient_id"].str.strip()
    spelt = {canonical(patient): patient for patient in written - set(ids)}
    ids, everybody = ids[~ids.isin(written)], len(ids)
    near = ids[ids.map(canonical).isin(spelt)]
    hint = ""
    if len(near):
        what = ", ".join(sorted({difference(each, spelt[canonical(each)]) for each in near}))
        hint = (
            f"{len(near)} ids of the table differ from those of the export only in {what} ({_rows(near.index)}); "
            "spreadsheets change ids: write them as in DICOM, in a column formatted as text"
        )
    if written and len(ids) == everybody:
        raise ValueError(
            f"not one of the {everybody} patients of the table is among the {len(written)} of the export"
            + (f": {hint}" if hint else "; is it the table of this export?")
        )
    return notes + [hint] * bool(hint)


def near_rows(patients: pd.DataFrame, strangers: Iterable[str]) -> dict[str, int]:
    """Map patient ids of the export to the row of the table that has them in another spelling, where there is one."""
    rows = {canonical(text): row + 2 for row, text in patients["patient_id"].items() if text.strip()}
    return {patient: rows[canonical(patient)] for patient in strangers if canonical(patient) in rows}


def _rows(index: Iterable[int]) -> str:
    """List rows of the file; row 2 is the first below the header."""
    rows = [str(number + 2) for number in index]
    more = f" and {len(rows) - MOST_ROWS} more" if len(rows) > MOST_ROWS else ""
    return f"row{'s' * (len(rows) > 1)} {', '.join(rows[:MOST_ROWS])}{more}"

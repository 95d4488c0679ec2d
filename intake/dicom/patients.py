"""Ids that two people seem to share, and two ids that may be one person's."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from cohort.names import canonical
from intake.dicom.header import OLDEST
from intake.dicom.series import Series
from intake.pseudonyms import pseudonym

AGES_DIFFER = 0.5  # years by which the years of birth may differ that ages imply; 20 where studies have no date


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

"""Hide scans on purpose, to measure the effect of missing modalities."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pandas as pd

from cohort.covariates import as_numbers, kinds_of
from cohort.mechanisms import CLASS, COVARIATE, Missing
from cohort.splits import shuffled, uniform
from cohort.tables import suggest

Pulls = Mapping[str, float]
"""Subject → log of how much likelier than others it is the next to lose a scan; 0 for who is not in it."""


class Availability(NamedTuple):
    """Which scans are available, and notes on shares that could not be reached."""

    scans: pd.DataFrame
    """One row a scan, in the order given: `scan`, `observation`, `subject`, `modality` (str), `available` (bool)."""
    notes: tuple[str, ...]
    """One sentence for every modality of which fewer subjects were hidden than requested."""


class Pulled(NamedTuple):
    """Who is likelier to lose a scan."""

    pulls: dict[str, float]
    """Subject → pull, with mean 0."""
    notes: tuple[str, ...]
    """One sentence on subjects of whom the mechanism knows nothing."""


def hide_scans(
    scans: pd.DataFrame, missing: Mapping[str, float], seed: int, pulls: Mapping[str, Pulls] | None = None
) -> Availability:
    """Hide a share of the subjects' scans of each modality named, and never the last scan of an observation.

    The share counts subjects that have the modality, rounded half up; such a subject loses all its scans of it.
    Subjects are ranked by a hash of seed, modality and name: the order of the rows and of `missing` does not matter,
    and a new subject does not change the order of the others. Modalities that compete for the same subjects get equal
    parts of what they asked for.

    Args:
        scans: str columns `scan`, `observation`, `subject`, `modality`.
        missing: Modality → share of its subjects to hide, from 0 up to but not including 1.
        seed: Another seed hides other subjects.
        pulls: Modality → what makes subjects likelier to lose it. Of the subjects left, the next is drawn with
            probabilities in proportion to exp(pull). Without pulls, or with equal ones, the order is that of the hash.

    Raises:
        ValueError: A modality is not in `scans`, or a share is not in [0, 1).
    """
    for modality, share in missing.items():
        if modality not in set(scans["modality"]):
            raise ValueError(f"missing: no scan is of modality {modality!r} {suggest(modality, scans['modality'])}")
        if not 0 <= share < 1:
            raise ValueError(f"missing: {modality}: {share} is not a share from 0 up to (not including) 1")

    table = scans[["scan", "observation", "subject", "modality"]].reset_index(drop=True).assign(available=True)
    having = {modality: set(table.loc[table["modality"] == modality, "subject"]) for modality in sorted(missing)}
    wanted = {name: math.floor(round(missing[name] * len(subjects), 9) + 0.5) for name, subjects in having.items()}
    order = {
        modality: _order(subjects, seed, modality, (pulls or {}).get(modality)) for modality, subjects in having.items()
    }
    hidden = _hide_in_turn(table, order, wanted)
    for modality, subjects in hidden.items():
        table.loc[(table["modality"] == modality) & table["subject"].isin(subjects), "available"] = False
    notes = [
        f"{modality}: {wanted[modality]} of {len(having[modality])} subjects were to be hidden and {len(subjects)} "
        "could be; each of the others would have been left without a scan"
        for modality, subjects in hidden.items()
        if len(subjects) < wanted[modality]
    ]
    return Availability(table, tuple(notes))


def pulls_of(missing: Missing, subjects: pd.Series, cells: pd.Series, *, positive: str) -> Pulled:
    """Return who is likelier to lose a scan by a covariate or by the class.

    Of a number its standardised value counts, of a word whether it is the value named. A subject of several
    observations has the mean over those that say something. Who says nothing is treated like the mean of all.

    Args:
        missing: With mechanism `covariate` or `class`.
        subjects: Observation (index) → subject, of those who have the modality.
        cells: Observation → text of the covariate ("" for none), or the label.
        positive: The class that is meant where `missing.value` is None.

    Raises:
        ValueError: The covariate is a word and no value is named, nobody has the value, or all subjects are alike.
    """
    if subjects.empty:
        raise ValueError("nobody has the modality")
    what = "mechanism class" if missing.mechanism == CLASS else f"mechanism covariate of {missing.of}"
    kind = kinds_of(cells.to_frame(str(missing.of)))[str(missing.of)]
    cells = cells.reindex(subjects.index).fillna("")
    known = cells[cells != ""]
    if known.empty:
        raise ValueError(f"{what}: nobody with the modality has a value")
    if missing.mechanism == COVARIATE and missing.value is None:
        if kind != "number":
            found = ", ".join(sorted(set(known))[:10])
            raise ValueError(f"{what}: it is no number, so `value` has to name what makes the scan go: {found}")
        numbers = as_numbers(known)
    else:
        value = missing.value or positive
        if value not in set(known):
            raise ValueError(f"{what}: nobody with the modality has the value {value!r} {suggest(value, set(known))}")
        numbers = (known == value).astype(float)
    of_subject = numbers.groupby(subjects[numbers.index]).mean()
    unknown = sorted(set(subjects) - set(of_subject.index))
    notes = (
        [f"{what}: unknown of {len(unknown)} subjects, who are treated like the mean of the others"] if unknown else []
    )
    by_value = missing.mechanism == CLASS or missing.value is not None
    return Pulled(pulls_of_numbers(of_subject, missing.slope, what, standardise=not by_value), tuple(notes))


def positive_of(missing: Missing, classes: tuple[str, ...]) -> str:
    """Return the class that a mechanism `class` means where it names none: the positive one of two.

    Raises:
        ValueError: There are more than two.
    """
    if missing.mechanism == CLASS and missing.value is None and len(classes) != 2:
        raise ValueError(f"mechanism class: there are {len(classes)} classes, so `value` has to name one of them")
    return classes[-1]


def column_of(covariates: pd.DataFrame, name: str) -> pd.Series:
    """Return a covariate, observation → text.

    Raises:
        ValueError: There is no such column.
    """
    if name not in covariates:
        raise ValueError(
            f"mechanism covariate: {name!r} is no covariate of this cohort {suggest(name, covariates.columns)}"
        )
    return covariates[name]


def pulls_of_numbers(numbers: pd.Series, slope: float, what: str, *, standardise: bool = True) -> dict[str, float]:
    """Return subject → slope times its number, centred, and per standard deviation if `standardise`.

    Args:
        numbers: Subject (index) → number.
        slope: Per standard deviation, or per 1.
        what: Of what, for the message.
        standardise: Divide by the standard deviation (ddof 0).

    Raises:
        ValueError: All numbers are alike, so that nobody would be likelier than others.
    """
    spread = float(numbers.std(ddof=0)) if len(numbers) else 0.0
    if not spread > 0:
        raise ValueError(f"{what}: all subjects with the modality are alike, so it cannot decide who loses the scan")
    centred = numbers - numbers.mean()
    return (slope * centred / (spread if standardise else 1.0)).to_dict()


def _order(subjects: Iterable[str], seed: int, modality: str, pulls: Pulls | None) -> list[str]:
    """Return subjects in the order in which they lose the modality.

    Adding Gumbel noise to the pulls and sorting draws one subject after the other in proportion to exp(pull).
    Source: Yellott 1977, J. Math. Psychol. 15:109 (the Gumbel distribution in Luce's choice).
    """
    order = shuffled(subjects, seed, modality)
    if not pulls:
        return order
    # The hash as a number in (0, 1); the lower it is, the sooner, as without pulls.
    noise = {name: -math.log(-math.log1p(-uniform(name, seed, modality))) for name in order}
    return sorted(order, key=lambda name: -(noise[name] + pulls.get(name, 0.0)))


def _hide_in_turn(
    table: pd.DataFrame, order: Mapping[str, list[str]], wanted: Mapping[str, int]
) -> dict[str, set[str]]:
    """Choose the subjects that lose each modality; the modality furthest from its share is always next.

    So modalities that compete for the same subjects, none of whom may lose the last scan, get equal parts of what they
    asked for.
    """
    left: dict[str, dict[str, set[str]]] = {}  # subject → observation → modalities still available
    for subject, observation, modality in table[["subject", "observation", "modality"]].itertuples(index=False):
        left.setdefault(subject, {}).setdefault(observation, set()).add(modality)
    waiting = {modality: subjects[::-1] for modality, subjects in order.items()}
    hidden: dict[str, set[str]] = {modality: set() for modality in order}
    while open_ := [m for m in hidden if waiting[m] and len(hidden[m]) < wanted[m]]:
        modality = min(open_, key=lambda m: (len(hidden[m]) / wanted[m], -wanted[m], m))
        subject = waiting[modality].pop()
        if any(present == {modality} for present in left[subject].values()):
            continue  # it would be left without a scan, and availability only falls, so it need not be asked again
        for present in left[subject].values():
            present.discard(modality)
        hidden[modality].add(subject)
    return hidden

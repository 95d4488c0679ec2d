"""Hide scans on purpose, to measure the effect of missing modalities."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from cohort.splits import shuffled
from cohort.tables import suggest


class Availability(NamedTuple):
    """Which scans are available, and notes on shares that could not be reached."""

    scans: pd.DataFrame
    """One row a scan, in the order given: `scan`, `observation`, `subject`, `modality` (str), `available` (bool)."""
    notes: tuple[str, ...]
    """One sentence for every modality of which fewer subjects were hidden than requested."""


def hide_scans(scans: pd.DataFrame, missing: Mapping[str, float], seed: int) -> Availability:
    """Hide a share of the subjects' scans of each modality named, and never the last scan of an observation.

    The share counts subjects that have the modality, rounded half up; such a subject loses all its scans of it.
    Subjects are ranked by a hash of seed, modality and name: the order of the rows and of `missing` does not matter,
    and a new subject does not change the order of the others. Modalities that compete for the same subjects get equal
    parts of what they asked for.

    Args:
        scans: str columns `scan`, `observation`, `subject`, `modality`.
        missing: Modality → share of its subjects to hide, from 0 up to but not including 1.
        seed: Another seed hides other subjects.

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
    hidden = _hide_in_turn(table, having, wanted, seed)
    for modality, subjects in hidden.items():
        table.loc[(table["modality"] == modality) & table["subject"].isin(subjects), "available"] = False
    notes = [
        f"{modality}: {wanted[modality]} of {len(having[modality])} subjects were to be hidden and {len(subjects)} "
        "could be; each of the others would have been left without a scan"
        for modality, subjects in hidden.items()
        if len(subjects) < wanted[modality]
    ]
    return Availability(table, tuple(notes))


def _hide_in_turn(
    table: pd.DataFrame, having: Mapping[str, set[str]], wanted: Mapping[str, int], seed: int
) -> dict[str, set[str]]:
    """Choose the subjects that lose each modality; the modality furthest from its share is always next.

    So modalities that compete for the same subjects, none of whom may lose the last scan, get equal parts of what they
    asked for.
    """
    left: dict[str, dict[str, set[str]]] = {}  # subject → observation → modalities still available
    for subject, observation, modality in table[["subject", "observation", "modality"]].itertuples(index=False):
        left.setdefault(subject, {}).setdefault(observation, set()).add(modality)
    waiting = {modality: shuffled(having[modality], seed, modality)[::-1] for modality in having}
    hidden: dict[str, set[str]] = {modality: set() for modality in having}
    while open_ := [m for m in hidden if waiting[m] and len(hidden[m]) < wanted[m]]:
        modality = min(open_, key=lambda m: (len(hidden[m]) / wanted[m], -wanted[m], m))
        subject = waiting[modality].pop()
        if any(present == {modality} for present in left[subject].values()):
            continue  # it would be left without a scan, and availability only falls, so it need not be asked again
        for present in left[subject].values():
            present.discard(modality)
        hidden[modality].add(subject)
    return hidden

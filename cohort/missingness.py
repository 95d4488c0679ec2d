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
    and a new subject does not change the order of the others. Modalities are hidden in alphabetical order.

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
    notes = []
    for modality in sorted(missing):
        of_modality = table["modality"] == modality
        having = set(table.loc[of_modality, "subject"])
        wanted = math.floor(round(missing[modality] * len(having), 9) + 0.5)
        hidden = shuffled(having - _depending_on(table, of_modality), seed, modality)[:wanted]
        table.loc[of_modality & table["subject"].isin(hidden), "available"] = False
        if len(hidden) < wanted:
            notes.append(
                f"{modality}: {wanted} of {len(having)} subjects were to be hidden and {len(hidden)} could be; "
                "each of the others would have been left without a scan"
            )
    return Availability(table, tuple(notes))


def _depending_on(table: pd.DataFrame, of_modality: pd.Series) -> set[str]:
    """Return the subjects with an observation that has no other modality available."""
    others = set(table.loc[table["available"] & ~of_modality, "observation"])
    return set(table.loc[~table["observation"].isin(others), "subject"])

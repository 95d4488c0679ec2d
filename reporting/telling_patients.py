"""Choose the test patients that tell most about a model: most wrong, most unsure, most certain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from evaluation.intervals import probability_columns
from evaluation.metrics import decide

Kind = Literal["wrong", "unsure", "certain"]
KINDS: dict[Kind, tuple[str, str]] = {
    "wrong": ("Most wrong", "Decided wrongly, with the least probability left for the true class."),
    "unsure": ("Most unsure", "Of the others: the decision had the least probability, right or wrong."),
    "certain": ("Most certain", "Of the others: the decision had the highest probability, right or wrong."),
}
"""Kind → its title and what it means, in the order of the page."""


@dataclass(frozen=True)
class Scan:
    """A scan of such a patient.

    Attributes:
        scan: its id.
        modality: of the scan.
        png: its picture; None for none.
        link: address of the page of its slices, "" for none.
    """

    scan: str
    modality: str = ""
    png: bytes | None = None
    link: str = ""


@dataclass(frozen=True)
class TellingPatient:
    """A test patient to look at.

    Attributes:
        kind: why: a key of `KINDS`.
        subject: who.
        observation: which visit.
        truth: index of the true class.
        decision: index of the decided class.
        probabilities: of each class, mean over the repeats that tested the patient.
        repeats: how many these are.
        scans: that were used.
    """

    kind: Kind
    subject: str
    observation: str
    truth: int
    decision: int
    probabilities: tuple[float, ...]
    repeats: int
    scans: tuple[Scan, ...]


def telling_patients(predictions: pd.DataFrame, count: int) -> tuple[TellingPatient, ...]:
    """Choose patients of each kind; nobody is chosen twice, and equals come in the order of their names.

    Args:
        predictions: test predictions as in `evaluation.intervals`, with `observation` and `scans_used` (ids joined by
            semicolons).
        count: patients of each kind at most.

    Returns:
        First the most wrong, then the most unsure, then the most certain; each kind with the foremost first.
    """
    columns = probability_columns(predictions)
    if predictions.empty:
        return ()
    named = predictions.groupby("observation", sort=True)
    probabilities = named[columns].mean().to_numpy(dtype=np.float64)
    truth, decided = named["truth"].first().to_numpy(dtype=np.int64), decide(probabilities)
    highest = probabilities[np.arange(len(truth)), decided]
    of_truth = probabilities[np.arange(len(truth)), truth]
    # The lowest rank is the foremost; infinity: not of this kind.
    ranks: dict[Kind, np.ndarray] = {
        "wrong": np.where(decided != truth, of_truth, np.inf), "unsure": highest, "certain": -highest,
    }  # fmt: skip
    free = np.ones(len(truth), bool)
    chosen = []
    for kind in KINDS:
        order = [i for i in np.argsort(ranks[kind], kind="stable") if free[i] and np.isfinite(ranks[kind][i])][:count]
        free[order] = False
        for i in order:
            observation = str(named["observation"].first().index[i])
            rows = predictions[predictions["observation"].astype(str) == observation]
            scans = dict.fromkeys(s for used in rows["scans_used"] for s in str(used).split(";") if s)
            chosen.append(
                TellingPatient(
                    kind=kind,
                    subject=str(rows["subject"].iloc[0]),
                    observation=observation,
                    truth=int(truth[i]),
                    decision=int(decided[i]),
                    probabilities=tuple(map(float, probabilities[i])),
                    repeats=len(rows),
                    scans=tuple(map(Scan, scans)),
                )
            )
    return tuple(chosen)

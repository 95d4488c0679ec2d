"""Expected change from one more modality, measured on the calibration patients who have it.

An average over patients who happen to have both, not a forecast for one patient; the scan was not assigned at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from evaluation.conformal import ONE_MINUS_P, leave_one_out_sets


class Change(TypedDict):
    """Change from without to with one more modality; subjects count alike, however many observations they have.

    n: subjects. mean_absolute_change: of the probability of the class that leads without it. decisions_changed: share
    of predictions whose leading class differs. abstentions_resolved: of the observations whose conformal set is not
    exactly one class without it, the share whose set is with it; None if there was none, or too few subjects for sets.
    error_rate: α of these sets.
    """

    n: int
    mean_absolute_change: float
    decisions_changed: float
    abstentions_resolved: float | None
    error_rate: float


def expected_change(
    without: npt.ArrayLike,
    complete: npt.ArrayLike,
    truth: npt.ArrayLike,
    subjects: Sequence[str],
    *,
    error_rate: float,
    score: str = ONE_MINUS_P,
) -> Change:
    """Compare the same observations without and with the modality.

    Each observation's conformal set comes from the scores of the other subjects.

    Args:
        without: calibrated probabilities without the modality, (n, K).
        complete: with it, (n, K).
        truth: (n,) integers, 0 to K - 1.
        subjects: (n,) names.
        error_rate: α of the conformal sets.
        score: theirs, of `evaluation.conformal.SCORES`.

    Raises:
        ValueError: there are no observations, or the two do not have the same shape.
    """
    before, after = np.asarray(without, dtype=np.float64), np.asarray(complete, dtype=np.float64)
    if before.shape != after.shape or not len(before):
        raise ValueError(f"probabilities of shape {before.shape} and {after.shape}; expected the same (n, K), n ≥ 1")
    names, number = np.unique(np.asarray(subjects, dtype=object).astype(str), return_inverse=True)
    weight = 1 / np.bincount(number)[number]
    leading, rows = before.argmax(axis=1), np.arange(len(before))
    change = np.abs(after[rows, leading] - before[rows, leading])
    sets = [leave_one_out_sets(p, truth, subjects, error_rate, score) for p in (before, after)]
    resolved = None
    if sets[0] is not None and sets[1] is not None:
        unsure = sets[0].sum(axis=1) != 1
        if unsure.any():
            resolved = float(np.average(sets[1][unsure].sum(axis=1) == 1, weights=weight[unsure]))
    return Change(
        n=len(names),
        mean_absolute_change=float(np.average(change, weights=weight)),
        decisions_changed=float(np.average(after.argmax(axis=1) != leading, weights=weight)),
        abstentions_resolved=resolved,
        error_rate=error_rate,
    )

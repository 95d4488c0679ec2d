"""Split conformal prediction: sets of classes that miss the true class at most at a chosen rate.

The score of an observation is 1 - p(true class), or another of `SCORES`. A class enters the set of a new patient if its
score is not among the largest α of those of the calibration set. If new and calibration patients are exchangeable, the
set misses the true class for at most a share α of them, on average over patients and over calibration sets. The
guarantee is marginal, not per class or kind of patient; `leave_one_out` shows the classes apart.

A subject with several observations gives one score, its worst, since its observations are not independent.

Source: Vovk, Gammerman and Shafer (2005); Sadinle, Lei and Wasserman (2019) for this score; Angelopoulos and Bates,
A Gentle Introduction to Conformal Prediction (2021), section 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
ONE_MINUS_P = "one_minus_p"
SCORES: dict[str, Callable[[FloatArray], FloatArray]] = {ONE_MINUS_P: lambda probabilities: 1 - probabilities}
"""Name → from calibrated probabilities (n, K) to the score of every class (n, K), in [0, 1]; small if it fits well."""


def known_score(name: str) -> str:
    """Return the name of a score, or refuse it.

    Raises:
        ValueError: There is no such score.
    """
    if name not in SCORES:
        raise ValueError(f"no conformal score {name!r}; there are {', '.join(SCORES)}")
    return name


def subject_scores(
    probabilities: npt.ArrayLike, truth: npt.ArrayLike, subjects: Sequence[str], score: str = ONE_MINUS_P
) -> FloatArray:
    """Return one score a subject, the largest of the true class of its observations, in the sorted order of subjects.

    Args:
        probabilities: (n, K), calibrated.
        truth: (n,) integers, 0 to K - 1.
        subjects: (n,) names.
        score: of `SCORES`.

    Returns:
        (S,), in [0, 1].
    """
    p = finite(probabilities, "a probability")
    names, number = np.unique(np.asarray(subjects, dtype=object).astype(str), return_inverse=True)
    scores = np.zeros(len(names))
    np.maximum.at(scores, number, SCORES[score](p)[np.arange(len(p)), np.asarray(truth, dtype=np.int64)])
    return scores


def fewest_subjects(error_rate: float) -> int:
    """Return how many calibration subjects an error rate needs: the smallest n with n + 1 ≥ 1 / α.

    Raises:
        ValueError: the rate is not between 0 and 1.
    """
    return math.ceil(1 / _exact(error_rate)) - 1


def score_threshold(scores: npt.ArrayLike, error_rate: float) -> float:
    """Return the ⌈(n + 1)(1 - α)⌉-th smallest score; infinite, so that every class fits, if there are too few.

    Args:
        scores: (n,), one per calibration subject, in any order.
        error_rate: α, between 0 and 1.

    Raises:
        ValueError: the rate is not between 0 and 1, or a score is not a finite number.
    """
    ordered = np.sort(finite(scores, "a score"))
    rank = math.ceil((len(ordered) + 1) * (1 - _exact(error_rate)))
    return float(ordered[rank - 1]) if rank <= len(ordered) else math.inf


def too_few_subjects(count: int, rate: float) -> str:
    """Return why the calibration subjects are too few for this error rate; "" if they are enough."""
    needed = fewest_subjects(rate)
    if count >= needed:
        return ""
    return f"{count} held-out subjects are too few for an error rate of {rate:g}; {needed} are needed"


def prediction_sets(probabilities: npt.ArrayLike, threshold: float, score: str = ONE_MINUS_P) -> npt.NDArray[np.bool_]:
    """Return the conformal sets: the leading class, and all others with a score no larger than the threshold.

    Without the first rule a model that errs less often than α would leave patients with no class at all, some of them
    with a leading class of 0.99. A larger set can only be right more often, so the guarantee still holds.

    Args:
        probabilities: (n, K), calibrated.
        threshold: as from `score_threshold`.
        score: that the threshold is of.

    Returns:
        (n, K), bool; at least one class a row.

    Source: Sadinle, Lei and Wasserman (2019) on filling empty sets.
    """
    return _sets(finite(probabilities, "a probability"), np.asarray(threshold), score)


def leave_one_out(
    probabilities: npt.ArrayLike,
    truth: npt.ArrayLike,
    subjects: Sequence[str],
    error_rate: float,
    score: str = ONE_MINUS_P,
) -> dict[str, Any]:
    """Evaluate the sets of every calibration subject with the threshold of all others.

    `coverage` over all subjects is at least ⌈n(1 - α)⌉ / n by construction wherever scores differ, for good models and
    bad. The informative results are the coverage by class, how often the set holds exactly one class, and how often
    that class is right.

    Args:
        probabilities: (n, K), calibrated.
        truth: (n,) integers, 0 to K - 1.
        subjects: (n,) names; a subject counts as covered if all its observations are.
        error_rate: α.
        score: of `SCORES`.

    Returns:
        subjects, coverage, coverage_by_class (list of K, None for an absent class), answered (share of
        observations with exactly one class in their set), answered_right (share of these that are right, or None).
        Shares are None if the subjects are too few.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(truth, dtype=np.int64)
    names, number = np.unique(np.asarray(subjects, dtype=object).astype(str), return_inverse=True)
    inside = leave_one_out_sets(p, y, subjects, error_rate, score)
    result: dict[str, Any] = {
        "subjects": len(names),
        "coverage": None,
        "coverage_by_class": [None] * p.shape[1],
        "answered": None,
        "answered_right": None,
    }
    if inside is None:
        return result
    hit = inside[np.arange(len(y)), y]
    covered = np.ones(len(names), dtype=bool)
    np.logical_and.at(covered, number, hit)
    single = inside.sum(axis=1) == 1
    return result | {
        "coverage": float(covered.mean()),
        "coverage_by_class": [float(hit[y == k].mean()) if (y == k).any() else None for k in range(p.shape[1])],
        "answered": float(single.mean()),
        "answered_right": float(hit[single].mean()) if single.any() else None,
    }


def leave_one_out_sets(
    probabilities: npt.ArrayLike,
    truth: npt.ArrayLike,
    subjects: Sequence[str],
    error_rate: float,
    score: str = ONE_MINUS_P,
) -> npt.NDArray[np.bool_] | None:
    """Return the set of every observation, with the threshold of all other subjects; (n, K) bool.

    None if the other subjects are too few for the error rate.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    scores = subject_scores(p, truth, subjects, score)
    if len(scores) - 1 < fewest_subjects(error_rate):
        return None
    _, number = np.unique(np.asarray(subjects, dtype=object).astype(str), return_inverse=True)
    thresholds = np.array([score_threshold(np.delete(scores, s), error_rate) for s in range(len(scores))])
    return _sets(p, thresholds[number][:, None], score)


def finite(values: npt.ArrayLike, what: str) -> FloatArray:
    """Return the values as float64, refusing NaN, which would be sorted last and become a prediction.

    Args:
        values: of any shape.
        what: one of them is, for the message.

    Raises:
        ValueError: one is not a finite number.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{what} is not a finite number; the model or the scans are damaged")
    return numbers


def _sets(probabilities: FloatArray, threshold: FloatArray, score: str) -> npt.NDArray[np.bool_]:
    inside = SCORES[score](probabilities) <= threshold
    inside[np.arange(len(inside)), probabilities.argmax(axis=1)] = True
    return inside


def _exact(error_rate: float) -> Fraction:
    """Return the rate as the decimal it was given as; with binary 0.1, ⌈(9 + 1) · 0.9⌉ could be 10."""
    if not 0 < error_rate < 1:
        raise ValueError(f"the error rate is {error_rate}; expected a share between 0 and 1, such as 0.1")
    return Fraction(repr(float(error_rate)))

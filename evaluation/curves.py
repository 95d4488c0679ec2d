"""Points of the ROC and of the calibration curve: what the figures draw."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evaluation.metrics import FloatArray, IntArray


def roc_points(positive: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return the ROC curve, one point per distinct score.

    Args:
        positive: (n,) bool, whether the row is of the positive class.
        scores: (n,) floats, higher for more positive.

    Returns:
        False positive rate and true positive rate, each (m,), from (0, 0) to (1, 1). Both empty
        if there is one class only.
    """
    positive_n, scores_n = np.asarray(positive, dtype=bool), np.asarray(scores, dtype=np.float64)
    if positive_n.all() or not positive_n.any():
        return np.empty(0), np.empty(0)
    order = np.argsort(-scores_n, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores_n[order]) != 0, True))  # equal scores are one step
    hits = np.cumsum(positive_n[order])[last]
    alarms = last + 1 - hits
    return np.append(0.0, alarms / (~positive_n).sum()), np.append(0.0, hits / positive_n.sum())


def mean_roc(curves: list[tuple[FloatArray, FloatArray]], *, points: int = 101) -> tuple[FloatArray, FloatArray]:
    """Average ROC curves at equal false positive rates.

    Args:
        curves: as `roc_points` returns them; empty ones are left out.
        points: number of false positive rates, evenly spaced from 0 to 1.

    Returns:
        False positive rate and mean true positive rate, each (points + 1,); both empty if no curve is left.

    Source: Fawcett, An introduction to ROC analysis (2006), algorithm 3, vertical averaging.
    """
    curves = [curve for curve in curves if curve[0].size]
    if not curves:
        return np.empty(0), np.empty(0)
    grid = np.linspace(0, 1, points)
    mean = np.mean([np.interp(grid, false, true) for false, true in curves], axis=0)
    return np.append(0.0, grid), np.append(0.0, mean)


def calibration_bins(
    positive: npt.ArrayLike, scores: npt.ArrayLike, *, bins: int = 10
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Compare predicted with observed frequency in bins of equal count.

    Equal scores always share a bin, so counts are equal only as far as ties allow and there may be fewer bins.

    Args:
        positive: (n,) bool, whether the row is of the class.
        scores: (n,) floats, the probability given to the class.
        bins: number of bins wanted, 1 or more.

    Returns:
        Per bin, by rising score: mean probability, observed share of positives, and number of rows.

    Raises:
        ValueError: if `bins` is below 1.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; expected 1 or more")
    positive_n, scores_n = np.asarray(positive, dtype=bool), np.asarray(scores, dtype=np.float64)
    if not scores_n.size:
        return np.empty(0), np.empty(0), np.empty(0, dtype=np.int64)
    rank = np.searchsorted(np.sort(scores_n), scores_n)  # of the first of its ties
    _, place = np.unique(rank * bins // scores_n.size, return_inverse=True)
    counts = np.bincount(place)
    return np.bincount(place, scores_n) / counts, np.bincount(place, positive_n) / counts, counts.astype(np.int64)

"""Points of the ROC curve: what the figures draw."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_curve

from evaluation.metrics import FloatArray


def roc_points(positive: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return false and true positive rates as `sklearn.metrics.roc_curve` does; both empty if there is one class."""
    if len(np.unique(positive)) < 2:
        return np.empty(0), np.empty(0)
    false, true, _ = roc_curve(positive, scores, drop_intermediate=False)
    return false, true


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

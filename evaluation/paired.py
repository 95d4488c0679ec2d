"""The mean of paired differences that come with draws of a model's parameters: interval and p."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

LEVEL = 0.95


@dataclass(frozen=True)
class MeanDifference:
    """A mean difference over patients.

    Attributes:
        mean: over patients and draws.
        low: of the interval.
        high: of the interval.
        p: two-sided, of a mean of 0.
        patients: number.
        of_parameters: share of the variance that more training patients would take away.
    """

    mean: float
    low: float
    high: float
    p: float
    patients: int
    of_parameters: float


def mean_difference(parts: Sequence[NDArray[np.float64]]) -> MeanDifference:
    """Return the mean of differences, with an interval of other patients and other training patients.

    The variance is that between draws of the mean over patients, plus that of patients about the mean over draws (Rubin
    1987). Repeats share patients, so their variances are averaged and not added up as independent ones; what differs
    between repeats comes on top.

    Args:
        parts: one a repeat, (S, n): draws by patients; S >= 2, n >= 2.

    Raises:
        ValueError: there is no part, or one is too small.
    """
    if not parts or any(min(part.shape) < 2 for part in parts):
        raise ValueError("expected a part a repeat, of 2 draws and 2 patients at least")
    means = np.array([part.mean() for part in parts])
    spreads = [variances(part.mean(axis=1), part.mean(axis=0)) for part in parts]
    between, within = np.mean(spreads, axis=0)
    variance = float(between + within + variance_of_repeats(means))
    mean, freedom = float(means.mean()), min(min(part.shape) for part in parts) - 1
    spread = float(np.sqrt(variance))
    if spread == 0:
        return MeanDifference(mean, mean, mean, float(mean == 0), _patients(parts), 0.0)
    half = float(student.ppf(0.5 + LEVEL / 2, freedom)) * spread
    p = float(2 * student.sf(abs(mean) / spread, freedom))
    return MeanDifference(mean, mean - half, mean + half, p, _patients(parts), float(between) / variance)


def variances(of_draws: NDArray[np.floating], of_patients: NDArray[np.floating]) -> tuple[Any, Any]:
    """Return the variance of a mean difference that is of the parameters, and that of the patients, (...) each.

    Args:
        of_draws: mean over patients for each draw of the parameters, (S, ...).
        of_patients: mean over draws for each patient, (n, ...).
    """
    between = of_draws.var(axis=0, ddof=1) * (1 + 1 / len(of_draws))
    return between, of_patients.var(axis=0, ddof=1) / len(of_patients)


def variance_of_repeats(means: NDArray[np.floating]) -> Any:
    """Return the variance of the mean over repeats, (...), of their means (R, ...); 0 for a single one."""
    return means.var(axis=0, ddof=1) / len(means) if len(means) > 1 else 0.0


def _patients(parts: Sequence[NDArray[np.float64]]) -> int:
    return max(part.shape[1] for part in parts)

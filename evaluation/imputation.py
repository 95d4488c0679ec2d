"""How good imputed values are, their stated uncertainty included: coverage of intervals and CRPS.

Neither is about single draws: a mean always has the smaller squared error, and says nothing of what it does not know.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, ndtri

FloatArray = NDArray[np.float64]
LEVELS = (0.5, 0.8, 0.9, 0.95)


def gaussian_coverage(
    truth: NDArray[np.floating], mean: NDArray[np.floating], sd: NDArray[np.floating], levels: Sequence[float] = LEVELS
) -> FloatArray:
    """Return the share of true values inside of each central Gaussian interval, (levels,).

    Args:
        truth: any shape.
        mean: of the same shape, or one that broadcasts.
        sd: likewise, > 0.
        levels: in (0, 1).
    """
    z = np.abs(np.asarray(truth, dtype=np.float64) - mean) / sd
    return np.array([float((z <= ndtri((1 + level) / 2)).mean()) for level in levels])


def gaussian_crps(truth: NDArray[np.floating], mean: NDArray[np.floating], sd: NDArray[np.floating]) -> FloatArray:
    """Return the continuous ranked probability score of Gaussian predictions, in units of the values; small is good.

    σ (z (2 Φ(z) − 1) + 2 φ(z) − 1/√π), z = (truth − mean) / σ.

    Source: Gneiting and Raftery 2007, section 4.2.
    """
    sd = np.asarray(sd, dtype=np.float64)
    z = (np.asarray(truth, dtype=np.float64) - mean) / sd
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return np.asarray(sd * (z * erf(z / np.sqrt(2)) + 2 * density - 1 / np.sqrt(np.pi)))


def sample_crps(truth: NDArray[np.floating], draws: NDArray[np.floating]) -> FloatArray:
    """Return the CRPS of draws, (...): mean |x − truth| − ½ mean |x − x'| over different draws.

    Args:
        truth: (...).
        draws: (S, ...), S >= 2.
    """
    count = len(draws)
    ordered = np.sort(draws, axis=0)
    weight = (2 * np.arange(1, count + 1) - count - 1).reshape(-1, *[1] * truth.ndim)
    spread = (weight * ordered).sum(axis=0) / (count * (count - 1))  # half the mean difference of two draws
    return np.asarray(np.abs(draws - truth).mean(axis=0) - spread)


def energy_score(truth: NDArray[np.floating], draws: NDArray[np.floating]) -> FloatArray:
    """Return the energy score of draws of vectors, (n,): mean ‖x − truth‖ − ½ mean ‖x − x'‖ over different draws.

    Args:
        truth: (n, d).
        draws: (S, n, d), S >= 2.
    """
    count = len(draws)
    near = np.linalg.norm(draws - truth, axis=2).mean(axis=0)
    apart = np.zeros(len(truth))
    for one in draws:
        apart += np.linalg.norm(draws - one, axis=2).sum(axis=0)
    return np.asarray(near - apart / (2 * count * (count - 1)))

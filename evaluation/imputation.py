"""How good imputed values are, their stated uncertainty included: coverage of intervals and CRPS.

Neither is about single draws: a mean always has the smaller squared error, and says nothing of what it does not know.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, ndtr, ndtri

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


# --- numbers that cannot be below 0 ---

LOWEST, HIGHEST = -2.5, 8.0  # location / scale: 0 in 99.4 % of cases, which few patients cannot show; in none


def _rectified_moments(location: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of max(0, x), x ~ N(location, 1)."""
    above, density = ndtr(location), np.exp(-(location**2) / 2) / np.sqrt(2 * np.pi)
    mean = location * above + density
    return mean, np.sqrt((1 + location**2) * above + location * density - mean**2)


_LOCATIONS = np.linspace(LOWEST, HIGHEST, 2401)
_RATIOS = np.divide(*_rectified_moments(_LOCATIONS))  # mean / standard deviation; it ascends


def rectified(mean: NDArray[np.floating], sd: NDArray[np.floating]) -> tuple[FloatArray, FloatArray]:
    """Return location and scale of the Gaussian x for which max(0, x) has a mean and a standard deviation.

    A number that cannot be below 0, and is 0 often, such as a feature after a ReLU, is max(0, x) and no Gaussian. Means
    so near to 0, or below, that x would be positive in less than 1 of 160 cases keep the standard deviation only.

    Args:
        mean: any shape.
        sd: of a shape that broadcasts, > 0.

    Source: Tobin 1958 (censored at 0), by its first two moments.
    """
    ratio = np.asarray(mean, dtype=np.float64) / sd
    location = np.interp(ratio, _RATIOS, _LOCATIONS)
    scale = sd / _rectified_moments(location)[1]
    return np.where(ratio < HIGHEST, location, ratio) * scale, scale


def rectified_crps(truth: NDArray[np.floating], mean: NDArray[np.floating], sd: NDArray[np.floating]) -> FloatArray:
    """Return the CRPS of `rectified` predictions of this mean and spread: that of x without what it counts below 0.

    Source: Gneiting and Raftery 2007, equation 20: ∫ (F(t) − 1{truth ≤ t})² dt, where F is 0 below 0.
    """
    location, scale = rectified(mean, sd)
    z, seen = -location / scale, np.maximum(truth, 0)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    below = z * ndtr(z) ** 2 + 2 * density * ndtr(z) - ndtr(np.sqrt(2) * z) / np.sqrt(np.pi)
    return gaussian_crps(seen, location, scale) - scale * below + (seen - truth)


def rectified_coverage(
    truth: NDArray[np.floating],
    mean: NDArray[np.floating],
    sd: NDArray[np.floating],
    levels: Sequence[float] = LEVELS,
    *,
    closed: bool = False,
) -> FloatArray:
    """Return the share of true values inside of each central interval of `rectified` predictions, (levels,).

    The 0 has a probability p of its own, so that no closed interval that ends at 0 holds exactly a level. A true 0
    counts as if it lay anywhere among the lowest p of the distribution: by the part of [0, p] that is in the interval.
    So the share is the level, in expectation, whenever the distribution is right.

    Args:
        truth: any shape.
        mean: of the same shape, or one that broadcasts.
        sd: likewise, > 0.
        levels: in (0, 1).
        closed: count a true 0 as inside whenever the interval ends at 0, so that the share exceeds the level.

    Source: Czado, Gneiting and Held 2009, equation 2 (probability integral transform that is not randomised).
    """
    location, scale = rectified(mean, sd)
    place = ndtr((truth - location) / scale)
    zero = np.maximum(ndtr(-location / scale), np.finfo(np.float64).tiny)
    found = []
    for level in levels:
        tail = (1 - level) / 2
        inside = (np.abs(place - 0.5) <= level / 2) & (truth > 0)
        at_zero = zero > tail if closed else (np.clip(zero, tail, 1 - tail) - tail) / zero
        found.append(float(np.where(truth == 0, at_zero, inside).mean()))
    return np.array(found)

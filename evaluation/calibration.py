"""Temperature scaling: calibrate probabilities without changing any decision.

One number T for all classes: softmax(logits / T). T > 1 flattens the probabilities, T < 1 sharpens them; the largest
stays the largest.

Source: Guo et al., On Calibration of Modern Neural Networks (2017), section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from evaluation.conformal import finite

FloatArray = npt.NDArray[np.float64]

FEWEST = 10  # observations; one number can be fitted to fewer, but not so that it helps
LOWEST, HIGHEST = 0.05, 20.0  # temperatures


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature.

    Attributes:
        value: T, in [0.05, 20]; 1.0 where none could be fitted.
        n: observations that it was fitted on.
        nll_before: mean negative log-likelihood of their true classes at T = 1, nats.
        nll_after: the same at `value`.
        reason: why `value` is not the optimum, or "".
    """

    value: float
    n: int
    nll_before: float
    nll_after: float
    reason: str = ""


def apply_temperature(probabilities: npt.ArrayLike, temperature: float) -> FloatArray:
    """Return calibrated probabilities, softmax(log p / T), which is softmax(logits / T) whatever the logits of p were.

    Args:
        probabilities: (n, K), rows that sum to 1.
        temperature: T > 0.

    Returns:
        (n, K), float64, rows that sum to 1; at T = 1 the values of `probabilities`.

    Raises:
        ValueError: T is not a positive number, or a probability is not a finite one.
    """
    if not 0 < temperature < np.inf:
        raise ValueError(f"the temperature is {temperature}; expected a positive number, 1.0 to change nothing")
    p = finite(probabilities, "a probability")
    with np.errstate(divide="ignore"):  # a probability of 0 stays 0
        scaled = np.log(p) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def log_loss(probabilities: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the mean negative log-likelihood of the true classes, nats; infinite if one has probability 0.

    Args:
        probabilities: (n, K).
        truth: (n,) integers, 0 to K - 1.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return float(-np.log(p[np.arange(len(p)), np.asarray(truth)]).mean())


def calibration_error(probabilities: npt.ArrayLike, truth: npt.ArrayLike, *, bins: int = 10) -> float:
    """Return the expected calibration error: how far probabilities lie from frequencies, weighted mean over bins.

    Two classes: the probability of class 1 against the share of class 1. More: the largest probability against the
    share of right decisions.

    Args:
        probabilities: (n, K).
        truth: (n,) integers, 0 to K - 1.
        bins: of equal width, over [0, 1]; a bin holds its lower end, the last one both.

    Returns:
        From 0, calibrated as far as bins can tell, to 1; NaN without a row.

    Source: Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning (2015), section 3.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(truth, dtype=np.int64)
    if not len(y):
        return np.nan
    said, right = (p[:, 1], y == 1) if p.shape[1] == 2 else (p.max(axis=1), p.argmax(axis=1) == y)
    place = np.minimum((said * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, weights=right - said, minlength=bins)  # of a bin: rows × (share - mean probability)
    return float(np.abs(gaps).sum() / len(y))


def fit_temperature(probabilities: npt.ArrayLike, truth: npt.ArrayLike, *, fewest: int = FEWEST) -> Temperature:
    """Find the T with the smallest log loss, on observations that the model was not trained on.

    The loss is convex in 1 / T, so the root of its derivative is the optimum. T stays 1.0, with a reason, where the
    data cannot say: too few observations, one class only, or none decided wrong, in which case the loss falls on and
    on as T goes to 0, and a fit would make a handful of lucky cases into certainty.

    Args:
        probabilities: (n, K), uncalibrated.
        truth: (n,) integers, 0 to K - 1.
        fewest: observations needed.
    """
    p, y = finite(probabilities, "a probability"), np.asarray(truth, dtype=np.int64)
    before = log_loss(p, y) if len(y) else np.nan
    if len(y) < fewest:
        return Temperature(1.0, len(y), before, before, f"{len(y)} observations, at least {fewest} needed")
    if len(np.unique(y)) < 2:
        return Temperature(1.0, len(y), before, before, "all observations are of one class")
    logits = np.log(np.clip(p, np.finfo(np.float64).tiny, None))
    if (logits[np.arange(len(y)), y] >= logits.max(axis=1)).all():
        return Temperature(1.0, len(y), before, before, "no observation was decided wrong, so no T is the best")

    def slope(inverse: float) -> float:  # of the mean loss by 1 / T
        scaled = apply_temperature(p, 1 / inverse)
        return float(((scaled * logits).sum(axis=1) - logits[np.arange(len(y)), y]).mean())

    lowest, highest = 1 / HIGHEST, 1 / LOWEST
    reason = ""
    if slope(lowest) >= 0:
        value, reason = HIGHEST, "the probabilities say nothing of the class, so they are made nearly equal"
    elif slope(highest) <= 0:
        value, reason = LOWEST, f"the optimum lies below {LOWEST}"
    else:
        value = 1 / float(brentq(slope, lowest, highest, xtol=1e-12))
    return Temperature(value, len(y), before, log_loss(apply_temperature(p, value), y), reason)

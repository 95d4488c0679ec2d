"""Outlier detection: the distance of a new scan from the training scans of a model.

A feature map (C, H, W) is reduced to its C channel means. Their Mahalanobis distance from the training scans of the
same modality is compared with that of calibration scans: the share that lies at least as far is a p-value without any
assumption on the shape of the distribution.

Source: Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples (2018), with one cloud a
modality in place of one a class; Ledoit and Wolf (2004) for the covariance; Bates et al., Testing for Outliers with
Conformal p-values (2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.covariance import LedoitWolf

from evaluation.conformal import finite

FloatArray = npt.NDArray[np.float64]

FEWEST = 8  # training scans of a modality; a mean of fewer would come close to being one patient's
RATE = 0.05  # of usual patients that may be flagged, unless another is asked for
_ROUNDING = 1e-12  # of a product of rates, as a share
_LEAST_SPREAD = 0.01  # of a channel, as a share of the mean spread; some channels never fire


@dataclass(frozen=True)
class Reference:
    """The distribution of the training scans of one modality. It holds no single scan.

    Attributes:
        mean: of channel means, (C,), float32.
        precision: inverse covariance, (C, C), float32.
        n: training scans.
    """

    mean: npt.NDArray[np.float32]
    precision: npt.NDArray[np.float32]
    n: int


def fit_reference(channel_means: npt.ArrayLike, *, fewest: int = FEWEST) -> Reference:
    """Describe the training scans of a modality.

    Channels are brought to one spread first, so that the covariance is shrunk towards a diagonal of their variances and
    not towards one variance for all.

    Args:
        channel_means: (n, C).
        fewest: scans needed.

    Raises:
        ValueError: fewer scans, or all alike.
    """
    x = finite(channel_means, "a channel mean")
    if len(x) < fewest:
        raise ValueError(f"{len(x)} training scans, at least {fewest} needed")
    spread = x.std(axis=0)
    if not spread.mean() > 0:
        raise ValueError(f"all {len(x)} training scans have the same channel means")
    spread = np.maximum(spread, _LEAST_SPREAD * spread.mean())
    precision = LedoitWolf().fit((x - x.mean(axis=0)) / spread).precision_ / np.outer(spread, spread)
    return Reference(x.mean(axis=0).astype(np.float32), precision.astype(np.float32), len(x))


def distances(reference: Reference, channel_means: npt.ArrayLike) -> FloatArray:
    """Return Mahalanobis distances of scans from the training scans; channel_means (n, C) → (n,), float64, ≥ 0."""
    deviations = finite(channel_means, "a channel mean") - reference.mean
    squared = np.einsum("nc,cd,nd->n", deviations, reference.precision.astype(np.float64), deviations, optimize=True)
    return np.sqrt(np.maximum(squared, 0))


def share_farther(distance: float, held_out: npt.ArrayLike) -> float:
    """Return the conformal p-value (1 + number of calibration distances at least as large) / (m + 1), in (0, 1].

    Args:
        distance: of the new scan.
        held_out: (m,), distances of scans that the reference was not fitted on, one a subject.
    """
    others = np.asarray(held_out, dtype=np.float64)
    return float((1 + np.count_nonzero(others >= distance)) / (len(others) + 1))


def is_unusual(share: float, held_out: int, *, rate: float, scans: int) -> bool | None:
    """Tell whether a scan is flagged, so that at most `rate` of usual patients have any scan flagged.

    Each of a patient's scans is held to rate / scans (Bonferroni), whatever the scans have in common. They are alike,
    so a little fewer than `rate` are flagged.

    Args:
        share: as from `share_farther`.
        held_out: number of calibration scans of the modality.
        rate: of patients, in (0, 1).
        scans: of the patient that are compared, 1 or more.

    Returns:
        None where no share of `held_out` scans could be small enough.
    """
    if (held_out + 1) * rate < scans * (1 - _ROUNDING):
        return None
    return share * scans <= rate * (1 + _ROUNDING)

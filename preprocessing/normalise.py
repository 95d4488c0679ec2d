"""Intensity normalisation inside the brain mask; `cohort.modalities` names a method for each modality.

A method takes the volume (float32, any shape) and the mask (bool, same shape, True inside). It returns a volume in
[0, 1] inside the mask and 0 outside. A new one is a function and a row in `NORMALISATIONS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from preprocessing.errors import ScanError

if TYPE_CHECKING:  # the settings need the names, and are read without torch
    from collections.abc import Callable

    from torch import Tensor

PUBLISHED = "minmax"  # the default; it adds nothing to the key of a scan
FEW = 0.0001  # share of the voxels inside, at either end, that shall not decide the range: a vessel, a hot pixel
MOST_OF_RANGE = 0.5  # that so few may take without a remark
ROBUST_TAIL = 0.001  # share of the voxels inside that `minmax_robust` cuts off, at either end


def standardise(volume: Tensor, mask: Tensor) -> Tensor:
    """Compute (v - mean) / standard deviation of the voxels in the mask; 0 outside.

    Args:
        volume: float32, any shape.
        mask: bool, same shape, True inside.

    Raises:
        ScanError: the mask is empty, or all voxels in it are equal.
    """
    inside = _inside(volume, mask)
    return ((volume - inside.mean()) / inside.std(correction=0)).where(mask, volume.new_zeros(()))


def rescale(volume: Tensor, mask: Tensor) -> Tensor:
    """Rescale to (v - min) / (max - min) of the voxels in the mask, so [0, 1] inside; 0 outside.

    Args:
        volume: float32, any shape.
        mask: bool, same shape, True inside.

    Raises:
        ScanError: the mask is empty, or all voxels in it are equal.
    """
    inside = _inside(volume, mask)
    low, high = inside.min(), inside.max()
    return ((volume - low) / (high - low)).where(mask, volume.new_zeros(()))


def minmax(volume: Tensor, mask: Tensor) -> Tensor:
    """Standardise, then rescale to [0, 1], as published; arguments and errors as above.

    Rescaling undoes any scale and shift, that of `standardise` included; both steps are kept as in the paper.

    Source:
        HyperMM, section 3.1.
    """
    return rescale(standardise(volume, mask), mask)


def minmax_robust(volume: Tensor, mask: Tensor) -> Tensor:
    """Rescale so that the percentiles 0.1 and 99.9 inside become 0 and 1, and clip what lies beyond.

    A few hot voxels then leave the contrast of all others as it is. A percentile is the voxel of the nearest rank.

    Raises:
        ScanError: the mask is empty, or the two percentiles are equal.
    """
    inside = _inside(volume, mask).cpu().numpy()
    ranks = [round(share * (inside.size - 1)) for share in (ROBUST_TAIL, 1 - ROBUST_TAIL)]
    low, high = np.partition(inside, ranks)[ranks].tolist()
    if low == high:
        raise ScanError(f"the percentiles 0.1 and 99.9 inside the brain mask are both {low:g}; set normalise: minmax")
    return ((volume - low) / (high - low)).clamp_(0, 1).where(mask, volume.new_zeros(()))


NORMALISATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    PUBLISHED: minmax,
    "minmax_robust": minmax_robust,
}


def range_used(volume: Tensor, normalised: Tensor, mask: Tensor) -> tuple[float, float]:
    """Return the intensities that became the lowest and the highest value inside the mask.

    Args:
        volume: float32, any shape.
        normalised: what a method made of it.
        mask: bool, same shape, True inside.
    """
    before, after = volume[mask], normalised[mask]
    return float(before[after == after.min()].max()), float(before[after == after.max()].min())


def few_decide(volume: Tensor, mask: Tensor) -> str:
    """Return a remark if the highest or the lowest 0.01 % inside the mask take most of min-max's range, else ""."""
    inside = _inside(volume, mask).cpu().numpy()
    few = max(1, round(FEW * inside.size))
    if inside.size <= 2 * few:
        return ""
    ranks = [0, few, inside.size - 1 - few, inside.size - 1]
    lowest, low, high, highest = np.partition(inside, ranks)[ranks].tolist()
    shares = {"brightest": (highest - high) / (highest - lowest), "darkest": (low - lowest) / (highest - lowest)}
    which = max(shares, key=lambda name: shares[name])
    if shares[which] <= MOST_OF_RANGE:
        return ""
    return (
        f"few voxels decide the range: the {which} 0.01 % of the brain take {shares[which]:.0%} of it and leave the "
        f"rest to all others; normalise: minmax_robust cuts them off"
    )


def _inside(volume: Tensor, mask: Tensor) -> Tensor:
    inside = volume[mask]
    if inside.numel() == 0:
        raise ScanError("the brain mask is empty; look at the scan: is it a whole head, and upright?")
    if float(inside.max() - inside.min()) == 0:
        raise ScanError(f"every voxel inside the brain mask is {float(inside[0]):g}; min-max needs two values")
    return inside

"""An invisible, keyed mark in synthetic and imputed images: whoever has the key can show that they are synthetic.

The pattern of `synthesis.mark_pattern` is laid over the image at a place that differs from file to file, stronger where
the image has contrast of its own, and as strong as the peak signal-to-noise ratio allows. The detector
(`synthesis.mark_detection`) looks at every place, so it need not know it.
"""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from synthesis.mark_pattern import PIXEL, STEP, MarkError, derived, key_signs, pattern

PSNR_DB = 39.6  # of the marked image inside the mask; rounding and clipping may take up to 0.6 dB
GREYS = 255.0  # peak of a picture, but at most twice its own range: a pale one stays pale
CONTRAST = 8.0  # units: standard deviation of the window that local contrast is measured in
LEAST, MOST = 0.35, 2.0  # of the median contrast: flat tissue gets some of the mark, edges not all of it
TAILS = (0.1, 99.9)  # percentiles inside the mask that count as its range: one hot voxel does not make the mark visible


def mark_volume(
    volume: NDArray[np.floating],
    mask: NDArray[np.bool_],
    affine: NDArray[np.float64],
    *,
    key: bytes,
    batch: str,
) -> NDArray[np.float32]:
    """Return a volume with the mark of a key.

    Args:
        volume: (X, Y, Z), any intensities.
        mask: (X, Y, Z), True inside the brain; nothing else is changed.
        affine: voxel to world, (4, 4), mm.
        key: at least 32 bytes, secret.
        batch: what is marked together; whoever verifies has to know it.

    Returns:
        (X, Y, Z), within the range of intensities that the volume has inside the mask.

    Raises:
        MarkError: the mask is empty, the volume is constant in it, or its voxels are too coarse.
        ValueError: the key is too short.
    """
    steps = affine[:3, :3]
    contrast = local_contrast(volume, mask, [CONTRAST / size for size in np.linalg.norm(steps, axis=0)])
    added = _pattern_at(np.argwhere(mask) @ steps.T, steps, key, batch, _hash(volume))
    inside = volume[mask]
    limits = (float(inside.min()), float(inside.max()))
    return _added(volume, mask, added * contrast[mask], peak=_range(inside), limits=limits)


def mark_picture(
    pixels: NDArray[np.uint8], *, key: bytes, batch: str, mask: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Return a picture with the mark of a key; all colours of a pixel change alike.

    Args:
        pixels: (H, W) or (H, W, 3).
        key: at least 32 bytes, secret.
        batch: what is marked together; whoever verifies has to know it.
        mask: (H, W), where it may change; None: everywhere.

    Raises:
        MarkError: the picture is constant where it may change.
        ValueError: the key is too short.
    """
    grey = pixels.mean(axis=2, dtype=np.float32) if pixels.ndim == 3 else pixels.astype(np.float32)
    inside = np.ones(grey.shape, dtype=bool) if mask is None else mask
    steps = PIXEL * np.eye(2)
    contrast = local_contrast(grey, inside, [CONTRAST / PIXEL] * 2)
    added = _pattern_at(np.argwhere(inside) @ steps.T, steps, key, batch, _hash(pixels))
    peak = min(GREYS, 2 * _range(grey[inside]))
    change = _added(grey, inside, added * contrast[inside], peak=peak, limits=(-np.inf, np.inf)) - grey
    changed = pixels + (change[..., None] if pixels.ndim == 3 else change)
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def psnr_db(
    before: NDArray[np.generic], after: NDArray[np.generic], mask: NDArray[np.bool_], *, peak: float | None = None
) -> float:
    """Return the peak signal-to-noise ratio inside a mask.

    Args:
        before: the image.
        after: marked, same shape.
        mask: same shape.
        peak: None takes the range between the percentiles 0.1 and 99.9; the whole range, as others take it, gives a
            higher figure.
    """
    inside, other = before[mask].astype(np.float64), after[mask].astype(np.float64)
    error = float(np.sqrt(np.mean((inside - other) ** 2)))
    return 20 * math.log10((_range(inside) if peak is None else peak) / error)


def local_contrast(values: NDArray[np.generic], mask: NDArray[np.bool_], sigma: list[float]) -> NDArray[np.float32]:
    """Return the standard deviation in a Gaussian window, of voxels inside the mask only, within bounds.

    Args:
        values: any number of axes.
        mask: same shape.
        sigma: of the window, voxels, one an axis.

    Returns:
        Same shape; from 0.35 to 2 of the median inside.

    Raises:
        MarkError: the mask is empty, or the values in it are equal.
    """
    if not mask.any():
        raise MarkError("the mask is empty: there is nothing to mark")
    inside = mask.astype(np.float32)
    centred = np.where(mask, values.astype(np.float32) - np.float32(values[mask].mean()), np.float32(0)).astype(
        np.float32
    )
    if not centred.any():
        raise MarkError(f"every value inside the mask is {float(values[mask][0]):g}: a mark would be all there is")
    weight = np.maximum(ndimage.gaussian_filter(inside, sigma), 1e-6)
    mean = ndimage.gaussian_filter(centred, sigma) / weight
    spread = np.sqrt(np.maximum(ndimage.gaussian_filter(centred**2, sigma) / weight - mean**2, 0))
    middle = max(float(np.median(spread[mask])), 1e-6 * float(np.abs(centred).max()))
    bounded: NDArray[np.float32] = np.clip(spread, LEAST * middle, MOST * middle).astype(np.float32)
    return bounded


def _pattern_at(
    places: NDArray[np.float64], steps: NDArray[np.float64], key: bytes, batch: str, content: str
) -> NDArray[np.float32]:
    """Return the pattern at places (n, axes), units, moved by what key, batch and content of the file say."""
    signs = key_signs(key, batch, places.shape[1])
    grid = pattern(signs, steps)
    numbers = np.frombuffer(derived(key, f"place in {batch}", content), dtype="<u4")[: places.shape[1]]
    moved = places / STEP + numbers / 2.0**32 * signs.shape[0]
    found: NDArray[np.float32] = ndimage.map_coordinates(grid, moved.T, order=3, mode="grid-wrap")
    return found


def _range(inside: NDArray[np.generic]) -> float:
    """Return the distance of the percentiles 0.1 and 99.9; of all values where that is 0."""
    low, high = np.percentile(inside.astype(np.float64), TAILS)
    return float(high - low) or float(inside.max() - inside.min())


def _added(
    values: NDArray[np.generic],
    mask: NDArray[np.bool_],
    added: NDArray[np.float32],
    *,
    peak: float,
    limits: tuple[float, float],
) -> NDArray[np.float32]:
    """Add the mark inside the mask, as strong as the ratio allows, and stay within limits."""
    strength = peak * 10 ** (-PSNR_DB / 20) / float(np.sqrt(np.mean(added.astype(np.float64) ** 2)))
    out = values.astype(np.float32)
    out[mask] = np.clip(out[mask] + np.float32(strength) * added, *limits)
    return out


def _hash(values: NDArray[np.generic]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()

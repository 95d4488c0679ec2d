"""An invisible, keyed mark in synthetic and imputed images: whoever has the key can show that they are synthetic.

The pattern of `synthesis.mark_pattern` is laid over the image where the image by chance agrees with it most, which is
elsewhere in every file; stronger where the image has contrast of its own, and as strong as the peak signal-to-noise
ratio allows. The detector (`synthesis.mark_detection`) looks at every place, so it need not know it.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from synthesis.mark_detection import correlations, noise_spectrum
from synthesis.mark_pattern import PIXEL, STEP, MarkError, key_signs, pattern
from synthesis.mark_views import Image, first_voxel, image_of_picture, image_of_volume, straight_view

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
    decibels: float = PSNR_DB,
) -> NDArray[np.float32]:
    """Return a volume with the mark of a key.

    Args:
        volume: (X, Y, Z), any intensities.
        mask: (X, Y, Z), True inside the brain; nothing else is changed.
        affine: voxel to world, (4, 4), mm.
        key: at least 32 bytes, secret.
        batch: what is marked together; whoever verifies has to know it.
        decibels: peak signal-to-noise ratio; more is a weaker mark, which is lost sooner (docs/results/watermark.md).

    Returns:
        (X, Y, Z), within the range of intensities that the volume has inside the mask.

    Raises:
        MarkError: the mask is empty, the volume is constant in it, or its voxels are too coarse.
        ValueError: the key is too short.
    """
    steps = affine[:3, :3]
    contrast = local_contrast(volume, mask, [CONTRAST / size for size in np.linalg.norm(steps, axis=0)])
    added = _pattern_over(image_of_volume(volume, affine), mask, key_signs(key, batch, 3))
    inside = volume[mask]
    limits = (float(inside.min()), float(inside.max()))
    return _added(volume, mask, added * contrast[mask], peak=_range(inside), limits=limits, decibels=decibels)


def mark_picture(
    pixels: NDArray[np.uint8],
    *,
    key: bytes,
    batch: str,
    mask: NDArray[np.bool_] | None = None,
    decibels: float = PSNR_DB,
) -> NDArray[np.uint8]:
    """Return a picture with the mark of a key; all colours of a pixel change alike.

    Args:
        pixels: (H, W) or (H, W, 3).
        key: at least 32 bytes, secret.
        batch: what is marked together; whoever verifies has to know it.
        mask: (H, W), where it may change; None: everywhere.
        decibels: as for a volume.

    Raises:
        MarkError: the picture is constant where it may change.
        ValueError: the key is too short.
    """
    grey = pixels.mean(axis=2, dtype=np.float32) if pixels.ndim == 3 else pixels.astype(np.float32)
    inside = np.ones(grey.shape, dtype=bool) if mask is None else mask
    contrast = local_contrast(grey, inside, [CONTRAST / PIXEL] * 2)
    added = _pattern_over(image_of_picture(pixels), inside, key_signs(key, batch, 2))
    peak = min(GREYS, 2 * _range(grey[inside]))
    unlimited = (-np.inf, np.inf)
    change = _added(grey, inside, added * contrast[inside], peak=peak, limits=unlimited, decibels=decibels) - grey
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


def best_place(image: Image, signs: NDArray[np.int8]) -> NDArray[np.float64]:
    """Return the place of the pattern, in points of its grid at voxel 0, where it agrees most with an image.

    Agreement that is there by chance helps the mark for nothing: some four standard deviations.
    """
    noise = noise_spectrum(torch.from_numpy(signs).float())[None]
    field = correlations(straight_view(image).spectrum, noise, signs.ndim, finer=2)[0]
    best = np.unravel_index(int(field.argmax()), field.shape)
    return np.array(best) * signs.shape[0] / np.array(field.shape) + first_voxel(image)


def _pattern_over(image: Image, mask: NDArray[np.bool_], signs: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return the pattern at the places of the voxels inside a mask, (n,)."""
    grid = pattern(signs, image.steps)
    places = np.argwhere(mask) @ image.steps.T / STEP + best_place(image, signs)
    found: NDArray[np.float32] = ndimage.map_coordinates(grid, places.T, order=3, mode="grid-wrap")
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
    decibels: float,
) -> NDArray[np.float32]:
    """Add the mark inside the mask, as strong as the ratio allows, and stay within limits."""
    strength = peak * 10 ** (-decibels / 20) / float(np.sqrt(np.mean(added.astype(np.float64) ** 2)))
    out = values.astype(np.float32)
    out[mask] = np.clip(out[mask] + np.float32(strength) * added, *limits)
    return out

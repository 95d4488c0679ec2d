"""Is the mark of a key in this image? A figure z, and a p that holds for every image.

The correlation of the image (`synthesis.mark_views`) with the key's noise is computed for all places at once (FFT),
first as the image lies, then mirrored, turned and, for pictures, resized.

p: for an image that has nothing to do with the key, the correlation is a weighted sum of independent ±1. Its tail is at
most 3.18 times that of a normal distribution, whatever the weights, and thus whatever the image. The bound is
multiplied by the number of correlations that were looked at.

Source: Bentkus & Dzindzalieta 2015, "A tight Gaussian bound for weighted sums of Rademacher random variables".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_ndtr
from torch import Tensor

from synthesis.mark_pattern import SHORTEST_KEY, key_signs
from synthesis.mark_views import (
    ASLANT,
    Image,
    View,
    coarse,
    cropped,
    mirror_offset,
    straight_view,
    turned_views,
    turns,
)

RADEMACHER = 1 / (4 * math.exp(log_ndtr(-math.sqrt(2))))  # 3.18, the constant of the bound
ENOUGH = 1e-9  # p at which no further turns and sizes are tried
CLOSER = 8  # views that are looked at on a finer grid


@dataclass(frozen=True)
class Found:
    """What the detector says of one image and one key.

    Attributes:
        z: the largest correlation, of either sign, in standard deviations of an image without this mark.
        p: how often an image without this mark gets so large a z, at most.
        how: how the image had to be turned, mirrored or resized.
    """

    z: float
    p: float
    how: str


def detect(image: Image, key: bytes, batches: Sequence[str], *, thorough: bool = True) -> Found:
    """Look for the mark of a key.

    Args:
        image: as `image_of_volume` or `image_of_picture` return it.
        key: at least 32 bytes.
        batches: what may have been marked together; p is corrected for their number.
        thorough: also try turns, mirrors and sizes where the mark is not found as the image lies.

    Returns:
        The most improbable finding; p is at most 1.

    Raises:
        ValueError: the key is too short, or no batch is named.
    """
    if len(key) < SHORTEST_KEY or not batches:
        raise ValueError(f"expected a key of at least {SHORTEST_KEY} bytes and at least one batch")
    axes = image.values.ndim
    noise = [torch.from_numpy(key_signs(key, batch, axes)).float() for batch in batches]
    plain = torch.stack([noise_spectrum(one) for one in noise])
    z = float(correlations(straight_view(image).spectrum, plain, axes, finer=2).abs().max())
    best = Found(z, corrected_p(z, trials(axes, len(batches))), "")
    if best.p <= ENOUGH or not thorough:
        return best
    mirrored = mirrors(axes)
    all_spectra = torch.stack([noise_spectrum(mirror(one)) for one in noise for _, mirror in mirrored])
    number_of_trials = trials(axes, len(turns(axes)) * len(all_spectra))
    offsets, groups = _groups(image, [mirror for _, mirror in mirrored], len(noise))
    candidates: list[tuple[float, View, int]] = []
    for views in zip(*(turned_views(image, offset) for offset in offsets), strict=True):
        for view, numbers in zip(views, groups, strict=True):
            largest = correlations(view.spectrum, all_spectra[numbers], axes, finer=1).abs().flatten(1).amax(1)
            candidates += [(float(z), view, number) for number, z in zip(numbers, largest, strict=True)]
        candidates = sorted(candidates, key=lambda each: -each[0])[:CLOSER]
        if corrected_p(candidates[0][0], number_of_trials) <= ENOUGH:
            candidates = candidates[:1]
            break
    for _, view, number in candidates:
        z = float(correlations(view.spectrum, all_spectra[number : number + 1], axes, finer=2).abs().max())
        how = ", ".join(filter(None, (mirrored[number % len(mirrored)][0], view.how)))
        best = min(best, Found(z, corrected_p(z, number_of_trials), how), key=lambda found: (found.p, -found.z))
    return best


def _groups(
    image: Image, mirrored: Sequence["Mirror"], batches: int
) -> tuple[list[NDArray[np.float64]], list[list[int]]]:
    """Return turns that come before all others, and for each the numbers of the spectra that are looked for in it.

    There is one, no turn at all, unless the image's own axes lie aslant.
    """
    offsets: list[NDArray[np.float64]] = []
    groups: list[list[int]] = []
    for number, mirror in enumerate(mirrored):
        offset = mirror_offset(image, mirror.which)
        same = [i for i, each in enumerate(offsets) if np.abs(each - offset).max() < ASLANT]
        if not same:
            offsets.append(offset)
            groups.append([])
        groups[same[0] if same else -1] += [batch * len(mirrored) + number for batch in range(batches)]
    return offsets, groups


def trials(axes: int, views: int) -> float:
    """Return the number of correlations looked at, on the finer grid: two signs and two rounds of views."""
    return 4.0 * views * (2 * coarse(axes)) ** axes


def corrected_p(z: float, number: float) -> float:
    """Return the largest chance that one of so many correlations reaches z without a mark.

    Args:
        z: at least 0.
        number: of correlations.
    """
    return min(1.0, math.exp(min(0.0, math.log(RADEMACHER * number) + float(log_ndtr(-z)))))


def threshold(p: float, number: float) -> float:
    """Return the z at which `corrected_p` is p."""
    low, high = 0.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if corrected_p(middle, number) > p else (low, middle)
    return high


def noise_spectrum(noise: Tensor) -> Tensor:
    """Return the spectrum of noise on the pattern's grid, as far as the band goes."""
    return cropped(torch.fft.rfftn(noise), noise.shape[0], noise.ndim)


def correlations(view: Tensor, noises: Tensor, axes: int, *, finer: int) -> Tensor:
    """Return the correlation of one view with several noises at all places.

    Args:
        view: spectrum of a `View`.
        noises: (n, …), spectra as `noise_spectrum` returns them.
        axes: of the image.
        finer: 1 for a grid of 3 units, 2 for one of 1.5.

    Returns:
        (n, places along each axis …); standard normal at each place for other noise.
    """
    points = coarse(axes)
    spectrum = noises * view.conj()
    if finer > 1:
        spectrum = _padded(spectrum, points, points * finer, axes)
    shape = (points * finer,) * axes
    return torch.fft.irfftn(spectrum, s=shape, dim=tuple(range(-axes, 0))) * float(math.prod(shape))


def mirrors(axes: int) -> list[tuple[str, "Mirror"]]:
    """Return names and functions that mirror the noise; of pictures also quarter turns."""
    names = {3: ("left-right", "back-front", "top-bottom"), 2: ("top-bottom", "left-right")}[axes]
    found = []
    for swapped in (False, True) if axes == 2 else (False,):
        for chosen in product((False, True), repeat=axes):
            which = tuple(axis for axis, on in enumerate(chosen) if on)
            words = [f"mirrored {' and '.join(names[axis] for axis in which)}"] * bool(which)
            words += ["rows and columns swapped"] * swapped
            found.append((", ".join(words), Mirror(which, swapped)))
    return found


@dataclass(frozen=True)
class Mirror:
    """Mirror noise along axes, and swap rows and columns."""

    which: tuple[int, ...]
    swapped: bool

    def __call__(self, noise: Tensor) -> Tensor:
        """Return the mirrored noise."""
        mirrored = noise.flip(self.which) if self.which else noise
        return mirrored.transpose(-1, -2) if self.swapped else mirrored


def _padded(spectra: Tensor, old: int, new: int, axes: int) -> Tensor:
    """Put spectra (n, …) of the coarse grid among zeros, for a finer one."""
    half = old // 2
    shape = (spectra.shape[0], *([new] * (axes - 1)), new // 2 + 1)
    out = torch.zeros(shape, dtype=spectra.dtype)
    for signs in product((0, 1), repeat=axes - 1):
        source = tuple(slice(half) if sign == 0 else slice(half, old) for sign in signs)
        target = tuple(slice(half) if sign == 0 else slice(new - half, new) for sign in signs)
        out[(slice(None), *target, slice(half + 1))] = spectra[(slice(None), *source)]
    return out

"""Is the mark of a key in this image? A figure z, and a p that holds for every image.

The image is brought to the pattern's grid, band-passed, divided by its local strength and, in the spectrum, by its mean
strength at that wavelength. Its correlation with the key's noise is computed for all places at once (FFT), first as it
lies, then mirrored, turned and, for pictures, resized.

p: for an image that has nothing to do with the key, the correlation is a weighted sum of independent ±1. Its tail is at
most 3.18 times that of a normal distribution, whatever the weights, and thus whatever the image. The bound is multiplied
by the number of correlations that were looked at.

Source: Bentkus & Dzindzalieta 2015, "A tight Gaussian bound for weighted sums of Rademacher random variables".
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_ndtr
from torch import Tensor

from preprocessing.resample import apply_axis, axis_weights
from synthesis.mark_pattern import POINTS, SHORTEST_KEY, STEP, band, frequencies, key_signs, magnitude, picture_unit

RADEMACHER = 1 / (4 * math.exp(log_ndtr(-math.sqrt(2))))  # 3.18, the constant of the bound
ENOUGH = 1e-9  # p at which no further turns and sizes are tried
WINDOW = 8.0  # units: standard deviation of the window of the local strength
FLOOR = 0.1  # of the mean strength, below which an image counts as empty
LONGEST_PAD = 24.0  # units around the image, so that its opposite sides do not meet
RINGS = 24  # of wavelengths, between the centre and the edge of the spectrum
CLOSER = 8  # views that are looked at on a finer grid
TURNS_3D = (-6.0, -3.0, 0.0, 3.0, 6.0)  # degrees about each axis, together at most
MOST_3D = 7.5
TURNS_2D = (-6.0, -4.5, -3.0, -1.5, 0.0, 1.5, 3.0, 4.5, 6.0)
SIZES = tuple(1.02**n for n in range(-40, 41))  # of a picture: 0.45 to 2.2 of what it was marked at


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


@dataclass(frozen=True)
class View:
    """A spectrum of an image in one position, ready to be correlated.

    Attributes:
        spectrum: complex64, of the frequencies that the band has, norm 1.
        how: in words; "" as it lies.
    """

    spectrum: Tensor
    how: str


@dataclass(frozen=True)
class Image:
    """An image on a grid of its own.

    Attributes:
        values: float32, (X, Y, Z) or (H, W).
        steps: (axes, axes): a step along each axis of the image in its columns; mm, or pixels.
    """

    values: Tensor
    steps: NDArray[np.float64]


def image_of_volume(volume: NDArray[np.generic], affine: NDArray[np.float64]) -> Image:
    """Return a volume (X, Y, Z) with its voxel-to-world affine (4, 4), mm, as the detector takes it."""
    return Image(torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32)), affine[:3, :3].astype(np.float64))


def image_of_picture(pixels: NDArray[np.generic]) -> Image:
    """Return a picture (H, W) or (H, W, 3) as the detector takes it; of colours, their mean."""
    grey = pixels.mean(axis=2, dtype=np.float32) if pixels.ndim == 3 else pixels.astype(np.float32)
    return Image(torch.from_numpy(np.ascontiguousarray(grey)), np.eye(2))


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
    noise = [torch.from_numpy(key_signs(key, batch, axes).astype(np.float32)) for batch in batches]
    plain = torch.stack([noise_spectrum(one) for one in noise])
    best = Found(0.0, 1.0, "")
    straight = list(straight_views(image))
    for view in straight:
        z = float(correlations(view.spectrum, plain, axes, finer=2).abs().max())
        p = corrected_p(z, trials(axes, len(straight) * len(batches)))
        best = min(best, Found(z, p, view.how), key=lambda found: (found.p, -found.z))
    if best.p <= ENOUGH or not thorough:
        return best
    mirrored = mirrors(axes)
    all_spectra = torch.stack([noise_spectrum(mirror(one)) for one in noise for _, mirror in mirrored])
    number_of_trials = trials(axes, len(turns(axes)) * len(all_spectra))
    candidates: list[tuple[float, View, int]] = []
    for view in turned_views(image):
        largest = correlations(view.spectrum, all_spectra, axes, finer=1).abs().flatten(1).amax(1)
        candidates += [(float(z), view, number) for number, z in enumerate(largest)]
        candidates = sorted(candidates, key=lambda each: -each[0])[:CLOSER]
        if corrected_p(candidates[0][0], number_of_trials) <= ENOUGH:
            candidates = candidates[:1]
            break
    for _, view, number in candidates:
        z = float(correlations(view.spectrum, all_spectra[number : number + 1], axes, finer=2).abs().max())
        how = ", ".join(filter(None, (mirrored[number % len(mirrored)][0], view.how)))
        best = min(best, Found(z, corrected_p(z, number_of_trials), how), key=lambda found: (found.p, -found.z))
    return best


def trials(axes: int, views: int) -> float:
    """Return the number of correlations looked at, on the finer grid: two signs and two rounds of views."""
    return 4.0 * views * (2 * _coarse(axes)) ** axes


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
    return _cropped(torch.fft.rfftn(noise), noise.shape[0], noise.ndim)


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
    coarse = _coarse(axes)
    spectrum = noises * view.conj()
    if finer > 1:
        spectrum = _padded(spectrum, coarse, coarse * finer, axes)
    shape = (coarse * finer,) * axes
    return torch.fft.irfftn(spectrum, s=shape, dim=tuple(range(-axes, 0))) * float(math.prod(shape))


def straight_views(image: Image) -> Iterator[View]:
    """Yield the image as it lies; a picture at its own unit, and at the other one that it may have been marked with."""
    axes = image.values.ndim
    own = 1.0 if axes == 3 else picture_unit(*image.values.shape)
    for unit in (own,) if axes == 3 else (own, 1.5 - own):
        yield View(_spectrum(*_whitened(image, unit), np.eye(axes)), "" if unit == own else "resized")


def turns(axes: int) -> list[tuple[float, tuple[float, ...]]]:
    """Return size and turn (degrees) of all views, the least changed ones first."""
    if axes == 3:
        vectors = [each for each in product(TURNS_3D, repeat=3) if np.linalg.norm(each) <= MOST_3D]
        return [(1.0, each) for each in sorted(vectors, key=lambda each: float(np.linalg.norm(each)))]
    pairs = [(size, (angle,)) for size in SIZES for angle in TURNS_2D]
    return sorted(pairs, key=lambda each: (abs(math.log(each[0])), abs(each[1][0])))


def turned_views(image: Image) -> Iterator[View]:
    """Yield the image turned by up to 7.5°; a picture also resized."""
    last, values, steps = 0.0, image.values, image.steps
    for size, degrees in turns(image.values.ndim):
        if size != last:
            last, (values, steps) = size, _whitened(image, size)
        words = [f"resized to {size:.0%}"] * (abs(size - 1) > 0.01) + [_turned(degrees)] * any(degrees)
        yield View(_spectrum(values, steps, _rotation(degrees)), ", ".join(words))


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


def _turned(degrees: Sequence[float]) -> str:
    return f"turned by {float(np.linalg.norm(degrees)):.1f}°" if any(degrees) else ""


def _rotation(degrees: Sequence[float]) -> NDArray[np.float64]:
    """Return the rotation matrix of a rotation vector, or of an angle in the plane. Source: Rodrigues' formula."""
    angle = np.radians(np.linalg.norm(degrees))
    if len(degrees) == 1:
        angle = np.radians(degrees[0])
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if angle == 0:
        return np.eye(3)
    x, y, z = np.radians(degrees) / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn: NDArray[np.float64] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turn


def _whitened(image: Image, unit: float) -> tuple[Tensor, NDArray[np.float64]]:
    """Bring an image to steps of 2 units along its own axes, band-pass it and divide by its local strength."""
    values = image.values - image.values.mean()
    sizes = np.linalg.norm(image.steps, axis=0)
    for axis, size in enumerate(sizes):
        step = STEP * unit / float(size)
        positions = torch.arange(int((values.shape[axis] - 1) / step) + 1, dtype=torch.float64) * step
        values = apply_axis(values, axis_weights(values.shape[axis], positions, step=step), axis)
    margin = int(LONGEST_PAD / STEP)
    shape = [_good_size(size + 2 * margin) for size in values.shape]
    each = [
        torch.fft.fftfreq(size, d=STEP).reshape([-1 if axis == other else 1 for other in range(len(shape))])
        for axis, size in enumerate(shape)
    ]
    each[-1] = torch.fft.rfftfreq(shape[-1], d=STEP)
    length = magnitude(each)
    padded = _padded_by_edge(values, shape, margin)
    passed = torch.fft.irfftn(torch.fft.rfftn(padded) * band(length), s=shape)
    smooth = torch.exp(-2 * (math.pi * WINDOW * length) ** 2)
    local = torch.fft.irfftn(torch.fft.rfftn(passed**2) * smooth, s=shape).clamp(min=0)
    inner = tuple(slice(margin, margin + size) for size in values.shape)
    passed, local = passed[inner], local[inner]
    strong = local > 1e-6 * local.max()
    floor = FLOOR * float(local[strong].mean()) ** 0.5 if bool(strong.any()) else 1.0
    return passed / (local + floor**2).sqrt(), STEP * image.steps / sizes


def _padded_by_edge(values: Tensor, shape: Sequence[int], margin: int) -> Tensor:
    """Continue the outermost values of an image until it has a shape; its first `margin` samples are new."""
    for axis, size in enumerate(shape):
        index = (torch.arange(size) - margin).clamp(0, values.shape[axis] - 1)
        values = values.index_select(axis, index)
    return values


def _good_size(size: int) -> int:
    """Return the next size whose Fourier transform is fast."""
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1


def _spectrum(values: Tensor, steps: NDArray[np.float64], turn: NDArray[np.float64]) -> Tensor:
    """Turn an image to the pattern's axes, wrap it around its period, and whiten its spectrum.

    Args:
        values: any shape, steps of 2 units.
        steps: (axes, axes), a step along each axis in its columns; of length 2.
        turn: (axes, axes), applied before.
    """
    axes, points = values.ndim, POINTS[values.ndim]
    wrapped = _wrapped(_turned_onto(values, steps, turn), points)
    spectrum = _cropped(torch.fft.rfftn(wrapped), points, axes)
    coarse = _coarse(axes)
    each = [_crop_axis(one, axis, points, axes) for axis, one in enumerate(frequencies(points, axes))]
    length = magnitude(each)
    ring = (length * STEP * 2 * RINGS).long().clamp(max=2 * RINGS)
    count = torch.bincount(ring.flatten(), minlength=2 * RINGS + 1).clamp(min=1)
    weights = (spectrum.abs() ** 2).double().flatten()
    power = torch.bincount(ring.flatten(), weights=weights, minlength=2 * RINGS + 1) / count
    power = power.clamp(min=1e-4 * float(power.max()) + 1e-30)
    whitened = spectrum * (band(length) / power[ring].sqrt().float())
    twice = torch.full((coarse // 2 + 1,), 2.0)
    twice[0] = 1.0
    norm = float(((whitened.abs() ** 2).double() * twice).sum() * float(points**axes)) ** 0.5
    return whitened / max(norm, 1e-30)


def _turned_onto(values: Tensor, steps: NDArray[np.float64], turn: NDArray[np.float64]) -> Tensor:
    """Sample an image on a grid along the pattern's axes; zero outside, linear in between."""
    axes = values.ndim
    directions = steps / STEP
    if np.array_equal(turn, np.eye(axes)) and np.array_equal(directions, np.eye(axes)):
        return values
    sizes = np.array(values.shape)
    shape = np.rint(np.abs(directions) @ (sizes - 1)).astype(int) + 1
    back = np.linalg.inv(directions) @ turn
    index = []
    for axis in range(axes):
        place = torch.full((), (sizes[axis] - 1) / 2, dtype=torch.float32)
        for other, size in enumerate(shape):
            along = (torch.arange(int(size), dtype=torch.float32) - (size - 1) / 2) * float(back[axis, other])
            place = place + along.reshape([-1 if other == one else 1 for one in range(axes)])
        index.append(place * (2 / max(sizes[axis] - 1, 1)) - 1)
    grid = torch.stack([each.expand(tuple(map(int, shape))) for each in reversed(index)], dim=-1)
    sampled = torch.nn.functional.grid_sample(values[None, None], grid[None], mode="bilinear", align_corners=True)
    return sampled[0, 0]


def _wrapped(values: Tensor, points: int) -> Tensor:
    """Add up an image modulo the period of the pattern."""
    tiles = [math.ceil(size / points) for size in values.shape]
    pads = [(0, tile * points - size) for tile, size in zip(tiles, values.shape, strict=True)]
    padded = torch.nn.functional.pad(values, [each for pad in reversed(pads) for each in pad])
    shape = [each for tile in tiles for each in (tile, points)]
    return padded.reshape(shape).sum(dim=tuple(range(0, 2 * values.ndim, 2)))


def _coarse(axes: int) -> int:
    """Return the places along an axis of the coarse grid, which still holds every frequency below 1/6."""
    return POINTS[axes] * 2 // 3


def _cropped(spectrum: Tensor, points: int, axes: int) -> Tensor:
    """Keep the frequencies of a spectrum that the coarse grid has."""
    for axis in range(axes):
        spectrum = _crop_axis(spectrum, axis, points, axes)
    return spectrum


def _crop_axis(values: Tensor, axis: int, points: int, axes: int) -> Tensor:
    half = _coarse(axes) // 2
    if axis == axes - 1:
        return values.narrow(axis, 0, half + 1)
    return torch.cat([values.narrow(axis, 0, half), values.narrow(axis, points - half, half)], dim=axis)


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

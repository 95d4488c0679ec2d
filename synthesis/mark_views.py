"""An image as the detector of the watermark looks at it: on the pattern's grid, whitened, turned, as a spectrum.

It is brought to steps of 2 units, band-passed, divided by its local strength, turned, wrapped around the pattern's
period, and divided by its mean strength at each wavelength. A bright edge then counts no more than quiet tissue.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preprocessing.resample import apply_axis, axis_weights
from synthesis.mark_pattern import LONGEST, PIXEL, POINTS, STEP, band, frequencies, magnitude

WINDOW = 8.0  # units: standard deviation of the window of the local strength
FLOOR = 0.1  # of the mean strength, below which an image counts as empty
MARGIN = 1.5 * LONGEST  # units around the image, so that its opposite sides do not meet
RINGS = 24  # of wavelengths, between the centre and the edge of the spectrum
TURNS_3D = (-6.0, -3.0, 0.0, 3.0, 6.0)  # degrees about each axis, together at most
MOST_3D = 7.5
ASLANT = 0.01  # of the entries of a turn, about 0.6°, below which axes count as those of the world
TURNS_2D = (-6.0, -4.5, -3.0, -1.5, 0.0, 1.5, 3.0, 4.5, 6.0)
SIZES = tuple(1.02**n for n in range(-35, 36))  # of a picture: half to twice what it was marked at
LOOKED_AT = 2048  # pixels along a side, in the middle of a picture, that are looked at: all of it but for whole slides
SEARCHED = 384  # pixels along a side, in the middle of a picture, that are turned and resized


@dataclass(frozen=True)
class Image:
    """An image on a grid of its own.

    Attributes:
        values: float32, (X, Y, Z) or (H, W).
        steps: (axes, axes): a step along each axis of the image in its columns; units (mm, or half pixels).
    """

    values: Tensor
    steps: NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """A spectrum of an image in one position, ready to be correlated.

    Attributes:
        spectrum: complex64, of the frequencies that the band has, norm 1.
        how: in words; "" as it lies.
    """

    spectrum: Tensor
    how: str


def image_of_volume(volume: NDArray[np.generic], affine: NDArray[np.float64]) -> Image:
    """Return a volume (X, Y, Z) with its voxel-to-world affine (4, 4), mm, as the detector takes it."""
    return Image(torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32)), affine[:3, :3].astype(np.float64))


def image_of_picture(pixels: NDArray[np.generic]) -> Image:
    """Return a picture (H, W) or (H, W, 3) as the detector takes it; of colours, their mean."""
    grey = pixels.mean(axis=2, dtype=np.float32) if pixels.ndim == 3 else pixels.astype(np.float32)
    return Image(torch.from_numpy(np.ascontiguousarray(grey)), PIXEL * np.eye(2))


def straight_view(image: Image) -> View:
    """Return the image as it lies."""
    image = Image(_middle(image.values, LOOKED_AT), image.steps) if image.values.ndim == 2 else image
    return View(_spectrum(*_whitened(image, 1.0), np.eye(image.values.ndim)), "")


def first_voxel(image: Image) -> NDArray[np.float64]:
    """Return where the first voxel of an image lies in its straight view, in points of the pattern's grid."""
    lengths = np.linalg.norm(image.steps, axis=0)
    sizes = np.array(image.values.shape)
    if sizes.size == 2:
        skipped = np.maximum(0, (sizes - LOOKED_AT) // 2)
        return -skipped * lengths / STEP
    counts = np.array([_samples(int(size), STEP / float(length)) for size, length in zip(sizes, lengths, strict=True)])
    directions = image.steps / lengths
    return (_shape_onto(directions, counts) - 1) / 2 - directions @ (counts - 1) / 2


def turns(axes: int) -> list[tuple[float, tuple[float, ...]]]:
    """Return size and turn (degrees) of all views, the least changed ones first."""
    if axes == 3:
        vectors = [each for each in product(TURNS_3D, repeat=3) if np.linalg.norm(each) <= MOST_3D]
        return [(1.0, each) for each in sorted(vectors, key=lambda each: float(np.linalg.norm(each)))]
    pairs = [(size, (angle,)) for size in SIZES for angle in TURNS_2D]
    return sorted(pairs, key=lambda each: (abs(math.log(each[0])), abs(each[1][0])))


def mirror_offset(image: Image, which: Sequence[int]) -> NDArray[np.float64]:
    """Return the turn that makes a mirror along the pattern's axes one along the image's own, (axes, axes).

    Who mirrors a file turns over the order of its voxels. Where these lie aslant, by an angle a, that is a mirror along
    the world's axes and a turn by 2 a.

    Args:
        image: as it lies.
        which: axes of the pattern; those of the image that are nearest to them are meant.
    """
    directions = image.steps / np.linalg.norm(image.steps, axis=0)
    nearest = np.abs(directions).argmax(axis=0)
    own = np.where(np.isin(nearest, which), -1.0, 1.0)
    world = np.where(np.isin(np.arange(len(nearest)), which), -1.0, 1.0)
    offset: NDArray[np.float64] = (directions * own) @ np.linalg.inv(directions) * world
    straight = len(set(nearest.tolist())) < len(nearest) or np.abs(offset - np.eye(len(nearest))).max() < ASLANT
    return np.eye(len(nearest)) if straight else offset


def turned_views(image: Image, offset: NDArray[np.float64] | None = None) -> Iterator[View]:
    """Yield a volume turned by up to 7.5° about any axis; a picture turned by up to 6° and resized to half to twice.

    Args:
        image: as it lies.
        offset: a turn before all of these, (axes, axes), of `mirror_offset`; None for none.
    """
    if image.values.ndim == 2:
        image = Image(_middle(image.values, SEARCHED), image.steps)
    last, values, steps = 0.0, image.values, image.steps
    for size, degrees in turns(image.values.ndim):
        if size != last:
            last, (values, steps) = size, _whitened(image, size)
        words = [f"resized to {size:.0%}"] * (abs(size - 1) > 0.01) + [_turned(degrees)] * any(degrees)
        turn = _rotation(degrees) if offset is None else offset @ _rotation(degrees)
        yield View(_spectrum(values, steps, turn), ", ".join(words))


def _middle(values: Tensor, most: int) -> Tensor:
    """Cut a picture to its middle, so many pixels along a side."""
    for axis, size in enumerate(values.shape):
        values = values.narrow(axis, max(0, (size - most) // 2), min(size, most))
    return values


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


def _whitened(image: Image, size: float) -> tuple[Tensor, NDArray[np.float64]]:
    """Bring an image to steps of 2 units along its own axes, band-pass it and divide by its local strength.

    Args:
        image: as it lies.
        size: of the image, relative to what it was marked at.

    Returns:
        The values, and a step along each of their axes in the columns.
    """
    values = image.values - image.values.mean()
    lengths = np.linalg.norm(image.steps, axis=0)
    for axis, length in enumerate(lengths):
        step = STEP * size / float(length)
        positions = torch.arange(_samples(values.shape[axis], step), dtype=torch.float64) * step
        values = apply_axis(values, axis_weights(values.shape[axis], positions, step=step), axis)
    margin = int(MARGIN / STEP)
    shape = [_good_size(count + 2 * margin) for count in values.shape]
    each = [
        torch.fft.fftfreq(count, d=STEP).reshape([-1 if axis == other else 1 for other in range(len(shape))])
        for axis, count in enumerate(shape)
    ]
    each[-1] = torch.fft.rfftfreq(shape[-1], d=STEP)
    frequency = magnitude(each)
    passed = torch.fft.irfftn(torch.fft.rfftn(_padded_by_edge(values, shape, margin)) * band(frequency), s=shape)
    smooth = torch.exp(-2 * (math.pi * WINDOW * frequency) ** 2)
    local = torch.fft.irfftn(torch.fft.rfftn(passed**2) * smooth, s=shape).clamp(min=0)
    inner = tuple(slice(margin, margin + count) for count in values.shape)
    passed, local = passed[inner], local[inner]
    strong = local > 1e-6 * local.max()
    floor = FLOOR * float(local[strong].mean()) ** 0.5 if bool(strong.any()) else 1.0
    return passed / (local + floor**2).sqrt(), STEP * image.steps / lengths


def _samples(size: int, step: float) -> int:
    """Return how many samples an axis gets, the first on its first voxel."""
    return int((size - 1) / step + 1e-9) + 1


def _shape_onto(directions: NDArray[np.float64], sizes: NDArray[np.int_]) -> NDArray[np.int_]:
    """Return the shape of the box along the pattern's axes that holds an image."""
    return np.rint(np.abs(directions) @ (sizes - 1)).astype(int) + 1


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
    spectrum = cropped(torch.fft.rfftn(wrapped), points, axes)
    each = [_crop_axis(one, axis, points, axes) for axis, one in enumerate(frequencies(points, axes))]
    length = magnitude(each)
    ring = (length * STEP * 2 * RINGS).long().clamp(max=2 * RINGS)
    count = torch.bincount(ring.flatten(), minlength=2 * RINGS + 1).clamp(min=1)
    weights = (spectrum.abs() ** 2).double().flatten()
    power = torch.bincount(ring.flatten(), weights=weights, minlength=2 * RINGS + 1) / count
    power = power.clamp(min=1e-4 * float(power.max()) + 1e-30)
    whitened = spectrum * (band(length) / power[ring].sqrt().float())
    twice = torch.full((coarse(axes) // 2 + 1,), 2.0)
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
    shape = _shape_onto(directions, sizes)
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


def coarse(axes: int) -> int:
    """Return the places along an axis of the coarse grid, which still holds every frequency below 1/6."""
    return POINTS[axes] * 2 // 3


def cropped(spectrum: Tensor, points: int, axes: int) -> Tensor:
    """Keep the frequencies of a spectrum that the coarse grid has."""
    for axis in range(axes):
        spectrum = _crop_axis(spectrum, axis, points, axes)
    return spectrum


def _crop_axis(values: Tensor, axis: int, points: int, axes: int) -> Tensor:
    half = coarse(axes) // 2
    if axis == axes - 1:
        return values.narrow(axis, 0, half + 1)
    return torch.cat([values.narrow(axis, 0, half), values.narrow(axis, points - half, half)], dim=axis)

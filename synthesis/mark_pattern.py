"""The pattern of a watermark: ±1 noise of a secret key, periodic, and band-passed to what eyes and JPEG leave alone.

Lengths are in *units*: 1 mm in a volume. A picture has no mm, so there a unit is half a pixel: waves of 3 to 8 pixels
are many enough in small pictures, and outlive JPEG. The pattern lies on a grid of 2 units and repeats after 192 mm in a
volume and 192 pixels in a picture.
"""

import hashlib
import hmac

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STEP = 2.0  # units between two points of the grid
POINTS = {2: 192, 3: 96}  # of the grid along an axis, by the number of axes
SHORTEST, LONGEST = 6.0, 16.0  # units: wavelengths that pass
TAPER = 0.1  # of the frequency at either edge of the band, over which it fades
SHORTEST_KEY = 32  # bytes
PIXEL = 2.0  # units of a pixel
LEAST_KEPT = 0.02  # of the power of the pattern, below which an image is not marked


class MarkError(ValueError):
    """An image that cannot carry a watermark; the message says why."""


def key_signs(key: bytes, batch: str, axes: int) -> NDArray[np.int8]:
    """Return the ±1 noise of a key and a batch.

    SHAKE-256 of HMAC-SHA256(key, axes and batch); who sees some of it cannot continue it.

    Args:
        key: at least 32 bytes, secret.
        batch: what is marked together, such as a release; another one has another noise.
        axes: 2 for pictures, 3 for volumes.

    Returns:
        (192, 192) or (96, 96, 96), int8.

    Raises:
        ValueError: the key is too short.

    Source: RFC 2104 (HMAC), FIPS 202 (SHAKE).
    """
    points = POINTS[axes]
    stream = hashlib.shake_256(derived(key, f"mark of {axes} axes", batch)).digest(points**axes // 8)
    bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8)).reshape((points,) * axes)
    return (2 * bits.astype(np.int8) - 1).astype(np.int8)


def derived(key: bytes, purpose: str, text: str) -> bytes:
    """Return HMAC-SHA256(key, purpose and text), 32 bytes.

    Raises:
        ValueError: the key is too short.
    """
    if len(key) < SHORTEST_KEY:
        raise ValueError(f"the key has {len(key)} bytes; at least {SHORTEST_KEY} expected")
    return hmac.new(key, f"{purpose}\0{text}".encode(), hashlib.sha256).digest()


def frequencies(points: int, axes: int) -> list[Tensor]:
    """Return the frequencies of a spectrum in cycles a unit, one tensor an axis, ready to be broadcast.

    Args:
        points: of the grid of 2 units; the last axis has those of a real transform.
        axes: of the image.
    """
    full, half = torch.fft.fftfreq(points, d=STEP), torch.fft.rfftfreq(points, d=STEP)
    return [
        each.reshape([-1 if axis == other else 1 for other in range(axes)])
        for axis, each in enumerate([*[full] * (axes - 1), half])
    ]


def band(frequency: Tensor) -> Tensor:
    """Return the gain, 0 to 1, at frequencies (cycles a unit, any shape); 0 from 1/6 on."""
    low, high = 1 / LONGEST, 1 / SHORTEST
    rise = ((frequency - low * (1 - TAPER)) / (2 * low * TAPER)).clamp(0, 1)
    fall = ((high * 0.999 - frequency) / (high * TAPER)).clamp(0, 1)
    return (torch.sin(rise * torch.pi / 2) * torch.sin(fall * torch.pi / 2)) ** 2


def magnitude(each: list[Tensor]) -> Tensor:
    """Return the length of the vector of frequencies, on their grid."""
    total = torch.zeros(())
    for one in each:
        total = total + one**2
    return total.sqrt()


def pattern(signs: NDArray[np.int8], voxels: NDArray[np.float64]) -> NDArray[np.float32]:
    """Band-pass the noise, without what the image's grid cannot hold.

    Args:
        signs: as `key_signs` returns them.
        voxels: (axes, axes), a step along each axis of the image in its columns, units.

    Returns:
        The pattern on its own grid, mean 0 and variance 1.

    Raises:
        MarkError: the image is so coarse that next to nothing is left.
    """
    axes = signs.ndim
    each = frequencies(signs.shape[0], axes)
    gain = band(magnitude(each))
    whole = _power(gain, signs.shape[0])
    for step in voxels.T:
        cycles = torch.zeros(())
        for one, size in zip(each, step, strict=True):
            cycles = cycles + one * float(size)
        gain = gain * (cycles.abs() <= 0.45)  # cycles a voxel; 0.5 is the most that a grid can hold
    kept = _power(gain, signs.shape[0])
    if kept < LEAST_KEPT * whole:
        sizes = " x ".join(f"{size:.3g}" for size in np.linalg.norm(voxels, axis=0))
        raise MarkError(
            f"voxels of {sizes} mm are too coarse for a mark of {SHORTEST:g} to {LONGEST:g} mm: they hold less than "
            f"{LEAST_KEPT:.0%} of it. Write the image on a finer grid; one of 4 mm holds two thirds"
        )
    spectrum = torch.fft.rfftn(torch.from_numpy(signs.astype(np.float32))) * gain
    made = torch.fft.irfftn(spectrum, s=signs.shape) / kept**0.5
    return made.numpy().astype(np.float32)


def _power(gain: Tensor, points: int) -> float:
    """Return the mean of the squared gain over the whole spectrum, of which `gain` (of a real transform) is half."""
    twice = torch.full((gain.shape[-1],), 2.0)
    twice[0] = 1.0
    if points % 2 == 0:
        twice[-1] = 1.0
    return float((gain.double() ** 2 * twice).sum()) / points**gain.ndim

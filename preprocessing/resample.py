"""Bicubic resampling: separable cubic convolution, antialiased when it shrinks.

Kernel: Keys' cubic with a = -0.5, on every axis in turn, which reproduces quadratics. Along an axis that shrinks by
a factor s the kernel is stretched by s, so that it also removes what the coarser grid cannot hold. At the border the
weights of voxels that exist are renormalised to sum to one. It is *not* the order-3 spline that MONAI's
`Spacing(mode=3)` and nilearn's "continuous" compute.

Source: Keys 1981, "Cubic convolution interpolation for digital image processing", equation 15.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KEYS_A = -0.5


def cubic_kernel(distance: Tensor) -> Tensor:
    """Evaluate Keys' kernel at distances in samples, any shape; zero from 2 on."""
    x = distance.abs()
    near = ((KEYS_A + 2) * x - (KEYS_A + 3)) * x * x + 1
    far = KEYS_A * (((x - 5) * x + 8) * x - 4)
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def axis_weights(size: int, positions: Tensor, *, step: float, outside: str = "renormalise") -> Tensor:
    """Compute the matrix that resamples one axis.

    Args:
        size: samples of the input axis.
        positions: (n,) float64, on the CPU: where output samples lie, in input samples (0 is the first).
        step: distance between output samples, in input samples; above 1 the kernel is stretched by it.
        outside: "renormalise" treats samples beyond the border as unknown, "zero" as zeros.

    Returns:
        (n, size) float32; output = weights @ input.
    """
    stretch = max(step, 1.0)
    grid = torch.arange(size, dtype=torch.float64)
    weights = cubic_kernel((grid[None, :] - positions[:, None]) / stretch)
    if outside == "zero":
        reach = int(2 * stretch) + 2
        around = torch.arange(-reach, reach + 1, dtype=torch.float64)
        fraction = (positions - positions.round())[:, None]
        return (weights / cubic_kernel((around[None, :] - fraction) / stretch).sum(1, keepdim=True)).float()
    total = weights.sum(1, keepdim=True)
    return (weights / torch.where(total.abs() < 1e-9, torch.ones_like(total), total)).float()


def apply_axis(volume: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Resample one axis: weights (n, size) applied along `axis` of `volume`."""
    return torch.tensordot(volume, weights.to(volume.device), dims=([axis], [1])).movedim(-1, axis)


def voxel_size_mm(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the voxel size along each axis, from the voxel-to-world affine (4, 4)."""
    x, y, z = (float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    return x, y, z


def resampled_shape(shape: Sequence[int], affine: NDArray[np.float64], *, spacing_mm: float) -> list[int]:
    """Return the shape of a volume after `resample`."""
    return [max(1, round(size / (spacing_mm / old))) for size, old in zip(shape, voxel_size_mm(affine), strict=True)]


def resampling_bytes(shape: Sequence[int], affine: NDArray[np.float64], *, spacing_mm: float) -> float:
    """Estimate the peak main memory of `resample` beside the volume itself: copies and weights."""
    before, most = list(shape), 0.0
    for axis, count in enumerate(resampled_shape(shape, affine, spacing_mm=spacing_mm)):
        after = [*before[:axis], count, *before[axis + 1 :]]
        most = max(most, 4.0 * (2 * math.prod(before) + 2 * math.prod(after)) + 48.0 * count * before[axis])
        before = after
    return most


def resample(
    volume: Tensor, affine: NDArray[np.float64], *, spacing_mm: float | tuple[float, float, float]
) -> tuple[Tensor, NDArray[np.float64]]:
    """Bring a volume to one voxel size; its centre stays where it is in the world.

    Args:
        volume: (..., X, Y, Z), float32.
        affine: voxel to world, (4, 4), mm; its axes may point anywhere.
        spacing_mm: wanted voxel size.

    Returns:
        The volume on the new grid, with round(size · old / new) voxels an axis (at least 1), and its affine.
    """
    wanted = np.broadcast_to(np.asarray(spacing_mm, dtype=np.float64), (3,))
    steps = wanted / np.linalg.norm(affine[:3, :3], axis=0)  # new voxels in old ones
    new_affine = affine.copy()
    new_affine[:3, :3] = affine[:3, :3] * steps
    first = np.zeros(3)
    for i, step in enumerate(steps):
        axis = volume.ndim - 3 + i
        size = volume.shape[axis]
        count = max(1, round(size / step))
        first[i] = (size - 1) / 2 - step * (count - 1) / 2
        if count == size and abs(step - 1) < 1e-6:
            continue
        positions = first[i] + step * torch.arange(count, dtype=torch.float64)
        volume = apply_axis(volume, axis_weights(size, positions, step=float(step)), axis)
    new_affine[:3, 3] = affine[:3, 3] + affine[:3, :3] @ first
    return volume, new_affine

"""Resampling of a volume on the grid of another scan after registration."""

from itertools import product

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from preprocessing.resample import cubic_kernel, resample

Affine = NDArray[np.float64]
SLAB_POINTS = 2**18  # interpolated at once


def onto_brain(moving: MetaTensor, brain_mask: MetaTensor, matrix: Affine) -> tuple[MetaTensor, MetaTensor]:
    """Resample a scan on the grid of another one's brain mask, and cut the mask to the scan's field of view.

    Args:
        moving: the PET, (1, X, Y, Z), float32.
        brain_mask: (1, X', Y', Z'), above 0.5 inside.
        matrix: `Rigid.matrix`.

    Returns:
        The scan, (1, X', Y', Z'), float32, and the mask, bool, both with the affine of `brain_mask`, on the device of
        `moving`.
    """
    volume = resample_onto(moving, brain_mask, matrix)
    frame = MetaTensor(torch.ones_like(moving.as_tensor()), affine=moving.affine)
    shown = resample_onto(frame, brain_mask, matrix, outside=0.0)
    inside = brain_mask.as_tensor().to(volume.device) > 0.5
    return volume, MetaTensor(inside & (shown.as_tensor() > 0.5), affine=affine_of(brain_mask))


def resample_onto(moving: MetaTensor, fixed: MetaTensor, matrix: Affine, *, outside: float | None = None) -> MetaTensor:
    """Resample a volume on the grid of another one, by cubic convolution (`preprocessing.resample`).

    A volume with smaller voxels than `fixed` has is brought to its voxel size first, antialiased. Cubic convolution
    overshoots at edges; a mask goes through as 0 and 1 and is cut at one half by the caller.

    Args:
        moving: (1, X, Y, Z), real numbers.
        fixed: (1, X', Y', Z'), of which the shape and the affine are used.
        matrix: (4, 4), from the world of `fixed` to that of `moving`, mm: `Rigid.matrix`, or its inverse to bring what
            belongs to the fixed scan (its mask) on the grid of the moving one.
        outside: value outside the field of view of `moving`; None is the lowest value of `moving`, which stands for
            background in scans that are stripped already, too.

    Returns:
        (1, X', Y', Z'), float32, on the device of `moving`, with the affine of `fixed`.
    """
    fill = float(moving.min()) if outside is None else outside
    grid_mm = float(np.linalg.norm(affine_of(fixed)[:3, :3], axis=0).min())
    x, y, z = (max(float(own), grid_mm) for own in np.linalg.norm(affine_of(moving)[:3, :3], axis=0))
    volume, affine = resample(moving[0].as_tensor().float(), affine_of(moving), spacing_mm=(x, y, z))
    to_voxel = np.linalg.inv(affine) @ matrix @ affine_of(fixed)
    out = torch.empty(fixed.shape[1:], dtype=torch.float32, device=volume.device)
    thick = max(1, SLAB_POINTS // out[0].numel())
    for first in range(0, out.shape[0], thick):
        slab = out[first : first + thick]
        slab.copy_(_interpolated(volume, to_voxel @ _shifted(first), slab.shape, fill))
    return MetaTensor(out[None], affine=affine_of(fixed))


def _interpolated(volume: Tensor, to_voxel: Affine, shape: torch.Size, fill: float) -> Tensor:
    """Interpolate at points of another grid by cubic convolution of the 4 × 4 × 4 voxels around, as far as they exist.

    Args:
        volume: (X, Y, Z), float32.
        to_voxel: (4, 4), from index of a point to voxels of `volume`.
        shape: (n, m, k), points.
        fill: of points outside.

    Returns:
        (n, m, k), float32.
    """
    weights, indices, inside = [], [], torch.ones(shape, dtype=torch.bool)
    along = [torch.arange(count, dtype=torch.float64) for count in shape]
    for axis, size in enumerate(volume.shape):
        x, y, z = (along[other] * to_voxel[axis, other] for other in range(3))
        position = x[:, None, None] + y[:, None] + z + to_voxel[axis, 3]
        inside &= (position >= -0.5 - 1e-6) & (position <= size - 0.5 + 1e-6)
        taps = position.floor().long() + torch.arange(-1, 3).view(4, 1, 1, 1)  # (4, n, m, k)
        weight = cubic_kernel(position - taps) * ((taps >= 0) & (taps < size))
        total = weight.sum(0)
        weight /= torch.where(total.abs() < 1e-9, torch.ones_like(total), total)
        weights.append(weight.float().to(volume.device))
        indices.append(taps.clamp(0, size - 1).to(volume.device))
    flat, out = volume.reshape(-1), torch.zeros(shape, device=volume.device)
    for i, j in product(range(4), range(4)):
        line = (indices[0][i] * volume.shape[1] + indices[1][j]) * volume.shape[2]
        out += weights[0][i] * weights[1][j] * (weights[2] * flat[line + indices[2]]).sum(0)
    return torch.where(inside.to(volume.device), out, fill)


def _shifted(planes: int) -> Affine:
    """Return the (4, 4) shift by so many planes along the first axis."""
    shift = np.eye(4)
    shift[0, 3] = planes
    return shift


def affine_of(volume: MetaTensor) -> Affine:
    """Return the affine of a volume, (4, 4), float64, on the CPU."""
    return np.asarray(volume.affine, dtype=np.float64)

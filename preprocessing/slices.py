"""Square slices of preprocessed scans, the input of a backbone.

Volumes: axial slices in a fixed field of view in mm, centred on the brain, so that one scale holds for every subject
and modality and no brain is cut off. The published code crops 224 of 256 pixels from the middle of whole frames, which
on brain-cropped volumes would cut brain off. Pictures: shorter side to 256, centre crop 224, as published.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preprocessing.errors import ScanError
from preprocessing.resample import apply_axis, axis_weights


def volume_to_slices(
    volume: Tensor,
    mask: Tensor,
    spacing_mm: tuple[float, float, float],
    *,
    size: int = 224,
    field_of_view_mm: float = 192.0,
    slice_spacing_mm: float | None = None,
) -> Tensor:
    """Cut axial slices of a volume.

    Args:
        volume: (X, Y, Z) in RAS+ order, float32 in [0, 1], 0 outside the brain.
        mask: (X, Y, Z), bool.
        spacing_mm: voxel size.
        size: pixels of a slice, both sides.
        field_of_view_mm: side of a slice; what the brain does not fill is 0.
        slice_spacing_mm: distance between slices; None takes every slice of the volume.

    Returns:
        (S, size, size), float32 in [0, 1]: rows from front to back, columns from left to right, slices from below;
        only slices with brain in them.

    Raises:
        ScanError: the mask is empty.
    """
    low, high = bounding_box(mask)
    pixel_mm = field_of_view_mm / size
    offsets = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) * pixel_mm
    z = _levels(low[2], high[2], spacing_mm[2], slice_spacing_mm)
    slices = volume[:, :, z.to(volume.device)].movedim(2, 0)  # (S, X, Y)
    for axis in (0, 1):
        centre = (low[axis] + high[axis] - 1) / 2
        positions = centre + offsets / spacing_mm[axis]
        weights = axis_weights(volume.shape[axis], positions, step=pixel_mm / spacing_mm[axis], outside="zero")
        slices = apply_axis(slices, weights, axis + 1)
    return slices.transpose(1, 2).flip(1).clamp(0, 1).contiguous()


def _levels(first: int, behind: int, voxel_mm: float, slice_spacing_mm: float | None) -> Tensor:
    """Select the axial voxel layers that become slices, (S,) int64, rising."""
    z = torch.arange(first, behind)
    if slice_spacing_mm is None:
        return z
    every = max(1, round(slice_spacing_mm / voxel_mm))
    return z[(len(z) - 1) % every // 2 :: every]


def map_to_volume(
    cells: Tensor,
    mask: Tensor,
    spacing_mm: tuple[float, float, float],
    *,
    slices_a_slab: int,
    field_of_view_mm: float = 192.0,
    slice_spacing_mm: float | None = None,
) -> Tensor:
    """Map values of cells of slices back to the voxels that the slices were made from.

    Args:
        cells: (G, H, W): G slabs of slices as `volume_to_slices` gives them, H x W cells that fill a slice.
        mask: of the volume, (X, Y, Z), bool.
        spacing_mm: voxel size.
        slices_a_slab: slices in each slab; the last may have fewer.
        field_of_view_mm: as the slices were made.
        slice_spacing_mm: as the slices were made.

    Returns:
        (X, Y, Z), float32: linear between the centres of cells, 0 outside the mask.

    Raises:
        ScanError: the mask is empty.
    """
    low, high = bounding_box(mask)
    slabs = _levels(low[2], high[2], spacing_mm[2], slice_spacing_mm).double().split(slices_a_slab)
    centres = [torch.stack([slab.mean() for slab in slabs])]
    for axis, count in ((1, cells.shape[1]), (0, cells.shape[2])):
        offsets = (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * field_of_view_mm / count
        centres.append((low[axis] + high[axis] - 1) / 2 + offsets / spacing_mm[axis])
    values = cells.float().flip(1)  # rows of a slice run from front to back
    for axis, (at, size) in enumerate(zip(centres, (mask.shape[2], mask.shape[1], mask.shape[0]), strict=True)):
        values = apply_axis(values, _linear_weights(at, size), axis)
    return values.permute(2, 1, 0) * mask


def _linear_weights(centres: Tensor, size: int) -> Tensor:
    """Return (size, n) float32 weights: linear between rising `centres` (n,) at 0 … size - 1, constant beyond them."""
    positions = torch.arange(size, dtype=torch.float64).clamp(centres[0], centres[-1])
    if len(centres) == 1:
        return torch.ones(size, 1)
    right = torch.searchsorted(centres, positions).clamp(1, len(centres) - 1)
    share = (positions - centres[right - 1]) / (centres[right] - centres[right - 1])
    weights = torch.zeros(size, len(centres), dtype=torch.float64)
    rows = torch.arange(size)
    weights[rows, right - 1], weights[rows, right] = 1 - share, share
    return weights.float()


def bounding_box(mask: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the first voxel inside and the first voxel behind, along each axis of a 3-D mask.

    Raises:
        ScanError: nothing is inside.
    """
    low, high = [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        inside = mask.amax(others).nonzero().squeeze(1)
        if len(inside) == 0:
            raise ScanError("the brain mask is empty; look at the scan: is it a whole head, and upright?")
        low.append(int(inside[0]))
        high.append(int(inside[-1]) + 1)
    return tuple(low), tuple(high)


def picture_to_slice(picture: NDArray[np.uint8], *, size: int = 224, shorter_side: int = 256) -> Tensor:
    """Convert a picture to one slice.

    Args:
        picture: (H, W, 3), uint8.
        size: pixels of the crop.
        shorter_side: pixels the shorter side is brought to before the crop.

    Returns:
        (1, 3, size, size), float32 in [0, 1].
    """
    tensor = torch.from_numpy(picture).movedim(2, 0).float() / 255  # (3, H, W)
    step = min(tensor.shape[1:]) / shorter_side
    offsets = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) * step
    for axis in (1, 2):
        positions = (tensor.shape[axis] - 1) / 2 + offsets
        tensor = apply_axis(tensor, axis_weights(tensor.shape[axis], positions, step=step), axis)
    return tensor.clamp(0, 1).contiguous()[None]

"""Volumes of two modalities on one grid of axial slices, and back: the input and output of image translation.

Both scans are taken to lie in scanner (world) coordinates, so that the same millimetre is the same position in the
head. Scans that are more than `FARTHEST_MM` apart cannot be; then the middles of the brains are laid over each other.
Nothing is registered: a head that was turned between the scans stays turned.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preprocessing.errors import ScanError
from preprocessing.resample import apply_axis, axis_weights, cubic_kernel

FARTHEST_MM = 20.0
STRAIGHT = 1e-4  # sine up to which voxel axes count as parallel to the world's


@dataclass(frozen=True)
class Frame:
    """A stack of axial slices in the world: x to the right, y to the front, z up, mm.

    Attributes:
        centre_mm: x and y of the middle of every slice.
        size: pixels of a slice, both sides.
        pixel_mm: side of a pixel.
        heights_mm: z of every slice, from below.
    """

    centre_mm: tuple[float, float]
    size: int
    pixel_mm: float
    heights_mm: tuple[float, ...]


@dataclass(frozen=True)
class SlicePairs:
    """Slices of two modalities at the same positions.

    Attributes:
        a: (S, 1, size, size), float32 in [0, 1].
        b: the same shape.
        mask: brain of A, the same shape, bool.
        frame: where the slices are.
        note: remark about the alignment, or empty.
    """

    a: Tensor
    b: Tensor
    mask: Tensor
    frame: Frame
    note: str


def brain_frame(
    mask: Tensor,
    affine: NDArray[np.float64],
    *,
    size: int,
    field_of_view_mm: float = 192.0,
    slice_spacing_mm: float = 3.0,
) -> Frame:
    """Return the frame of one brain: centred on its bounding box, and as high.

    Args:
        mask: (X, Y, Z), bool.
        affine: voxel to world, (4, 4), mm.
        size: pixels of a slice, both sides.
        field_of_view_mm: side of a slice; what sticks out is cut off.
        slice_spacing_mm: distance between slices; the lowest and the highest are equally far from the brain's ends.

    Raises:
        ScanError: the mask is empty.
    """
    low, high = world_box(mask, affine)
    count = int((high[2] - low[2]) / slice_spacing_mm + 1e-6) + 1
    heights = (low[2] + high[2]) / 2 + slice_spacing_mm * (np.arange(count) - (count - 1) / 2)
    x, y = ((low + high) / 2)[:2]
    return Frame((float(x), float(y)), size, field_of_view_mm / size, tuple(float(z) for z in heights))


def to_frame(volume: Tensor, affine: NDArray[np.float64], frame: Frame) -> Tensor:
    """Resample a volume to a frame.

    Cubic convolution as in `preprocessing.resample`: antialiased within the slice where its pixels are larger than the
    voxels, never across slices, which stay as thin as those that `preprocessing.slices` takes. A volume whose axes are
    oblique to the world's is turned.

    Args:
        volume: (X, Y, Z), float32 in [0, 1], or bool.
        affine: voxel to world, (4, 4), mm.
        frame: the target frame.

    Returns:
        (S, 1, size, size): rows from front to back, columns from left to right, slices from below. float32 in [0, 1],
        0 outside the volume; of a bool volume bool, cut at one half.
    """
    inverse: NDArray[np.float64] = np.linalg.inv(affine).astype(np.float64)
    matrix, offset = inverse[:3, :3], inverse[:3, 3]
    off_diagonal = matrix - np.diag(np.diag(matrix))
    straight = np.abs(off_diagonal).max() <= STRAIGHT * np.abs(np.diag(matrix)).min()
    slices = (_straight if straight else _oblique)(volume.float(), matrix, offset, frame)
    slices = slices.clamp(0, 1)[:, None].contiguous()
    return slices > 0.5 if volume.dtype == torch.bool else slices


def from_frame(slices: Tensor, frame: Frame) -> tuple[Tensor, NDArray[np.float64]]:
    """Return the volume of a stack of slices; its voxels are the frame's, so nothing is interpolated.

    Args:
        slices: (S, 1, size, size), as `to_frame` gives them.
        frame: where they are; its slices must be equally far from each other.

    Returns:
        (X, Y, Z) in RAS+ order, and its affine, voxel to world, mm. `preprocessing.resample.resample` brings it to
        another voxel size.

    Raises:
        ValueError: slices and frame do not fit each other, or there is no one distance between slices.
    """
    expected = (len(frame.heights_mm), 1, frame.size, frame.size)
    if tuple(slices.shape) != expected:
        raise ValueError(f"slices are {tuple(slices.shape)}; the frame has {expected}")
    gaps = np.diff(frame.heights_mm)
    if len(gaps) == 0 or gaps.min() <= 0 or np.ptp(gaps) > 1e-3:
        raise ValueError(
            f"{len(frame.heights_mm)} slices with gaps {sorted({round(float(g), 3) for g in gaps})} mm; "
            "a volume needs two or more, equally far apart"
        )
    affine = np.diag([frame.pixel_mm, frame.pixel_mm, float(gaps.mean()), 1.0])
    half = frame.pixel_mm * (frame.size - 1) / 2
    affine[:3, 3] = frame.centre_mm[0] - half, frame.centre_mm[1] - half, frame.heights_mm[0]
    return slices.squeeze(1).flip(1).permute(2, 1, 0).contiguous(), affine


def paired_slices(
    volume_a: Tensor,
    mask_a: Tensor,
    affine_a: NDArray[np.float64],
    volume_b: Tensor,
    mask_b: Tensor,
    affine_b: NDArray[np.float64],
    *,
    size: int,
    field_of_view_mm: float = 192.0,
    slice_spacing_mm: float = 3.0,
) -> SlicePairs:
    """Return matching slices of two scans of one subject, in the frame of A's brain.

    Slices where one of the two has no brain are left out, as they would train brain to be mapped to background.

    Args:
        volume_a: (X, Y, Z), float32 in [0, 1], 0 outside the brain.
        mask_a: the same shape, bool.
        affine_a: voxel to world, (4, 4), mm.
        volume_b: the same of the other modality, on a grid of its own.
        mask_b: the same shape as `volume_b`, bool.
        affine_b: voxel to world, (4, 4), mm.
        size: pixels of a slice, both sides.
        field_of_view_mm: side of a slice.
        slice_spacing_mm: distance between slices.

    Raises:
        ScanError: a mask is empty, or no slice has brain of both.
    """
    frame = brain_frame(
        mask_a, affine_a, size=size, field_of_view_mm=field_of_view_mm, slice_spacing_mm=slice_spacing_mm
    )
    affine_b, note = aligned(mask_a, affine_a, mask_b, affine_b)
    brain_a, brain_b = to_frame(mask_a, affine_a, frame), to_frame(mask_b, affine_b, frame)
    both = brain_a.flatten(1).any(1) & brain_b.flatten(1).any(1)
    if not both.any():
        raise ScanError("no slice shows the brain of both scans; are they of the same head?")
    heights = tuple(z for z, in_both in zip(frame.heights_mm, both.tolist(), strict=True) if in_both)
    frame = replace(frame, heights_mm=heights)
    a, b = to_frame(volume_a, affine_a, frame), to_frame(volume_b, affine_b, frame)
    return SlicePairs(a, b, brain_a[both], frame, note)


def aligned(
    mask_a: Tensor, affine_a: NDArray[np.float64], mask_b: Tensor, affine_b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], str]:
    """Return the affine of B in A's world, and a note if it differs from the original one.

    Raises:
        ScanError: a mask is empty.
    """
    shift = sum(world_box(mask_a, affine_a)) / 2 - sum(world_box(mask_b, affine_b)) / 2
    distance = float(np.linalg.norm(shift))
    if distance <= FARTHEST_MM:
        return affine_b, ""
    moved = affine_b.copy()
    moved[:3, 3] += shift
    return moved, (
        f"the brains lie {distance:.0f} mm apart, so the two scans do not share coordinates; "
        "their middles were laid over each other"
    )


def world_box(mask: Tensor, affine: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lowest and highest world coordinates of the centres of a mask's voxels, (3,) each, mm.

    Raises:
        ScanError: nothing is inside.
    """
    inside = mask.nonzero().cpu().numpy()
    if len(inside) == 0:
        raise ScanError("the brain mask is empty; look at the scan: is it a whole head, and upright?")
    world = inside @ affine[:3, :3].T + affine[:3, 3]
    return world.min(0), world.max(0)


def _axes(frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return world coordinates of columns (x), rows (y) and slices (z), mm."""
    offsets = frame.pixel_mm * (np.arange(frame.size, dtype=np.float64) - (frame.size - 1) / 2)
    x, y = np.float64(frame.centre_mm[0]), np.float64(frame.centre_mm[1])
    return x + offsets, y - offsets, np.array(frame.heights_mm, dtype=np.float64)


def _straight(volume: Tensor, matrix: NDArray[np.float64], offset: NDArray[np.float64], frame: Frame) -> Tensor:
    """Apply `to_frame` one axis at a time, (S, size, size)."""
    for axis, world in enumerate(_axes(frame)):
        scale = matrix[axis, axis]  # voxels a mm
        positions = torch.from_numpy(world * scale + offset[axis])
        step = abs(scale) * frame.pixel_mm if axis < 2 else 1.0
        volume = apply_axis(volume, axis_weights(volume.shape[axis], positions, step=step, outside="zero"), axis)
    return volume.permute(2, 1, 0)


def _oblique(volume: Tensor, matrix: NDArray[np.float64], offset: NDArray[np.float64], frame: Frame) -> Tensor:
    """Apply `to_frame` point by point, slice by slice, (S, size, size)."""
    x, y, heights = _axes(frame)
    stretch = np.maximum(frame.pixel_mm * np.linalg.norm(matrix[:, :2], axis=1), 1.0)
    rows, columns = np.meshgrid(y, x, indexing="ij")
    slices = []
    for z in heights:
        world = np.stack([columns.ravel(), rows.ravel(), np.full(columns.size, z)], axis=1)
        voxels = torch.from_numpy(world @ matrix.T + offset)  # (size·size, 3)
        taps = [_taps(voxels[:, axis], float(stretch[axis]), volume.shape[axis]) for axis in range(3)]
        (i, u), (j, v), (k, w) = ((index.to(volume.device), weight.to(volume.device)) for index, weight in taps)
        _, side, depth = volume.shape
        flat = (i[:, :, None, None] * side + j[:, None, :, None]) * depth + k[:, None, None, :]
        slices.append(torch.einsum("nijk,ni,nj,nk->n", volume.flatten()[flat], u, v, w))
    return torch.stack(slices).unflatten(1, (frame.size, frame.size))


def _taps(positions: Tensor, stretch: float, size: int) -> tuple[Tensor, Tensor]:
    """Return voxels around positions along one axis, (n, taps) int64, and weights, float32, 0 outside."""
    reach = int(np.ceil(2 * stretch))
    index = positions.floor().long()[:, None] + torch.arange(1 - reach, reach + 1)
    weight = cubic_kernel((index - positions[:, None]) / stretch)
    weight = weight / weight.sum(1, keepdim=True)
    return index.clamp(0, size - 1), (weight * ((index >= 0) & (index < size))).float()

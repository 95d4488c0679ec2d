"""Scans on one coarse grid, so that their voxels can be compared and drawn, and back to volumes and pictures.

Volumes: the brain's centre of mass is in the middle of a box that every head fits into; axes are those of RAS+.
Pictures: the middle square, shrunk.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from preprocessing.resample import resample

SPACING_MM = 4.0
BOX_MM = (176.0, 208.0, 176.0)  # left-right, back-front, bottom-top; brains are less than 150, 190, 150
PICTURE_SIDE = 64  # pixels
LEAST = 0.02  # of the range [0, 1]; less is background
LEVELS = 1000  # of a written volume
Volume = NDArray[np.float32]


def box_shape(spacing_mm: float) -> tuple[int, int, int]:
    """Return the voxels of the box along each axis."""
    x, y, z = (round(side / spacing_mm) for side in BOX_MM)
    return x, y, z


def box_affine(spacing_mm: float) -> NDArray[np.float64]:
    """Return the affine of the box, (4, 4), mm: the brain's centre of mass is at the origin."""
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = [-(size - 1) / 2 * spacing_mm for size in box_shape(spacing_mm)]
    return affine


def onto_box(volume: Tensor, mask: Tensor, affine: NDArray[np.float64], *, spacing_mm: float = SPACING_MM) -> Volume:
    """Resample a preprocessed volume onto the box.

    Args:
        volume: (X, Y, Z), float32 in [0, 1], axes in RAS+ order.
        mask: (X, Y, Z), bool, of the brain; not empty.
        affine: voxel to world, (4, 4), mm.
        spacing_mm: of the box.

    Returns:
        (X', Y', Z'), float32 in [0, 1]; 0 outside of the brain and outside of the volume.

    Raises:
        ValueError: the mask is empty.
    """
    if not bool(mask.any()):
        raise ValueError("the brain mask is empty")
    centre = affine[:3, :3] @ np.array(ndimage.center_of_mass(mask.numpy())) + affine[:3, 3]
    coarse, own = resample(volume.where(mask, volume.new_zeros(())), affine, spacing_mm=(spacing_mm,) * 3)
    to_voxel = np.linalg.inv(own)
    target = box_affine(spacing_mm)
    matrix = to_voxel[:3, :3] @ target[:3, :3]
    offset = to_voxel[:3, :3] @ (target[:3, 3] + centre) + to_voxel[:3, 3]
    placed = ndimage.affine_transform(
        coarse.numpy().astype(np.float32), matrix, offset, output_shape=box_shape(spacing_mm), order=1, cval=0.0
    )
    return np.clip(placed, 0, 1).astype(np.float32)


def small_picture(pixels: NDArray[np.uint8], *, side: int = PICTURE_SIDE) -> Volume:
    """Return the middle square of a picture (H, W, 3), uint8, shrunk to (side, side, 3), float32 in [0, 1]."""
    height, width = pixels.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = torch.from_numpy(pixels[top : top + edge, left : left + edge].astype(np.float32) / 255)
    shrunk = torch.nn.functional.interpolate(
        square.permute(2, 0, 1)[None], size=(side, side), mode="bilinear", antialias=True, align_corners=False
    )
    return shrunk[0].permute(1, 2, 0).clamp(0, 1).numpy()


def volume_of(
    values: NDArray[np.float32], *, spacing_mm: float = SPACING_MM, least: float = LEAST
) -> NDArray[np.int16]:
    """Return drawn voxels (n,) as a volume (X', Y', Z'), int16 from 0 to `LEVELS`; below `least` is background, 0."""
    values = np.clip(values, 0, 1)
    return np.rint(np.where(values < least, 0, values) * LEVELS).astype(np.int16).reshape(box_shape(spacing_mm))


def picture_of(values: NDArray[np.float32], *, side: int = PICTURE_SIDE) -> NDArray[np.uint8]:
    """Return drawn pixels (n,) as a picture (side, side, 3), uint8."""
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8).reshape(side, side, 3)


def preview(volume: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Return the middle axial slice of a volume of `volume_of`, front up, radiological (right on the left), uint8."""
    middle = volume[:, :, volume.shape[2] // 2]
    return np.rint(np.clip(middle[::-1, ::-1].T / LEVELS, 0, 1) * 255).astype(np.uint8)

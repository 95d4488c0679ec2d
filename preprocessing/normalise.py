"""Intensities of one scan inside its brain: zero mean and unit variance, then [0, 1]."""

from torch import Tensor

from preprocessing.errors import ScanError


def standardise(volume: Tensor, mask: Tensor) -> Tensor:
    """(v - mean) / standard deviation of the voxels in the mask; 0 outside.

    Args:
        volume: float32, any shape.
        mask: bool, same shape, True inside.

    Raises:
        ScanError: the mask is empty, or all voxels in it are equal.
    """
    inside = _inside(volume, mask)
    return ((volume - inside.mean()) / inside.std(correction=0)).where(mask, volume.new_zeros(()))


def minmax(volume: Tensor, mask: Tensor) -> Tensor:
    """(v - min) / (max - min) over the voxels in the mask, so [0, 1] there; 0 outside.

    Min-max undoes any scale and shift, the one of `standardise` included; the paper does both, and so do we.

    Args:
        volume: float32, any shape.
        mask: bool, same shape, True inside.

    Raises:
        ScanError: the mask is empty, or all voxels in it are equal.
    """
    inside = _inside(volume, mask)
    low, high = inside.min(), inside.max()
    return ((volume - low) / (high - low)).where(mask, volume.new_zeros(()))


def _inside(volume: Tensor, mask: Tensor) -> Tensor:
    inside = volume[mask]
    if inside.numel() == 0:
        raise ScanError("the brain mask is empty; look at the scan: is it a whole head, and upright?")
    if float(inside.max() - inside.min()) == 0:
        raise ScanError(f"every voxel inside the brain mask is {float(inside[0]):g}; min-max needs two values")
    return inside

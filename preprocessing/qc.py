"""The quality-control picture of a scan: three planes with the mask's outline."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

HEIGHT = 192  # pixels
OUTLINE = (255, 176, 0)  # amber, seen by colour-blind eyes on grey


def three_planes(
    volume: NDArray[np.float32], mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> NDArray[np.uint8]:
    """Sagittal, coronal and axial slice through the middle of the mask, left to right.

    Args:
        volume: (X, Y, Z) in RAS+ order; grey from the 1st to the 99.5th percentile.
        mask: (X, Y, Z).
        spacing_mm: voxel size; pixels are square in mm.

    Returns:
        (192, W, 3), uint8. The subject's left is on the left.
    """
    low, high = np.percentile(volume, (1, 99.5))
    grey = np.clip((volume - low) / max(high - low, 1e-6), 0, 1)
    centre = [int(round(c)) for c in ndimage.center_of_mass(mask)]
    panels = []
    for axis in range(3):
        plane, outline = np.take(grey, centre[axis], axis), np.take(mask, centre[axis], axis)
        spacing = [s for a, s in enumerate(spacing_mm) if a != axis]
        panels.append(_panel(plane, outline, spacing))
    gap = np.zeros((HEIGHT, 6, 3), np.uint8)
    return np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)


def _panel(plane: NDArray[np.float32], mask: NDArray[np.bool_], spacing: list[float]) -> NDArray[np.uint8]:
    """One plane (horizontal, vertical) as a picture of fixed height, vertical axis up."""
    height_mm = plane.shape[1] * spacing[1]
    zoom = (spacing[0] * HEIGHT / height_mm, HEIGHT / plane.shape[1])
    grey = np.clip(ndimage.zoom(plane, zoom, order=1, mode="nearest", grid_mode=True), 0, 1)
    inside = ndimage.zoom(mask.astype(np.float32), zoom, order=1, mode="nearest", grid_mode=True) > 0.5
    edge = inside & ~ndimage.binary_erosion(inside, iterations=2)
    picture = np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=2)
    picture[edge] = OUTLINE
    picture = picture.transpose(1, 0, 2)[::-1]
    missing = HEIGHT - picture.shape[0]
    return np.pad(picture, ((0, max(missing, 0)), (0, 0), (0, 0)))[:HEIGHT]

"""The quality-control picture of a scan: three planes with the mask's outline, and what was registered to it."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

HEIGHT = 192  # pixels
GAP = 6  # pixels between planes
OUTLINE = (255, 176, 0)  # amber, seen by colour-blind eyes on grey
# A registered scan over grey, from its lowest to its highest value: blue to white, on which amber is still seen.
OVERLAY = np.array([(0, 0, 96), (0, 80, 220), (0, 190, 215), (235, 255, 255)], np.float32)
OPACITY = 0.7  # of the overlay's highest value; its lowest leaves the grey as it is


def three_planes(
    volume: NDArray[np.float32],
    mask: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
    *,
    overlay: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """Render the sagittal, coronal and axial slice through the middle of the mask, left to right.

    Args:
        volume: (X, Y, Z) in RAS+ order; grey from the 1st to the 99.5th percentile.
        mask: (X, Y, Z).
        spacing_mm: voxel size; pixels are square in mm.
        overlay: (X, Y, Z), laid over the grey in blue to white, over the same percentiles of its own.

    Returns:
        (192, W, 3), uint8. The subject's left is on the left.
    """
    grey = _stretched(volume)
    colour = None if overlay is None else _stretched(overlay)
    centre = [int(round(c)) for c in ndimage.center_of_mass(mask)]
    panels = []
    for axis in range(3):
        plane, outline = np.take(grey, centre[axis], axis), np.take(mask, centre[axis], axis)
        over = None if colour is None else np.take(colour, centre[axis], axis)
        spacing = [s for a, s in enumerate(spacing_mm) if a != axis]
        panels.append(_panel(plane, outline, spacing, over=over))
    gap = np.zeros((HEIGHT, GAP, 3), np.uint8)
    return np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)


def registered_planes(
    volume: NDArray[np.float32],
    registered: NDArray[np.float32],
    mask: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
) -> NDArray[np.uint8]:
    """Render two registered scans: above, the second over the first; below, the second alone.

    Args:
        volume: the fixed scan, (X, Y, Z) in RAS+ order.
        registered: the moving scan on the same grid.
        mask: (X, Y, Z), brain of the fixed scan; its outline is shown on both.
        spacing_mm: voxel size.

    Returns:
        (2 · 192 + 6, W, 3), uint8, planes as in `three_planes`.

    Raises:
        ValueError: the three are not on one grid.
    """
    if not volume.shape == registered.shape == mask.shape:
        raise ValueError(
            f"scan {volume.shape}, registered scan {registered.shape} and mask {mask.shape} are not on one grid; "
            "bring them there with preprocessing.common_grid.resample_onto"
        )
    above = three_planes(volume, mask, spacing_mm, overlay=registered)
    below = three_planes(registered, mask, spacing_mm)
    return np.concatenate([above, np.zeros((GAP, above.shape[1], 3), np.uint8), below], axis=0)


def _stretched(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch the 1st to the 99.5th percentile to [0, 1]."""
    low, high = np.percentile(volume, (1, 99.5))
    return np.clip((volume - low) / max(high - low, 1e-6), 0, 1)


def _panel(
    plane: NDArray[np.float32],
    mask: NDArray[np.bool_],
    spacing: list[float],
    *,
    over: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """Render one plane (horizontal, vertical) as a picture of fixed height, vertical axis up."""
    height_mm = plane.shape[1] * spacing[1]
    zoom = (spacing[0] * HEIGHT / height_mm, HEIGHT / plane.shape[1])

    def enlarged(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.clip(ndimage.zoom(values, zoom, order=1, mode="nearest", grid_mode=True), 0, 1)

    inside = enlarged(mask.astype(np.float32)) > 0.5
    edge = inside & ~ndimage.binary_erosion(inside, iterations=2)
    picture = np.repeat((255 * enlarged(plane)).astype(np.uint8)[..., None], 3, axis=2)
    if over is not None:
        picture = _laid_over(picture, enlarged(over))
    picture[edge] = OUTLINE
    picture = picture.transpose(1, 0, 2)[::-1]
    missing = HEIGHT - picture.shape[0]
    return np.pad(picture, ((0, max(missing, 0)), (0, 0), (0, 0)))[:HEIGHT]


def _laid_over(picture: NDArray[np.uint8], values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Mix a picture (H, W, 3) with the colours of values (H, W) in [0, 1], the more the higher they are."""
    knots = np.linspace(0, 1, len(OVERLAY))
    colour = np.stack([np.interp(values, knots, OVERLAY[:, channel]) for channel in range(3)], axis=-1)
    share = OPACITY * values[..., None]
    return ((1 - share) * picture + share * colour).astype(np.uint8)

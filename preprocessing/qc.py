"""The quality-control picture of a scan: three planes with the mask's outline, and what was registered to it.

Stored pictures follow the radiological convention; `mirrored` gives the other one. Letters say which way is which. They
are bitmaps of our own, since a library's font may change, and with it the content of a picture made from the same scan.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SIDE = 192  # pixels of a plane
MARGIN = 30  # pixels around a plane, for the letters
BOX = SIDE + 2 * MARGIN
GAP = 18  # pixels between boxes, so that no letter seems to belong to the next
OUTLINE = (255, 176, 0)  # amber, seen by colour-blind eyes on grey
# A registered scan over grey, from its lowest to its highest value: blue to white, on which amber is still seen.
OVERLAY = np.array([(0, 0, 96), (0, 80, 220), (0, 190, 215), (235, 255, 255)], np.float32)
OPACITY = 0.7  # of the overlay's highest value; its lowest leaves the grey as it is
DIRECTIONS = (("L", "R"), ("P", "A"), ("I", "S"))  # of each axis in RAS+ order: of its first and of its last voxel
_BITMAPS = {
    "R": "####. #...# #...# ####. #.#.. #..#. #...#",
    "L": "#.... #.... #.... #.... #.... #.... #####",
    "A": ".###. #...# #...# ##### #...# #...# #...#",
    "P": "####. #...# #...# ####. #.... #.... #....",
    "S": ".#### #.... #.... .###. ....# ....# ####.",
    "I": "##### ..#.. ..#.. ..#.. ..#.. ..#.. #####",
}
LETTERS = {
    name: np.array([[255 * (dot == "#") for dot in row] for row in rows.split()], np.uint8).repeat(3, 0).repeat(3, 1)
    for name, rows in _BITMAPS.items()
}
"""Letter → its pixels, (21, 15), uint8."""


def three_planes(
    volume: NDArray[np.float32],
    mask: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
    *,
    overlay: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """Render the sagittal, coronal and axial slice through the middle of the mask, side by side.

    Radiological convention: the patient's right is on the left of the picture, and the face looks to the left.

    Args:
        volume: (X, Y, Z) in RAS+ order; grey from the 1st to the 99.5th percentile.
        mask: (X, Y, Z).
        spacing_mm: voxel size; a mm has as many pixels in every plane and direction.
        overlay: (X, Y, Z), laid over the grey in blue to white, over the same percentiles of its own.

    Returns:
        (252, 792, 3), uint8: three planes of 192 × 192, each with a margin for the letters of its directions.
    """
    grey = _stretched(volume)
    colour = None if overlay is None else _stretched(overlay)
    centre = [int(round(c)) for c in ndimage.center_of_mass(mask)]
    extent_mm = [n * mm for n, mm in zip(volume.shape, spacing_mm, strict=True)]
    pixels = [max(1, round(SIDE * mm / max(extent_mm))) for mm in extent_mm]
    boxes = []
    for axis in range(3):
        across, up = (other for other in range(3) if other != axis)
        plane, outline = np.take(grey, centre[axis], axis), np.take(mask, centre[axis], axis)
        over = None if colour is None else np.take(colour, centre[axis], axis)
        panel = _panel(plane, outline, (pixels[across], pixels[up]), over=over)
        (right, left), (bottom, top) = DIRECTIONS[across], DIRECTIONS[up]
        boxes.append(lettered(_centred(panel), left=left, right=right, top=top, bottom=bottom))
    gap = np.zeros((BOX, GAP, 3), np.uint8)
    return np.concatenate([boxes[0], gap, boxes[1], gap, boxes[2]], axis=1)


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
        (2 · 252 + 18, 792, 3), uint8, planes as in `three_planes`.

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


def mirrored(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn a picture of `three_planes` or `registered_planes` into that of the neurological convention, or back.

    Every plane is mirrored, and the letters at its two sides change places.
    """
    out = picture.copy()
    for top in range(MARGIN, picture.shape[0], BOX + GAP):
        for start in range(0, picture.shape[1], BOX + GAP):
            box = picture[top : top + SIDE, start : start + BOX]
            sides = (box[:, -MARGIN:], box[:, MARGIN:-MARGIN][:, ::-1], box[:, :MARGIN])
            out[top : top + SIDE, start : start + BOX] = np.concatenate(sides, axis=1)
    return out


def axial_slices(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Bring a sheet of axial slices to the radiological convention and write R, L, A and P around it.

    Args:
        picture: (n · side, m · side), slices with the patient's left on the left and the front on top.
        side: pixels of a slice.

    Returns:
        (n · side + 60, m · side + 60, 3), uint8.
    """
    height, width = picture.shape
    slices = picture.reshape(height, width // side, side)[:, :, ::-1].reshape(height, width)
    return lettered(slices[..., None].repeat(3, 2), left="R", right="L", top="A", bottom="P")


def lettered(picture: NDArray[np.uint8], *, left: str, right: str, top: str, bottom: str) -> NDArray[np.uint8]:
    """Frame a picture (H, W, 3) with a black margin, with a letter in the middle of each side: (H + 60, W + 60, 3)."""
    framed = np.pad(picture, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)))
    height, width = framed.shape[:2]
    places = (
        (left, height // 2, MARGIN // 2),
        (right, height // 2, width - MARGIN // 2),
        (top, MARGIN // 2, width // 2),
        (bottom, height - MARGIN // 2, width // 2),
    )
    for name, row, column in places:
        letter = LETTERS[name]
        first, start = row - letter.shape[0] // 2, column - letter.shape[1] // 2
        framed[first : first + letter.shape[0], start : start + letter.shape[1]] = letter[..., None]
    return framed


def _stretched(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch the 1st to the 99.5th percentile to [0, 1]."""
    low, high = np.percentile(volume, (1, 99.5))
    return np.clip((volume - low) / max(high - low, 1e-6), 0, 1)


def _panel(
    plane: NDArray[np.float32],
    mask: NDArray[np.bool_],
    pixels: tuple[int, int],
    *,
    over: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """Render one plane (horizontal, vertical) with so many pixels, mirrored, vertical axis up."""
    zoom = [wanted / n for wanted, n in zip(pixels, plane.shape, strict=True)]

    def enlarged(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.clip(ndimage.zoom(values, zoom, order=1, mode="nearest", grid_mode=True), 0, 1)

    inside = enlarged(mask.astype(np.float32)) > 0.5
    edge = inside & ~ndimage.binary_erosion(inside, iterations=2)
    picture = np.repeat((255 * enlarged(plane)).astype(np.uint8)[..., None], 3, axis=2)
    if over is not None:
        picture = _laid_over(picture, enlarged(over))
    picture[edge] = OUTLINE
    return picture.transpose(1, 0, 2)[::-1, ::-1]


def _centred(panel: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay a panel in the middle of a black square of 192 pixels."""
    missing = [SIDE - n for n in panel.shape[:2]]
    return np.pad(panel, (*((n // 2, n - n // 2) for n in missing), (0, 0)))


def _laid_over(picture: NDArray[np.uint8], values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Mix a picture (H, W, 3) with the colours of values (H, W) in [0, 1], the more the higher they are."""
    knots = np.linspace(0, 1, len(OVERLAY))
    colour = np.stack([np.interp(values, knots, OVERLAY[:, channel]) for channel in range(3)], axis=-1)
    share = OPACITY * values[..., None]
    return ((1 - share) * picture + share * colour).astype(np.uint8)

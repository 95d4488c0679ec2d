"""The quality-control picture: planes, proportions, outline."""

import numpy as np
import pytest
from scipy import ndimage

from preprocessing.qc import HEIGHT, OUTLINE, three_planes

GAP = 6


def _panels(picture: np.ndarray, widths: list[int]) -> list[np.ndarray]:
    starts = np.cumsum([0, *[w + GAP for w in widths]])
    return [picture[:, a : a + w] for a, w in zip(starts[:-1], widths, strict=True)]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.5, 3.0), (2.5, 1.2, 1.2)])
def test_a_ball_is_round_in_every_plane(spacing: tuple) -> None:
    shape = tuple(round(120 / s) for s in spacing)
    grid = np.stack(
        np.meshgrid(*[(np.arange(n) + 0.5) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij")
    )
    distance = np.linalg.norm(grid - 60, axis=0)
    picture = three_planes(np.clip(1.5 - distance / 40, 0, 1).astype(np.float32), distance < 40, spacing)
    assert picture.dtype == np.uint8
    assert picture.shape[0] == HEIGHT
    for panel in _panels(picture, [HEIGHT] * 3):
        rows, columns = np.nonzero((panel == OUTLINE).all(-1))
        expected = 80 * HEIGHT / 120
        slack = 2 * max(spacing) * HEIGHT / 120
        assert np.ptp(rows) == pytest.approx(expected, abs=slack)
        assert np.ptp(columns) == pytest.approx(expected, abs=slack)
        assert (rows.mean(), columns.mean()) == pytest.approx((95.5, 95.5), abs=slack)


def test_orientation() -> None:
    """Sagittal (front right), coronal (left is left), axial (left is left, front on top); up is up."""
    mask = np.zeros((40, 40, 40), bool)
    mask[5:35, 5:35, 5:35] = True
    volume = mask.astype(np.float32)
    volume[19:21, 27:31, 27:31] = 0  # seen by the sagittal plane: front, up
    volume[8:12, 19:21, 27:31] = 0  # coronal: left, up
    volume[8:12, 27:31, 19:21] = 0  # axial: left, front
    panels = _panels(three_planes(volume, mask, (1.0, 1.0, 1.0)), [HEIGHT] * 3)
    for panel, expected in zip(panels, ((True, True), (False, True), (False, True)), strict=True):
        dark = (panel[32:160, 32:160] < 60).all(-1)
        row, column = ndimage.center_of_mass(dark)
        assert dark.sum() == pytest.approx((4 * HEIGHT / 40) ** 2, rel=0.3)
        assert (column > 64, row < 64) == expected


@pytest.mark.parametrize("fill", [0.0, 5.0])
def test_flat_or_tiny_scans_still_give_a_picture(fill: float) -> None:
    mask = np.zeros((8, 9, 10), bool)
    mask[3, 4, 5] = True
    picture = three_planes(np.full((8, 9, 10), fill, np.float32), mask, (1.0, 1.0, 1.0))
    assert picture.shape[0] == HEIGHT
    assert picture.shape[2] == 3


@pytest.mark.parametrize("shape", [(17, 23, 31), (64, 64, 7), (13, 101, 47)])
def test_height_is_always_the_same(shape: tuple) -> None:
    generator = np.random.default_rng(0)
    picture = three_planes(generator.random(shape).astype(np.float32), generator.random(shape) > 0.4, (1.1, 0.9, 2.3))
    assert picture.shape[0] == HEIGHT

"""The quality-control picture: planes, proportions, outline."""

import numpy as np
import pytest
from scipy import ndimage

from preprocessing.qc import HEIGHT, OUTLINE, registered_planes, three_planes

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


def test_overlay_colours_where_it_is_high_and_leaves_the_rest() -> None:
    """A hot cube, up, in front and left of the middle: blue to white there, the grey picture as before elsewhere."""
    mask = np.zeros((48, 48, 48), bool)
    mask[6:42, 6:42, 6:42] = True
    volume = np.random.default_rng(0).random((48, 48, 48)).astype(np.float32)
    overlay = np.zeros((48, 48, 48), np.float32)
    overlay[8:26, 22:40, 22:40] = 7
    alone = three_planes(volume, mask, (1.0, 1.0, 1.0))
    both = three_planes(volume, mask, (1.0, 1.0, 1.0), overlay=overlay)
    assert both.shape == alone.shape
    changed = (both != alone).any(-1)
    scale = HEIGHT / 48
    corners = ((22, 22), (8, 22), (8, 22))  # of the feature map in each plane, voxels from the left and from below
    for panel, now, (left, below) in zip(
        _panels(changed, [HEIGHT] * 3), _panels(both, [HEIGHT] * 3), corners, strict=True
    ):
        rows, columns = np.nonzero(panel)
        edges = (columns.min(), columns.max() + 1, HEIGHT - 1 - rows.max(), HEIGHT - rows.min())
        np.testing.assert_allclose(edges, [scale * e for e in (left, left + 18, below, below + 18)], atol=scale)
        inner = now[rows.min() + 8 : rows.max() - 8, columns.min() + 8 : columns.max() - 8].astype(int)
        assert (inner.mean((0, 1))[[1, 2]] > inner.mean((0, 1))[0]).all()
    outlines = [(picture == OUTLINE).all(-1) for picture in (alone, both)]
    np.testing.assert_array_equal(*outlines)


def test_registered_scan_over_and_under() -> None:
    mask = np.zeros((30, 36, 33), bool)
    mask[5:25, 6:30, 5:28] = True
    volume, other = (np.random.default_rng(seed).random(mask.shape).astype(np.float32) for seed in (0, 1))
    picture = registered_planes(volume, other, mask, (1.5, 1.5, 2.0))
    above, below = picture[:HEIGHT], picture[HEIGHT + GAP :]
    np.testing.assert_array_equal(above, three_planes(volume, mask, (1.5, 1.5, 2.0), overlay=other))
    np.testing.assert_array_equal(below, three_planes(other, mask, (1.5, 1.5, 2.0)))
    assert (picture[HEIGHT : HEIGHT + GAP] == 0).all()


def test_scans_on_two_grids_are_refused() -> None:
    volume, mask = np.zeros((9, 9, 9), np.float32), np.ones((9, 9, 9), bool)
    with pytest.raises(ValueError, match=r"registered scan \(9, 9, 8\).*not on one grid; bring them there with"):
        registered_planes(volume, volume[:, :, 1:], mask, (1.0, 1.0, 1.0))

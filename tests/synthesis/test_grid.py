"""The common grid: in mm, whatever the voxels and axes of the scan are."""

import numpy as np
import pytest
import torch

from synthesis.grid import (
    LEVELS,
    box_affine,
    box_shape,
    onto_box,
    picture_of,
    preview,
    small_picture,
    volume_of,
)


def ball(spacing_mm: float, centre_mm: tuple[float, float, float]) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """A ball of radius 50 mm somewhere in the world, brighter to the right; volume, mask, affine."""
    shape = tuple(round(side / spacing_mm) for side in (130, 140, 120))
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = np.array(centre_mm) - spacing_mm * (np.array(shape) - 1) / 2
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    off = index * spacing_mm + affine[:3, 3] - np.array(centre_mm)
    inside = np.linalg.norm(off, axis=-1) < 50
    values = np.where(inside, 0.5 + off[..., 0] / 200, 0).astype(np.float32)
    return torch.from_numpy(values), torch.from_numpy(inside), affine


@pytest.mark.parametrize(("spacing", "where"), [(1.5, (0.0, 0.0, 0.0)), (2.0, (31.3, -47.9, 12.2)), (5.0, (3, 2, 1))])
def test_a_brain_is_in_the_middle_with_its_size_in_mm(spacing: float, where: tuple[float, float, float]) -> None:
    volume, mask, affine = ball(spacing, where)
    placed = onto_box(volume, mask, affine)
    even = onto_box(mask.float(), mask, affine)
    assert placed.shape == box_shape(4.0) == (44, 52, 44)
    index = np.stack(np.meshgrid(*map(np.arange, placed.shape), indexing="ij"), axis=-1)
    world = index * 4.0 + box_affine(4.0)[:3, 3]
    seen = even > 0.5
    np.testing.assert_allclose(world[seen].mean(axis=0), 0, atol=0.5)
    assert seen.sum() * 64 / (4 / 3 * np.pi * 50**3) == pytest.approx(1, rel=0.08)
    right = placed[world[..., 0] > 20]
    left = placed[world[..., 0] < -20]
    assert 0.2 < right[right > 0.2].mean() - left[left > 0.2].mean() < 0.31  # 0.306 but for the edges


def test_outside_of_the_brain_nothing_is_kept() -> None:
    volume, mask, affine = ball(2.0, (0, 0, 0))
    bright = volume.where(mask, torch.ones(()))
    np.testing.assert_array_equal(onto_box(bright, mask, affine), onto_box(volume, mask, affine))
    with pytest.raises(ValueError, match="empty"):
        onto_box(volume, torch.zeros_like(mask), affine)


def test_volumes_go_there_and_back() -> None:
    placed = onto_box(*ball(3.0, (0, 0, 0)))
    back = volume_of(placed.ravel())
    assert back.dtype == np.int16
    np.testing.assert_allclose(back / LEVELS, np.where(placed < 0.02, 0, placed), atol=0.5 / LEVELS + 1e-6)
    wild = volume_of(np.linspace(-5, 5, placed.size, dtype=np.float32))
    assert (wild.min(), wild.max()) == (0, LEVELS)


def test_the_preview_has_the_right_side_on_the_left_and_the_front_up() -> None:
    volume = np.zeros(box_shape(4.0), np.int16)
    volume[-1, -1, 22] = LEVELS  # right, front
    shown = preview(volume)
    assert shown.shape == (52, 44)
    assert shown[0, 0] == 255
    assert shown.sum() == 255


def test_a_picture_is_its_middle_square_shrunk() -> None:
    pixels = np.zeros((90, 150, 3), np.uint8)
    pixels[:, 30:120] = (200, 100, 50)
    small = small_picture(pixels, side=30)
    np.testing.assert_allclose(small, np.broadcast_to(np.array([200, 100, 50]) / 255, (30, 30, 3)), atol=1e-6)
    np.testing.assert_array_equal(picture_of(small.ravel(), side=30), np.broadcast_to([200, 100, 50], (30, 30, 3)))

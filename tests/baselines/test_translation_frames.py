"""Slices of two scans in one frame: places and sizes in the world, against an analytic head and SimpleITK."""

import numpy as np
import pytest
import SimpleITK
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from baselines.translation.frames import Frame, aligned, brain_frame, from_frame, paired_slices, to_frame, world_box
from preprocessing.errors import ScanError

HEAD_MM = np.array([-12.0, 21.5, 40.25])  # middle of the head in the world
LENGTHS = np.array([21.0, 27.0, 24.0])  # of its half axes, mm
TURNED = pytest.mark.parametrize("degrees", [0.0, 17.0])


def _affine(spacing: tuple, shape: tuple, degrees: float = 0.0, off_centre_mm: tuple = (0, 0, 0)) -> NDArray:
    """Voxel to world of a grid whose middle is near the head's."""
    affine = np.eye(4)
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array([1.0, -2.0, 0.5]) / np.sqrt(5.25)).as_matrix()
    affine[:3, :3] = turn * np.array(spacing)
    affine[:3, 3] = HEAD_MM + off_centre_mm - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _value(world: NDArray, middle: NDArray = HEAD_MM) -> NDArray:
    """A smooth head without symmetry: brighter to the right, to the front and to the top."""
    d = (world - middle) / LENGTHS
    shade = 0.6 + 0.2 * d @ np.array([0.5, 0.7, 0.5]) + 0.1 * np.sin(3 * d[..., 0]) * np.cos(2 * d[..., 1])
    return np.clip(shade, 0, 1) / (1 + np.exp(12 * (np.linalg.norm(d, axis=-1) - 0.85)))


def _scan(spacing: tuple, shape: tuple, degrees: float = 0.0, **where) -> tuple[Tensor, Tensor, NDArray]:
    """The head on a grid, its mask and the grid's affine."""
    affine = _affine(spacing, shape, degrees, **where)
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    value = _value(voxels @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32)
    return torch.from_numpy(value), torch.from_numpy(value > 0.05), affine


def _points(frame: Frame) -> NDArray:
    """World position of every pixel, (S, size, size, 3): rows from front to back, columns from left to right."""
    points = np.empty((len(frame.heights_mm), frame.size, frame.size, 3))
    for s, z in enumerate(frame.heights_mm):
        for row in range(frame.size):
            for column in range(frame.size):
                x = frame.centre_mm[0] + (column - (frame.size - 1) / 2) * frame.pixel_mm
                y = frame.centre_mm[1] - (row - (frame.size - 1) / 2) * frame.pixel_mm
                points[s, row, column] = x, y, z
    return points


FRAME = Frame((-10.0, 20.0), 36, 2.0, tuple(25.0 + 4.0 * n for n in range(8)))


@TURNED
@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (1.2, 1.8, 1.0), (2.5, 2.0, 2.2)])
def test_every_pixel_shows_its_place_in_the_world(spacing: tuple, degrees: float) -> None:
    shape = tuple(int(84 / s) for s in spacing)
    volume, _, affine = _scan(spacing, shape, degrees, off_centre_mm=(3, -2, 1))
    slices = to_frame(volume, affine, FRAME)
    assert slices.shape == (8, 1, 36, 36)
    assert slices.dtype == torch.float32
    expected = _value(_points(FRAME))
    assert expected.max() > 0.6
    np.testing.assert_allclose(slices[:, 0].numpy(), expected, atol=0.03)
    assert np.abs(slices[:, 0].numpy() - expected).mean() < 0.002


@TURNED
def test_growing_is_close_to_simpleitks_spline(degrees: float) -> None:
    """SimpleITK places and turns by itself; its spline differs from our kernel by little where the volume is smooth."""
    shape = (50, 52, 48)
    volume, _, affine = _scan((1.6, 1.7, 1.5), shape, degrees)
    image = SimpleITK.GetImageFromArray(volume.numpy().transpose(2, 1, 0).astype(np.float64))
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(lengths.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / lengths).ravel().tolist())
    frame = Frame((-11.0, 22.0), 40, 1.1, tuple(30.0 + 1.3 * n for n in range(12)))
    points = _points(frame)
    target = SimpleITK.Image(40, 40, 12, SimpleITK.sitkFloat64)
    target.SetSpacing((1.1, 1.1, 1.3))
    target.SetOrigin(points[0, 0, 0].tolist())
    target.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    expected = SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(image, target, SimpleITK.Transform(), SimpleITK.sitkBSpline)
    )
    np.testing.assert_allclose(to_frame(volume, affine, frame)[:, 0].numpy(), expected, atol=0.006)


@pytest.mark.parametrize("pixel_mm", [1.0, 2.0, 3.7])
def test_turned_and_straight_agree(pixel_mm: float) -> None:
    """A turn just too large to be ignored goes point by point, antialiasing included; noise shows every weight."""
    noise = torch.rand(30, 32, 28, generator=torch.Generator().manual_seed(0))
    frame = Frame((-12.0, 21.0), 24, pixel_mm, (30.0, 40.2, 45.0))
    straight = to_frame(noise, _affine((1.5, 1.6, 1.4), (30, 32, 28)), frame)
    turned = to_frame(noise, _affine((1.5, 1.6, 1.4), (30, 32, 28), degrees=0.02), frame)
    assert straight.std() > 0.05
    assert not torch.equal(straight, turned)
    np.testing.assert_allclose(turned.numpy(), straight.numpy(), atol=0.02)


@TURNED
def test_small_slices_are_antialiased_and_keep_their_brightness(degrees: float) -> None:
    """Stripes finer than the pixels turn grey instead of into other stripes."""
    volume = torch.full((60, 60, 60), 0.5)
    affine = _affine((1.0, 1.0, 1.0), (60, 60, 60), degrees)
    frame = Frame((float(HEAD_MM[0]), float(HEAD_MM[1])), 8, 4.0, (40.0, 41.0))
    np.testing.assert_allclose(to_frame(volume, affine, frame)[:, :, 1:-1, 1:-1].numpy(), 0.5, atol=1e-5)
    volume[::2] = 0
    stripes = to_frame(2 * volume, affine, frame)[:, :, 1:-1, 1:-1].numpy()
    np.testing.assert_allclose(stripes, 0.5, atol=0.03)


@TURNED
def test_outside_the_volume_is_nothing(degrees: float) -> None:
    volume = torch.ones(20, 20, 20)
    affine = _affine((1.5, 1.5, 1.5), (20, 20, 20), degrees)
    frame = Frame((float(HEAD_MM[0]), float(HEAD_MM[1])), 40, 2.0, (-30.0, 40.0, 100.0))
    slices = to_frame(volume, affine, frame)
    assert (slices[[0, 2]] == 0).all()
    np.testing.assert_allclose(slices[1, 0, 15:-15, 15:-15].numpy(), 1, atol=1e-6)
    assert (slices[1, 0, :8] == 0).all()
    assert (slices[1, 0, :, -8:] == 0).all()
    assert slices.min() >= 0
    assert slices.max() <= 1


def test_a_mask_stays_a_mask() -> None:
    volume, mask, affine = _scan((1.5, 1.5, 1.5), (56, 56, 56))
    inside = to_frame(mask, affine, FRAME)
    assert inside.dtype == torch.bool
    expected = _value(_points(FRAME)) > 0.05
    assert (inside[:, 0].numpy() == expected).mean() > 0.99
    assert 0.2 < expected.mean() < 0.8


# --- and back ---


def test_there_and_back() -> None:
    """The volume of the slices, looked at in the frame that they came from, is the slices."""
    volume, _, affine = _scan((1.5, 1.5, 1.5), (56, 56, 56))
    slices = to_frame(volume, affine, FRAME)
    made, made_affine = from_frame(slices, FRAME)
    assert made.shape == (36, 36, 8)
    np.testing.assert_allclose(to_frame(made, made_affine, FRAME).numpy(), slices.numpy(), atol=1e-6)
    # every voxel is where its affine says
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in made.shape], indexing="ij"), axis=-1)
    world = voxels @ made_affine[:3, :3].T + made_affine[:3, 3]
    np.testing.assert_allclose(made.numpy(), _value(world), atol=0.03)
    np.testing.assert_array_equal(np.diag(made_affine), [2, 2, 4, 1])


def test_a_frame_on_the_voxels_of_a_scan_gives_the_scan_back() -> None:
    """Pixels that lie on voxels: nothing is interpolated, and what the frame adds around the scan is 0."""
    volume, _, affine = _scan((1.5, 1.5, 1.5), (40, 44, 30))
    x, y, z = affine[:3, 3]
    frame = Frame((x + 1.5 * (31.5 - 12), y + 1.5 * (31.5 - 10)), 64, 1.5, tuple(z + 1.5 * n for n in range(30)))
    made, made_affine = from_frame(to_frame(volume, affine, frame), frame)
    np.testing.assert_allclose(made[12:52, 10:54].numpy(), volume.numpy(), atol=1e-5)
    assert made.sum().item() == pytest.approx(volume.sum().item(), rel=1e-5)
    first = made_affine @ [12, 10, 0, 1]  # where the scan's first voxel has gone
    np.testing.assert_allclose(first, affine[:, 3], atol=1e-9)
    np.testing.assert_allclose(made_affine[:3, :3], affine[:3, :3])


def test_slices_that_are_no_volume() -> None:
    with pytest.raises(ValueError, match=r"slices are \(7, 1, 36, 36\); the frame has \(8, 1, 36, 36\)"):
        from_frame(torch.zeros(7, 1, 36, 36), FRAME)
    for heights, gaps in (((0.0,), r"\[\]"), ((0.0, 3.0, 9.0), r"\[3\.0, 6\.0\]"), ((3.0, 0.0), r"\[-3\.0\]")):
        with pytest.raises(ValueError, match=rf"{len(heights)} slices with gaps {gaps} mm; a volume needs two or more"):
            from_frame(torch.zeros(len(heights), 1, 4, 4), Frame((0.0, 0.0), 4, 1.0, heights))


# --- frames and pairs ---


@pytest.mark.parametrize("degrees", [0.0, 30.0])
def test_the_frame_of_a_brain(degrees: float) -> None:
    _, mask, affine = _scan((1.0, 1.2, 1.1), (70, 70, 70), degrees, off_centre_mm=(4, 4, -4))
    frame = brain_frame(mask, affine, size=48, slice_spacing_mm=4.0)
    ends = []  # where the head's value falls to 0.05 along each axis, from the formula
    for axis in np.eye(3):
        line = np.linspace(-45, 45, 30001)
        inside = line[_value(HEAD_MM + line[:, None] * axis) > 0.05]
        ends.append((inside.min(), inside.max()))
    np.testing.assert_allclose(frame.centre_mm, [HEAD_MM[i] + np.mean(ends[i]) for i in (0, 1)], atol=1.2)
    low, high = HEAD_MM[2] + ends[2]
    heights = np.array(frame.heights_mm)
    np.testing.assert_allclose(np.diff(heights), 4)
    assert 0 <= heights[0] - low + 1.2 < 4
    assert 0 <= high - heights[-1] + 1.2 < 4
    assert heights[0] - low == pytest.approx(high - heights[-1], abs=1.2)
    assert (frame.size, frame.pixel_mm) == (48, 4.0)


def test_pairs_of_two_grids_show_the_same_places() -> None:
    """The second scan has other voxels, is turned and shows the head darker; its own world says where."""
    volume_a, mask_a, affine_a = _scan((1.5, 1.5, 1.5), (60, 64, 58), off_centre_mm=(2, 0, -3))
    volume_b, _, affine_b = _scan((2.0, 2.1, 1.9), (44, 44, 44), degrees=12, off_centre_mm=(-3, 2, 4))
    mask_b = volume_b > 0.3
    pairs = paired_slices(
        volume_a, mask_a, affine_a, volume_b / 2, mask_b, affine_b, size=32, field_of_view_mm=80.0, slice_spacing_mm=4.0
    )
    assert pairs.note == ""
    assert pairs.a.shape == pairs.b.shape == pairs.mask.shape == (len(pairs.frame.heights_mm), 1, 32, 32)
    expected = _value(_points(pairs.frame))
    np.testing.assert_allclose(pairs.a[:, 0].numpy(), expected, atol=0.05)
    np.testing.assert_allclose(pairs.b[:, 0].numpy(), expected / 2, atol=0.05)
    assert torch.equal(pairs.mask, to_frame(mask_a, affine_a, pairs.frame))
    assert (pairs.mask[:, 0].numpy() == (expected > 0.05)).mean() > 0.98
    assert to_frame(mask_b, affine_b, pairs.frame).flatten(1).any(1).all()


@pytest.mark.parametrize(("shift", "told"), [((8, -9, 11), False), ((30, -80, 120), True)])
def test_brains_far_apart_are_laid_over_each_other(shift: tuple, told: bool) -> None:
    volume, mask, affine = _scan((1.5, 1.5, 1.5), (60, 64, 58))
    moved = affine.copy()
    moved[:3, 3] += shift
    distance = round(float(np.linalg.norm(shift)))
    pairs = paired_slices(volume, mask, affine, volume, mask, moved, size=32, field_of_view_mm=96.0)
    if told:
        assert pairs.note.startswith(f"the brains lie {distance} mm apart, so the two scans do not share coordinates")
        np.testing.assert_allclose(pairs.b.numpy(), pairs.a.numpy(), atol=1e-5)
        np.testing.assert_allclose(aligned(mask, affine, mask, moved)[0], affine, atol=1e-9)
    else:
        assert pairs.note == ""
        assert (pairs.b - pairs.a).abs().max() > 0.2
        (x_a, y_a), (x_b, y_b) = _middle(pairs.a), _middle(pairs.b)
        assert x_b - x_a == pytest.approx(8 / 3, abs=0.35)  # 8 mm to the right, of 3 mm pixels
        assert y_b - y_a == pytest.approx(9 / 3, abs=0.35)  # 9 mm to the back, which is down
    assert moved[0, 3] == affine[0, 3] + shift[0]  # what was handed in stays


def _middle(slices: Tensor) -> tuple[float, float]:
    """Column and row of the centre of mass."""
    column, row = (torch.arange(float(n)) for n in (slices.shape[3], slices.shape[2]))
    return float((slices * column).sum() / slices.sum()), float((slices * row[:, None]).sum() / slices.sum())


def test_slices_with_the_brain_of_one_scan_only_are_left_out() -> None:
    """The second scan ends 10 mm above the first one's lowest slice."""
    volume, mask, affine = _scan((1.5, 1.5, 1.5), (60, 64, 58))
    low, high = world_box(mask, affine)
    first = int(np.ceil((low[2] + 10 - affine[2, 3]) / 1.5))
    cut = affine.copy()
    cut[2, 3] += 1.5 * first
    pairs = paired_slices(volume, mask, affine, volume[..., first:], mask[..., first:], cut, size=32)
    heights = np.array(pairs.frame.heights_mm)
    assert heights[0] == pytest.approx(low[2] + 10, abs=3)
    assert high[2] - heights[-1] < 3
    assert from_frame(pairs.a, pairs.frame)[0].shape == (32, 32, len(heights))


def test_brains_that_cannot_be_paired() -> None:
    volume, mask, affine = _scan((3.0, 3.0, 3.0), (20, 24, 20))
    nothing = torch.zeros_like(mask)
    for a, b in ((mask, nothing), (nothing, mask)):
        with pytest.raises(ScanError, match="the brain mask is empty"):
            paired_slices(volume, a, affine, volume, b, affine, size=32)
    point, other = nothing.clone(), nothing.clone()
    point[10, 12, 3:6], other[10, 12, 8:10] = True, True
    with pytest.raises(ScanError, match="no slice shows the brain of both scans"):
        paired_slices(volume, point, affine, volume, other, affine, size=64)

"""Phantom balls in the slices: place, size, orientation; pictures against Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from preprocessing.errors import ScanError
from preprocessing.slices import bounding_box, map_to_volume, picture_to_slice, volume_to_slices

SHAPE = (100, 110, 90)
PIXEL_MM = 192 / 224


def _ball(centre_mm, diameter_mm: float, spacing=(1.5, 1.5, 1.5), shape=SHAPE) -> tuple[torch.Tensor, torch.Tensor]:
    """A ball with a surface one voxel soft; its mask is where it is above one half."""
    grid = np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij"))
    distance = np.linalg.norm(grid - np.reshape(centre_mm, (3, 1, 1, 1)), axis=0)
    ball = np.clip((diameter_mm / 2 - distance) / max(spacing) + 0.5, 0, 1).astype(np.float32)
    return torch.from_numpy(ball), torch.from_numpy(ball > 0.5)


def _width(plane: torch.Tensor) -> tuple[float, float]:
    """Full width at half maximum of the ball in a slice along rows and columns, pixels."""
    inside = (plane > 0.5).numpy()
    area = plane.sum().item()  # soft edges count in parts
    assert area == pytest.approx(inside.sum(), rel=0.05)
    return float(inside.any(1).sum()), float(inside.any(0).sum())


@pytest.mark.parametrize("centre", [(75, 80, 66), (40, 120, 40), (110, 45, 90), (38.3, 127.4, 97.1)])
def test_a_ball_anywhere_lands_in_the_middle_at_its_size(centre: tuple) -> None:
    volume, mask = _ball(centre, diameter_mm=60)
    slices = volume_to_slices(volume, mask, (1.5, 1.5, 1.5))
    middle = slices[len(slices) // 2]
    assert middle.shape == (224, 224)
    # the bounding box is known to half a voxel, 0.9 pixels
    np.testing.assert_allclose(ndimage.center_of_mass(middle.numpy()), (111.5, 111.5), atol=0.9)
    for width in _width(middle):
        assert width == pytest.approx(60 / PIXEL_MM, abs=2.5)  # soft edge, and the equator between two slices


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.9, 1.4, 3.0), (2.0, 2.0, 2.0)])
@pytest.mark.parametrize(("size", "view"), [(224, 192.0), (64, 192.0), (96, 150.0)])
def test_one_scale_whatever_the_voxels(spacing: tuple, size: int, view: float) -> None:
    shape = tuple(int(120 / s) for s in spacing)
    volume, mask = _ball((60, 60, 60), 70, spacing, shape)
    slices = volume_to_slices(volume, mask, spacing, size=size, field_of_view_mm=view)
    assert slices.shape[1:] == (size, size)
    for width in _width(slices[len(slices) // 2]):
        assert width == pytest.approx(70 * size / view, abs=1 + max(spacing) * size / view)


def test_a_larger_brain_stays_larger() -> None:
    areas = []
    for diameter in (50, 75):
        slices = volume_to_slices(*_ball((75, 80, 66), diameter), (1.5, 1.5, 1.5))
        areas.append(float(slices.amax(0).sum()))
    assert (areas[1] / areas[0]) ** 0.5 == pytest.approx(1.5, rel=0.02)


def test_what_does_not_fit_is_cut_and_what_is_missing_is_zero() -> None:
    volume, mask = torch.ones(40, 40, 40), torch.ones(40, 40, 40, dtype=torch.bool)
    large = volume_to_slices(volume, mask, (1.5, 1.5, 1.5), size=100, field_of_view_mm=100.0)  # 60 of 100 mm filled
    assert (large[:, :15] == 0).all()
    assert (large[:, :, -15:] == 0).all()
    np.testing.assert_allclose(large[:, 24:76, 24:76].numpy(), 1, atol=1e-5)
    assert float(large[0].sum()) == pytest.approx(60 * 60, rel=0.01)
    small = volume_to_slices(volume, mask, (1.5, 1.5, 1.5), size=100, field_of_view_mm=40.0)
    np.testing.assert_allclose(small.numpy(), 1, atol=1e-5)


@pytest.mark.parametrize("spacing", [0.5, 0.6, 0.7, 0.8])
def test_small_voxels_keep_their_brightness(spacing: float) -> None:
    """Antialiasing by no whole number must not leave a ripple on a flat brain."""
    volume = torch.full((120, 120, 9), 0.5)
    mask = torch.ones_like(volume, dtype=torch.bool)
    slices = volume_to_slices(volume, mask, (spacing,) * 3)
    half = int(60 * spacing / PIXEL_MM) - 4
    inside = slices[:, 112 - half : 112 + half, 112 - half : 112 + half]
    np.testing.assert_allclose(inside.numpy(), 0.5, atol=0.5e-3)


def test_left_is_left_and_front_is_on_top() -> None:
    """RAS+: x grows to the right, y to the front, z upwards."""
    volume, mask = torch.zeros(60, 60, 12), torch.zeros(60, 60, 12, dtype=torch.bool)
    mask[10:50, 10:50, 2:10] = True
    volume[12:16, 44:48, 2:5] = 1.0  # left, front, low
    slices = volume_to_slices(volume, mask, (2.0, 2.0, 2.0), size=96)
    assert len(slices) == 8
    assert [bool(s.max() > 0.5) for s in slices] == [True] * 3 + [False] * 5  # from the feet up
    row, column = ndimage.center_of_mass(slices[1].numpy())
    # 13.5 and 45.5 voxels of 2 mm, the box is centred on 29.5, pixels of 2 mm
    assert column == pytest.approx(47.5 - 16, abs=0.1)
    assert row == pytest.approx(47.5 - 16, abs=0.1)


@pytest.mark.parametrize(
    ("slice_mm", "every"), [(None, 1), (0.5, 1), (1.5, 1), (3.0, 2), (6.0, 4), (7.4, 5), (500.0, 333)]
)
@pytest.mark.parametrize(("low", "high"), [(3, 4), (5, 45), (5, 46), (0, 60)])
def test_slice_spacing(slice_mm: float | None, every: int, low: int, high: int) -> None:
    volume, mask = torch.zeros(12, 12, 60), torch.zeros(12, 12, 60, dtype=torch.bool)
    mask[:, :, low:high] = True
    volume[:] = torch.arange(60) / 100
    slices = volume_to_slices(volume, mask, (1.5, 1.5, 1.5), size=32, field_of_view_mm=16.0, slice_spacing_mm=slice_mm)
    z = (100 * slices[:, 16, 16]).round().int().tolist()
    assert z[0] >= low
    assert z[-1] < high
    assert set(np.diff(z)) <= {every}
    below, above = z[0] - low, high - 1 - z[-1]
    assert abs(below - above) <= 1  # what is left over is left on both sides
    assert below + above < every


def test_empty_mask() -> None:
    with pytest.raises(ScanError, match="the brain mask is empty"):
        volume_to_slices(torch.rand(9, 9, 9), torch.zeros(9, 9, 9, dtype=torch.bool), (1.0, 1.0, 1.0))


def test_bounding_box() -> None:
    mask = np.zeros((9, 10, 11), bool)
    mask[2, 7, 3] = mask[5, 4, 10] = True
    expected = ndimage.find_objects(mask.astype(int))[0]
    low, high = bounding_box(torch.from_numpy(mask))
    assert low == tuple(s.start for s in expected)
    assert high == tuple(s.stop for s in expected)


@pytest.mark.parametrize(("height", "width"), [(512, 768), (256, 256), (128, 192), (576, 384)])
def test_picture_is_pillows_resize_and_centre_crop(height: int, width: int) -> None:
    """Sizes whose longer side comes out even. Pillow rounds to 8 bits after each axis: 1.5 grey values."""
    coarse = np.random.default_rng(height).integers(40, 216, (height // 16, width // 16, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    scale = 256 / min(height, width)
    resized = smooth.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    left, top = (resized.width - 224) // 2, (resized.height - 224) // 2
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224)))
    ours = picture_to_slice(np.array(smooth))
    assert ours.shape == (1, 3, 224, 224)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(255 * ours[0].permute(1, 2, 0).numpy(), expected, atol=1.5)


def test_histology_picture_to_a_fraction_of_a_pixel() -> None:
    """700x460, as BreakHis has them: 256 of 460 leaves 389.57 pixels, so Pillow resizes the very box of the crop."""
    picture = np.random.default_rng(0).integers(0, 256, (460, 700, 3), dtype=np.uint8)
    half = 112 * 460 / 256
    box = (350 - half, 230 - half, 350 + half, 230 + half)
    planes = [Image.fromarray(picture[..., c].astype(np.float32)) for c in range(3)]
    expected = np.stack([np.asarray(p.resize((224, 224), Image.Resampling.BICUBIC, box=box)) for p in planes])
    np.testing.assert_allclose(picture_to_slice(picture)[0].numpy(), np.clip(expected / 255, 0, 1), atol=1e-5)


@pytest.mark.parametrize(("slice_mm", "slab"), [(None, 3), (3.0, 2), (4.5, 1)])
def test_what_is_found_in_slices_goes_back_to_where_it_came_from(slice_mm: float | None, slab: int) -> None:
    """Means over cells of a linear volume, spread linearly, are that volume again between the outermost centres."""
    shape, spacing, view = (70, 84, 66), (2.0, 1.5, 1.5), 112.0
    x, y, z = (torch.arange(n).float() for n in shape)
    volume = 0.1 + 0.004 * x[:, None, None] + 0.002 * y[None, :, None] + 0.005 * z[None, None, :]
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[6:64, 5:80, 3:60] = True  # 116 mm, wider than the field of view
    options = {"field_of_view_mm": view, "slice_spacing_mm": slice_mm}
    slices = volume_to_slices(volume, mask, spacing, **options)
    cells = torch.nn.functional.avg_pool2d(slices[:, None], 32)[:, 0]
    slabs = torch.stack([part.mean(0) for part in cells.split(slab)])
    values = map_to_volume(slabs, mask, spacing, slices_a_slab=slab, **options)
    assert values.shape == shape
    assert not values[~mask].any()
    inner = (slice(14, 56), slice(12, 72), slice(9, 54))
    torch.testing.assert_close(values[inner], volume[inner], atol=2e-3, rtol=0)


def test_one_cell_fills_the_mask() -> None:
    mask = torch.zeros(6, 7, 8, dtype=torch.bool)
    mask[1:5, 2:6, 3:7] = True
    values = map_to_volume(torch.full((1, 1, 1), 0.25), mask, (1.0, 1.0, 1.0), slices_a_slab=9)
    torch.testing.assert_close(values, 0.25 * mask)

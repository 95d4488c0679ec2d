"""Bicubic resampling against Pillow, torch, polynomials and the world."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.spatial.transform import Rotation

from preprocessing.resample import axis_weights, cubic_kernel, resample

# new voxel size of voxels of 1 mm; 24 and 30 voxels are whole numbers of each, so that both grids end together
WHOLE = [0.25, 0.5, 0.75, 1.5, 2.0, 3.0, 6.0]


def _affine(spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), degrees: float = 0.0) -> np.ndarray:
    """Oblique when turned: about an axis that is no voxel axis."""
    affine = np.eye(4)
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array([1.0, -2.0, 0.5]) / np.sqrt(5.25)).as_matrix()
    affine[:3, :3] = turn * np.array(spacing)
    affine[:3, 3] = (-31.0, 17.5, 4.25)
    return affine


def _world(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """World position of every voxel, (X, Y, Z, 3)."""
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    return voxels @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("new", WHOLE)
def test_agrees_with_pillow(new: float) -> None:
    plane = np.random.default_rng(0).normal(size=(24, 30)).astype(np.float32)
    size = (round(30 / new), round(24 / new))
    expected = np.asarray(Image.fromarray(plane, mode=None).resize(size, Image.Resampling.BICUBIC))
    ours, _ = resample(torch.from_numpy(plane)[None], _affine(), spacing_mm=(1.0, new, new))
    np.testing.assert_allclose(ours[0].numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("new", WHOLE)
def test_agrees_with_torch(new: float) -> None:
    volume = torch.randn(3, 24, 30, generator=torch.Generator().manual_seed(1))
    size = (round(24 / new), round(30 / new))
    expected = F.interpolate(volume[None], size=size, mode="bicubic", antialias=True)[0]
    ours, _ = resample(volume, _affine(), spacing_mm=(1.0, new, new))
    torch.testing.assert_close(ours, expected, atol=3e-6, rtol=0)


def test_three_axes_are_two_torch_passes() -> None:
    volume = torch.randn(12, 18, 24, generator=torch.Generator().manual_seed(2))
    once = F.interpolate(volume[None], size=(9, 16), mode="bicubic", antialias=True)[0]  # y and z
    expected = F.interpolate(once.permute(2, 0, 1)[None], size=(18, 9), mode="bicubic", antialias=True)[0]  # x, y stays
    ours, _ = resample(volume, _affine((1.0, 1.0, 2.0)), spacing_mm=(12 / 18, 2.0, 3.0))
    torch.testing.assert_close(ours, expected.permute(1, 2, 0), atol=3e-6, rtol=0)


def test_kernel_is_keys_and_interpolates() -> None:
    x = np.linspace(-2.5, 2.5, 1001)
    d, a = np.abs(x), -0.5  # Keys 1981, equation 15
    expected = np.where(d < 1, 1.5 * d**3 - 2.5 * d**2 + 1, np.where(d < 2, a * (d**3 - 5 * d**2 + 8 * d - 4), 0))
    np.testing.assert_allclose(cubic_kernel(torch.from_numpy(x)).numpy(), expected, atol=1e-14)
    assert cubic_kernel(torch.arange(-3.0, 4.0)).tolist() == [0, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("new", [0.3, 0.5, 0.8, 2.0, 3.0])  # growing by anything, shrinking by whole numbers: exact
def test_reproduces_quadratics_inside(new: float) -> None:
    affine = _affine((1.0, 1.0, 1.0), degrees=25)
    shape = (30, 33, 36)
    a, b, c = np.random.default_rng(3).normal(size=(3, 3))

    def quadratic(world: np.ndarray) -> np.ndarray:
        return (world @ a / 20) ** 2 + (world @ b) * (world @ c) / 400 + world @ a / 5 - 1

    volume = torch.from_numpy(quadratic(_world(shape, affine)))
    new_volume, new_affine = resample(volume.float(), affine, spacing_mm=new)
    expected = quadratic(_world(tuple(new_volume.shape), new_affine))
    edge = int(np.ceil(2 * max(new, 1) / new)) + 1
    inside = (slice(edge, -edge),) * 3
    assert expected[inside].size > 100
    np.testing.assert_allclose(new_volume.numpy()[inside], expected[inside], atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("new", [0.3, 0.9, 1.0, 1.3, 1.5, 2.0, 2.6, 40.0])
def test_keeps_constants(new: float) -> None:
    ours, _ = resample(torch.full((11, 12, 13), 7.25), _affine(), spacing_mm=new)
    torch.testing.assert_close(ours, torch.full_like(ours, 7.25))


@pytest.mark.parametrize("degrees", [0.0, 20.0, 133.0])
@pytest.mark.parametrize(
    ("spacing", "new", "share"),
    [
        ((3.0, 3.0, 3.0), 1.5, 1e-5),
        ((1.5, 2.1, 6.0), 1.5, 1e-5),
        ((1.0, 1.0, 0.75), 1.5, 0.015),  # 1.5 is no whole number: the stretched kernel ripples, as Pillow's does
        ((0.9, 1.1, 6.0), 1.5, 0.015),
        ((2.0, 2.0, 2.0), 5.0, 0.015),
    ],
)
def test_a_ramp_stays_the_same_function_of_the_world(spacing: tuple, new: float, share: float, degrees: float) -> None:
    """Wrong by half a voxel, an axis swapped or an oblique affine ignored: the ramp would move.

    `share` is the tolerance, in steps between two new voxels.
    """
    affine = _affine(spacing, degrees)
    slope = np.array([0.7, -1.3, 0.4])
    volume = torch.from_numpy(_world((40, 38, 36), affine) @ slope).float()
    ours, new_affine = resample(volume, affine, spacing_mm=new)
    expected = _world(tuple(ours.shape), new_affine) @ slope
    edge = [int(np.ceil(2 * max(new, s) / new)) + 1 for s in spacing]
    inside = tuple(slice(e, -e) for e in edge)
    assert expected[inside].size > 100
    np.testing.assert_allclose(ours.numpy()[inside], expected[inside], atol=share * new * np.abs(slope).sum())


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.94, 0.94, 6.0), (1.3, 0.7, 2.2)])
@pytest.mark.parametrize("new", [0.8, 1.5, 4.0, (1.0, 2.0, 3.0)])
def test_centre_spacing_and_direction_stay(spacing: tuple, new: float | tuple) -> None:
    affine = _affine(spacing, degrees=33)
    volume = torch.zeros(2, 21, 34, 29)
    ours, new_affine = resample(volume, affine, spacing_mm=new)
    shape = ours.shape[1:]
    assert shape == tuple(
        max(1, round(n * o / w)) for n, o, w in zip((21, 34, 29), spacing, np.broadcast_to(new, 3), strict=True)
    )
    before = affine @ [*(np.array((21, 34, 29)) - 1) / 2, 1]
    after = new_affine @ [*(np.array(shape) - 1) / 2, 1]
    np.testing.assert_allclose(after, before, atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(new_affine[:3, :3], axis=0), np.broadcast_to(new, 3))
    np.testing.assert_allclose(
        new_affine[:3, :3] / np.linalg.norm(new_affine[:3, :3], axis=0), affine[:3, :3] / spacing, atol=1e-12
    )


def test_thick_slices() -> None:
    """6 mm slices of a smooth ball: each becomes four, and the ball keeps its place and volume."""
    affine = _affine((1.5, 1.5, 6.0))
    centre = affine @ [24.0, 20.0, 9.5, 1]
    distance = np.linalg.norm(_world((48, 44, 20), affine) - centre[:3], axis=-1)
    ball = torch.from_numpy(np.exp(-((distance / 18) ** 2))).float()
    ours, new_affine = resample(ball, affine, spacing_mm=1.5)
    assert ours.shape == (48, 44, 80)
    expected = np.exp(-((np.linalg.norm(_world(tuple(ours.shape), new_affine) - centre[:3], axis=-1) / 18) ** 2))
    np.testing.assert_allclose(ours.numpy(), expected, atol=0.01)
    assert float(ours.sum()) / 4 == pytest.approx(float(ball.sum()), rel=1e-4)


def test_nothing_to_do_changes_nothing() -> None:
    volume = torch.randn(9, 10, 11, generator=torch.Generator().manual_seed(4))
    ours, affine = resample(volume, _affine((1.5, 1.5, 1.5), 10), spacing_mm=1.5)
    assert torch.equal(ours, volume)
    np.testing.assert_allclose(affine, _affine((1.5, 1.5, 1.5), 10), atol=1e-14)


@pytest.mark.parametrize("step", [0.57, 1.0, 1.22, 2.0, 2.4])
def test_zero_outside_keeps_the_inside_as_it_is(step: float) -> None:
    """With zeros beyond the border, weights sum to 1 inside and fade to 0 outside."""
    positions = torch.arange(-10, 70, dtype=torch.float64) * step / 2
    total = axis_weights(60, positions, step=step, outside="zero").sum(1)
    reach = 2 * max(step, 1)
    inside = (positions > reach) & (positions < 59 - reach)
    assert int(inside.sum()) > 10
    np.testing.assert_allclose(total[inside].numpy(), 1, atol=1e-5)
    beyond = (positions < -reach) | (positions > 59 + reach)
    assert (total[beyond] == 0).all()

"""Standardising and min-max inside a mask, against NumPy."""

import numpy as np
import pytest
import torch

from preprocessing.errors import ScanError
from preprocessing.normalise import minmax, standardise


@pytest.fixture
def scan() -> tuple[np.ndarray, np.ndarray]:
    """Values as an MRI has them, and a mask of about a third."""
    generator = np.random.default_rng(0)
    return (700 + 250 * generator.normal(size=(9, 10, 11))).astype(np.float32), generator.random((9, 10, 11)) < 0.3


def test_standardise(scan: tuple) -> None:
    volume, mask = scan
    inside = volume[mask].astype(np.float64)
    expected = np.where(mask, (volume - inside.mean()) / inside.std(), 0)
    ours = standardise(torch.from_numpy(volume), torch.from_numpy(mask)).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert ours.dtype == np.float32
    assert ours[mask].mean() == pytest.approx(0, abs=1e-5)
    assert ours[mask].std() == pytest.approx(1, abs=1e-5)


def test_minmax(scan: tuple) -> None:
    volume, mask = scan
    inside = volume[mask]
    expected = np.where(mask, (volume - inside.min()) / np.ptp(inside), 0)
    ours = minmax(torch.from_numpy(volume), torch.from_numpy(mask)).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert (ours[mask].min(), ours[mask].max()) == (0, 1)
    assert (ours[~mask] == 0).all()


def test_what_lies_outside_the_mask_has_no_influence(scan: tuple) -> None:
    volume, mask = scan
    loud = np.where(mask, volume, 1e9).astype(np.float32)
    for step in (standardise, minmax):
        ours, other = (step(torch.from_numpy(v), torch.from_numpy(mask)) for v in (volume, loud))
        assert torch.equal(ours, other)


def test_minmax_undoes_standardise_scale_and_shift(scan: tuple) -> None:
    volume, mask = (torch.from_numpy(a) for a in scan)
    expected = minmax(volume, mask)
    torch.testing.assert_close(minmax(standardise(volume, mask), mask), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(minmax(3.5 * volume - 90, mask), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("step", [standardise, minmax])
def test_errors_say_what_was_found(step) -> None:
    volume, nothing = torch.rand(4, 4, 4), torch.zeros(4, 4, 4, dtype=torch.bool)
    with pytest.raises(ScanError, match="the brain mask is empty"):
        step(volume, nothing)
    volume[:2] = 42.5
    mask = nothing.clone()
    mask[:2] = True
    with pytest.raises(ScanError, match=r"every voxel inside the brain mask is 42\.5"):
        step(volume, mask)

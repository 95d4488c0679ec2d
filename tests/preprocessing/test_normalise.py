"""Normalisations inside a mask, against NumPy."""

import numpy as np
import pytest
import torch

from cohort.manifest import ModalityConfig
from preprocessing.errors import ScanError
from preprocessing.normalise import NORMALISATIONS, PUBLISHED, minmax, minmax_robust, rescale, standardise


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


def test_rescale(scan: tuple) -> None:
    volume, mask = scan
    inside = volume[mask]
    expected = np.where(mask, (volume - inside.min()) / np.ptp(inside), 0)
    ours = rescale(torch.from_numpy(volume), torch.from_numpy(mask)).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert (ours[mask].min(), ours[mask].max()) == (0, 1)
    assert (ours[~mask] == 0).all()


def test_what_lies_outside_the_mask_has_no_influence(scan: tuple) -> None:
    volume, mask = scan
    loud = np.where(mask, volume, 1e9).astype(np.float32)
    for step in (standardise, rescale, minmax, minmax_robust):
        ours, other = (step(torch.from_numpy(v), torch.from_numpy(mask)) for v in (volume, loud))
        assert torch.equal(ours, other)


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_every_row_gives_what_is_stored(scan: tuple, name: str) -> None:
    """[0, 1] inside and 0 outside, whatever lies there; the input is left alone."""
    volume, mask = (torch.from_numpy(a) for a in scan)
    given = volume.clone()
    ours = NORMALISATIONS[name](volume, mask)
    assert torch.equal(volume, given)
    assert (ours.dtype, ours.shape) == (torch.float32, volume.shape)
    assert (ours >= 0).all()
    assert (ours <= 1).all()
    assert (ours[~mask] == 0).all()
    assert torch.equal(NORMALISATIONS[name](volume.where(mask, torch.tensor(1e9)), mask), ours)


def test_the_default_is_the_published_one(scan: tuple) -> None:
    """Standardise, then min-max: the same bits as these two steps."""
    assert ModalityConfig().normalise == PUBLISHED == "minmax"
    volume, mask = (torch.from_numpy(a) for a in scan)
    inside = volume[mask]
    inside = (inside - inside.mean()) / inside.std(correction=0)
    expected = torch.zeros_like(volume)
    expected[mask] = (inside - inside.min()) / (inside.max() - inside.min())
    ours = NORMALISATIONS[PUBLISHED](volume, mask)
    assert torch.equal(ours, expected)
    values = scan[0].astype(np.float64)
    z = (values - values[scan[1]].mean()) / values[scan[1]].std()
    by_hand = np.where(scan[1], (z - z[scan[1]].min()) / np.ptp(z[scan[1]]), 0)
    np.testing.assert_allclose(ours.numpy(), by_hand, atol=1e-6)


@pytest.mark.parametrize("step", [rescale, minmax, minmax_robust])
def test_scale_and_shift_of_the_scanner_do_not_matter(scan: tuple, step) -> None:
    volume, mask = (torch.from_numpy(a) for a in scan)
    torch.testing.assert_close(step(3.5 * volume - 90, mask), step(volume, mask), atol=1e-6, rtol=0)


def test_minmax_robust() -> None:
    generator = np.random.default_rng(1)
    volume = generator.gamma(4, 2, (20, 21, 22)).astype(np.float32)
    mask = generator.random(volume.shape) < 0.6
    low, high = np.percentile(volume[mask], (0.1, 99.9), method="nearest").astype(np.float64)
    expected = np.where(mask, np.clip((volume - low) / (high - low), 0, 1), 0)
    ours = minmax_robust(torch.from_numpy(volume), torch.from_numpy(mask)).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert ours.dtype == np.float32
    assert (ours[mask].min(), ours[mask].max()) == (0, 1)


def test_one_hot_voxel_moves_no_other_if_robust() -> None:
    generator = np.random.default_rng(2)
    volume = torch.from_numpy(generator.normal(5, 1, (24, 24, 24)).astype(np.float32))
    mask = torch.from_numpy(generator.random(volume.shape) < 0.5)
    hot = volume.clone()
    at = tuple(mask.nonzero()[100])
    hot[at] = 1e4
    others = mask.clone()
    others[at] = False
    moved = {step: (step(hot, mask) - step(volume, mask))[others].abs().max() for step in (minmax, minmax_robust)}
    assert moved[minmax_robust] < 0.02
    assert moved[minmax] > 0.5  # squeezed to next to nothing
    assert minmax_robust(hot, mask)[at] == 1


def test_two_equal_percentiles_are_told() -> None:
    volume, mask = torch.full((20, 20, 20), 7.0), torch.ones(20, 20, 20, dtype=torch.bool)
    volume[0, 0, 0] = 9
    with pytest.raises(ScanError, match=r"percentiles 0\.1 and 99\.9 inside the brain mask are both 7"):
        minmax_robust(volume, mask)


@pytest.mark.parametrize("step", [standardise, rescale, minmax, minmax_robust])
def test_errors_say_what_was_found(step) -> None:
    volume, nothing = torch.rand(4, 4, 4), torch.zeros(4, 4, 4, dtype=torch.bool)
    with pytest.raises(ScanError, match="the brain mask is empty"):
        step(volume, nothing)
    volume[:2] = 42.5
    mask = nothing.clone()
    mask[:2] = True
    with pytest.raises(ScanError, match=r"every voxel inside the brain mask is 42\.5"):
        step(volume, mask)

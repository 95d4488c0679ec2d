"""Distances against scikit-learn's, p-values against their definition and their promise."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from evaluation.conformal import too_few_subjects
from evaluation.outliers import distances, fit_reference, is_unusual, share_farther


def cloud(count: int, seed: int) -> np.ndarray:
    """Correlated channels of very different spread."""
    mix = np.random.default_rng(0).normal(0, 1, (12, 12)) * np.geomspace(0.3, 10, 12)
    return 3 + np.random.default_rng(seed).normal(0, 1, (count, 12)) @ mix


def test_distances_are_those_of_ledoit_and_wolf_on_standardised_channels() -> None:
    train, others = cloud(40, 1), cloud(15, 2)
    mean, spread = train.mean(0), train.std(0)
    assert (spread > 0.01 * spread.mean()).all()  # no channel is so flat that the floor acts
    oracle = LedoitWolf().fit((train - mean) / spread).mahalanobis((others - mean) / spread)
    np.testing.assert_allclose(distances(fit_reference(train), others), np.sqrt(oracle), rtol=1e-4)


def test_a_change_of_units_does_not_matter() -> None:
    train, others = cloud(40, 1), cloud(15, 2)
    units = np.geomspace(0.5, 2, 12)
    there = distances(fit_reference(train * units), others * units)
    np.testing.assert_allclose(there, distances(fit_reference(train), others), rtol=1e-3)


def test_channels_that_never_fire_are_harmless_and_still_watched() -> None:
    train = np.hstack([cloud(40, 1), np.zeros((40, 3))])
    reference = fit_reference(train)
    near, far = np.hstack([cloud(1, 2), np.zeros((1, 3))]), np.hstack([cloud(1, 2), np.full((1, 3), 50.0)])
    assert np.isfinite(reference.precision).all()
    assert distances(reference, far)[0] > 3 * distances(reference, near)[0]


def test_shifted_scans_lie_farther_than_all_held_out() -> None:
    reference = fit_reference(cloud(60, 1))
    held_out, shifted = distances(reference, cloud(30, 2)), distances(reference, cloud(10, 3) + 30)
    assert [share_farther(d, held_out) for d in shifted] == [1 / 31] * 10


def test_p_values_count_ties_and_never_reach_zero() -> None:
    assert share_farther(5.0, [1, 2, 3]) == 1 / 4
    assert share_farther(2.0, [1, 2, 3]) == 3 / 4
    assert share_farther(0.0, [1, 2, 3]) == 1.0
    assert share_farther(0.0, []) == 1.0


def test_usual_scans_are_seldom_flagged() -> None:
    random = np.random.default_rng(0)
    flagged = [share_farther(row[-1], row[:-1]) <= 0.1 for row in random.exponential(1, (3000, 20))]
    assert np.mean(flagged) <= 0.1 + 3 * np.sqrt(0.09 / 3000)
    assert np.mean(flagged) >= 0.06


def test_too_few_or_equal_scans_are_refused() -> None:
    with pytest.raises(ValueError, match="7 training scans, at least 8 needed"):
        fit_reference(cloud(7, 1))
    with pytest.raises(ValueError, match="all 9 training scans have the same channel means"):
        fit_reference(np.ones((9, 4)))


@pytest.mark.parametrize(
    ("held_out", "rate", "enough"),
    [(19, 0.05, True), (18, 0.05, False), (9, 0.1, True), (8, 0.1, False), (0, 0.4, False)],
)
def test_no_rate_below_the_smallest_share_can_be_kept(held_out: int, rate: float, enough: bool) -> None:
    smallest = share_farther(np.inf, np.zeros(held_out))
    assert (smallest <= rate) == enough
    assert (too_few_subjects(held_out, rate) == "") == enough


@pytest.mark.parametrize("scans", [1, 2, 3, 7])
def test_so_many_times_as_many_held_out_scans_are_needed_and_no_more(scans: int) -> None:
    fewest = 20 * scans - 1
    assert is_unusual(1 / (fewest + 1), fewest, rate=0.05, scans=scans) is True
    assert is_unusual(2 / (fewest + 1), fewest, rate=0.05, scans=scans) is False
    assert is_unusual(1 / fewest, fewest - 1, rate=0.05, scans=scans) is None

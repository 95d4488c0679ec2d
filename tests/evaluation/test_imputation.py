"""Coverage, CRPS and energy score against numerical integrals and each other."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from evaluation.imputation import (
    LEVELS,
    energy_score,
    gaussian_coverage,
    gaussian_crps,
    rectified,
    rectified_coverage,
    rectified_crps,
    sample_crps,
)


@pytest.mark.parametrize(("truth", "mean", "sd"), [(0.0, 0.0, 1.0), (2.5, 1.0, 0.4), (-3.0, 1.0, 2.0)])
def test_crps_is_its_integral(truth: float, mean: float, sd: float) -> None:
    low = quad(lambda x: norm(mean, sd).cdf(x) ** 2, -40, truth, limit=200)[0]
    high = quad(lambda x: norm(mean, sd).sf(x) ** 2, truth, 40, limit=200)[0]
    assert gaussian_crps(np.array(truth), np.array(mean), np.array(sd)) == pytest.approx(low + high, abs=1e-6)


def test_crps_of_draws_is_that_of_their_distribution() -> None:
    random = np.random.default_rng(0)
    truth = np.array([0.3, -1.0])
    drawn = 0.5 + 1.5 * random.standard_normal((20_000, 2))
    np.testing.assert_allclose(sample_crps(truth, drawn), gaussian_crps(truth, np.array(0.5), np.array(1.5)), atol=0.02)
    few = random.standard_normal((6, 2))
    pairs = np.mean([np.abs(few[i] - few[j]) for i in range(6) for j in range(6) if i != j], axis=0)
    np.testing.assert_allclose(sample_crps(truth, few), np.abs(few - truth).mean(0) - pairs / 2)


def test_the_energy_score_of_one_number_is_the_crps() -> None:
    random = np.random.default_rng(1)
    truth, drawn = random.standard_normal(7), random.standard_normal((9, 7))
    np.testing.assert_allclose(energy_score(truth[:, None], drawn[:, :, None]), sample_crps(truth, drawn))


def test_coverage_of_the_true_distribution_is_its_level() -> None:
    truth = 2 + 3 * np.random.default_rng(2).standard_normal(40_000)
    np.testing.assert_allclose(gaussian_coverage(truth, np.array(2.0), np.array(3.0)), LEVELS, atol=0.01)
    assert gaussian_coverage(truth, np.array(2.0), np.array(1.5), [0.9])[0] < 0.65


def test_the_right_spread_has_the_smallest_crps() -> None:
    truth = np.random.default_rng(3).standard_normal(20_000)
    scores = [gaussian_crps(truth, np.array(0.0), np.array(sd)).mean() for sd in (0.3, 1.0, 3.0)]
    assert min(scores) == scores[1]


@pytest.mark.parametrize(("mean", "sd"), [(0.1, 0.5), (1.0, 1.0), (3.0, 0.7), (50.0, 1.0), (5e7, 1.0)])
def test_a_rectified_gaussian_has_the_moments_that_were_asked_for(mean: float, sd: float) -> None:
    location, scale = (float(each) for each in rectified(np.array(mean), np.array(sd)))
    x = norm(location, scale)
    ends = max(0.0, location - 12 * scale), location + 12 * scale
    first = quad(lambda t: t * x.pdf(t), *ends)[0]
    left = x.cdf(0) * first**2 + quad(lambda t: (t - first) ** 2 * x.pdf(t), *ends)[0]
    assert first == pytest.approx(mean, rel=1e-4)
    assert np.sqrt(left) == pytest.approx(sd, rel=1e-3)


def test_means_below_0_keep_their_spread_and_are_not_impossible() -> None:
    location, scale = rectified(np.array([-2.0, 0.0, 1e-9]), np.array([1.0, 1.0, 0.5]))
    drawn = np.maximum(location + scale * np.random.default_rng(4).standard_normal((200_000, 3)), 0)
    np.testing.assert_allclose(drawn.std(0), [1, 1, 0.5], rtol=0.05)
    assert ((drawn > 0).mean(0) > 0.005).all()


@pytest.mark.parametrize("truth", [0.0, 0.4, 3.0, -0.5])
@pytest.mark.parametrize("mean", [0.1, 0.8, 11.0])
def test_crps_of_a_rectified_gaussian_is_its_integral(truth: float, mean: float) -> None:
    location, scale = (float(each) for each in rectified(np.array(mean), np.array(1.2)))

    def share(t: float) -> float:
        return norm(location, scale).cdf(t) if t >= 0 else 0.0

    low = quad(lambda t: share(t) ** 2, min(truth, 0), truth, limit=200, points=[0.0])[0]
    high = quad(lambda t: (1 - share(t)) ** 2, truth, 60, limit=400, points=[0.0, 1.0, mean])[0]
    assert rectified_crps(np.array(truth), np.array(mean), np.array(1.2)) == pytest.approx(low + high, abs=1e-6)


def test_intervals_of_the_true_rectified_gaussian_hold_their_level_whatever_the_share_of_0() -> None:
    """Closed ones hold more, the more often there is a 0."""
    random = np.random.default_rng(5)
    for mean, closed in ((0.05, 0.95), (0.3, 0.94), (0.7, 0.94), (4.0, 0.9)):
        location, scale = rectified(np.full(1, mean), np.ones(1))
        truth = np.maximum(location + scale * random.standard_normal(40_000), 0)
        np.testing.assert_allclose(rectified_coverage(truth, np.full(1, mean), np.ones(1)), LEVELS, atol=0.01)
        assert rectified_coverage(truth, np.full(1, mean), np.ones(1), [0.9], closed=True)[0] > closed - 0.01
    assert rectified_coverage(truth, np.full(1, 4.0), np.full(1, 0.5), [0.9])[0] < 0.65


def test_a_true_value_below_0_is_outside() -> None:
    assert rectified_coverage(np.array([-1e-3]), np.array([0.6]), np.ones(1), [0.95])[0] == 0

"""Coverage, CRPS and energy score against numerical integrals and each other."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from evaluation.imputation import LEVELS, energy_score, gaussian_coverage, gaussian_crps, sample_crps


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

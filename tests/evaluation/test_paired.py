"""Means of paired differences: intervals that hold the truth as often as they promise."""

import numpy as np
import pytest
from scipy import stats

from evaluation.paired import mean_difference, variances


def test_without_uncertainty_of_parameters_it_is_the_t_test() -> None:
    values = np.random.default_rng(0).standard_normal(30) + 0.3
    found = mean_difference([np.repeat(values[None], 40, axis=0)])
    expected = stats.ttest_1samp(values, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(expected.confidence_interval(0.95))
    assert found.of_parameters == 0


def test_the_variance_is_of_a_finite_number_of_draws_and_patients() -> None:
    """Rubin 1987: (1 + 1/S) between draws, and that of a mean over patients."""
    part = np.random.default_rng(2).standard_normal((4, 6))
    between, within = variances(part.mean(axis=1), part.mean(axis=0))
    assert between == pytest.approx(5 / 4 * stats.tvar(part.mean(axis=1)))
    assert within == pytest.approx(stats.sem(part.mean(axis=0)) ** 2)
    found = mean_difference([part])
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 3) * np.sqrt(between + within))


@pytest.mark.parametrize("repeats", [1, 4])
def test_intervals_hold_the_truth_as_often_as_they_promise(repeats: int) -> None:
    random, held = np.random.default_rng(1), 0
    for _ in range(400):
        parts = []
        for _ in range(repeats):
            centre = 0.3 * random.standard_normal()  # what this training set gets wrong
            draws = centre + 0.3 * random.standard_normal((30, 1))
            parts.append(draws + random.standard_normal((1, 20)))
        found = mean_difference(parts)
        held += found.low <= 0 <= found.high
    assert held / 400 > 0.92


def test_no_difference_at_all_is_no_evidence_and_little_data_is_refused() -> None:
    found = mean_difference([np.zeros((5, 6))])
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert mean_difference([np.ones((5, 6))]).p == 0
    for parts in ([], [np.zeros((1, 6))], [np.zeros((5, 1))]):
        with pytest.raises(ValueError, match="2 draws and 2 patients"):
            mean_difference(parts)

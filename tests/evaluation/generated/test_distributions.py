"""Distances between distributions: against their definitions, and against what they promise."""

import numpy as np
import pytest
from scipy import linalg, stats

from evaluation.generated.distributions import (
    frechet_distance,
    frechet_with_null,
    kernel_distance,
    kernel_test,
    variance_ratio,
)


def rows(count: int, seed: int, columns: int = 6, *, shift: float = 0.0) -> np.ndarray:
    """Correlated rows."""
    mix = np.random.default_rng(0).normal(0, 1, (columns, columns)) / np.sqrt(columns)
    return shift + np.random.default_rng(seed).normal(0, 1, (count, columns)) @ mix


def test_the_kernel_distance_is_its_definition() -> None:
    a, b = rows(7, 1), rows(5, 2, shift=0.5)

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 6 + 1) ** 3)

    within_a = sum(k(a[i], a[j]) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    within_b = sum(k(b[i], b[j]) for i in range(5) for j in range(5) if i != j) / (5 * 4)
    between = sum(k(x, y) for x in a for y in b) / 35
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * between, rel=1e-12)


def test_the_kernel_distance_is_0_on_average_between_alike_samples_of_any_size() -> None:
    for size in (5, 40):
        found = [kernel_distance(rows(size, 2 * i + 1), rows(size, 2 * i + 2)) for i in range(200)]
        assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(200)


def test_p_is_uniform_where_there_is_no_difference() -> None:
    found = [kernel_test(rows(15, 2 * i + 1), rows(25, 2 * i + 2), permutations=199).p for i in range(200)]
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert 0.01 < np.mean(np.array(found) <= 0.05) < 0.10


def test_p_is_the_smallest_possible_where_all_is_different() -> None:
    assert kernel_test(rows(20, 1), rows(20, 2, shift=5), permutations=99).p == pytest.approx(0.01)


def test_p_of_two_equal_samples_is_1() -> None:
    assert kernel_test(rows(12, 1), rows(12, 1), permutations=99).p == 1.0


@pytest.mark.parametrize("columns", [4, 30])
def test_the_frechet_distance_is_its_definition(columns: int) -> None:
    a, b = rows(40, 1, columns), rows(35, 2, columns, shift=0.3)
    one, other = np.cov(a.T), np.cov(b.T)
    root = np.real(linalg.sqrtm(one @ other))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one) + np.trace(other) - 2 * np.trace(root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_the_frechet_distance_of_fewer_rows_than_columns_to_itself_is_0() -> None:
    a = rows(9, 1, 50)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)


def test_the_null_shows_how_far_a_distribution_is_from_itself() -> None:
    alike = frechet_with_null(rows(40, 1, 60), rows(80, 2, 60))
    assert alike.rows == 20
    assert alike.null > 0.3  # a distribution, by its own 20 rows, is a third of its variance away from itself
    assert alike.value == pytest.approx(alike.null, rel=0.3)
    assert alike.extrapolated < 0.7 * alike.value
    away = frechet_with_null(rows(40, 1, 60), rows(80, 2, 60, shift=0.8))
    assert away.value > away.null_high


def test_the_extrapolation_takes_the_true_distance_of_known_gaussians() -> None:
    random = np.random.default_rng(3)
    a, b = random.normal(0, 1, (1500, 5)), random.normal(0, 1.5, (1500, 5)) + 1
    truth = 5 * (1 + 0.5**2)  # of unit variances: squared shift and squared difference of deviations, five times
    found = frechet_with_null(a, b, draws=20)
    assert found.extrapolated * 5 == pytest.approx(truth, rel=0.05)
    assert found.null_extrapolated == pytest.approx(0, abs=0.01)


def test_too_few_rows_have_no_frechet_distance() -> None:
    for real, made in ((rows(7, 1), rows(50, 2)), (rows(50, 1), rows(3, 2)), (np.ones((20, 4)), rows(9, 2, 4))):
        found = frechet_with_null(real, made)
        assert found.rows == 0
        assert np.isnan([found.value, found.null, found.extrapolated]).all()


def test_the_variance_ratio_is_that_of_the_traces_and_its_interval_holds_it() -> None:
    a, b = rows(60, 1), 0.7 * rows(90, 2)
    ratio, low, high = variance_ratio(a, b)
    assert ratio == pytest.approx(np.trace(np.cov(b.T)) / np.trace(np.cov(a.T)), rel=1e-9)
    assert low < ratio < high
    assert high < 0.85
    held = 0
    for i in range(100):
        _, low, high = variance_ratio(rows(60, 2 * i + 1), rows(90, 2 * i + 2), draws=300)
        held += low < 1 < high
    assert held >= 86


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.full((5, 6), np.nan), "not finite"),
        (np.ones((5, 4)), "same features"),
        (np.ones((1, 6)), "at least 2"),
    ],
)
def test_rows_that_cannot_be_compared_are_named(bad: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kernel_distance(rows(10, 1), bad)

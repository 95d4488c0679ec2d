"""The joint Gaussian under a stated reason for missing: against EM, against numerical integration, and on made data."""

import numpy as np
import pytest
from scipy import integrate, stats

from models.joint.blocks import Blocks
from models.joint.gaussian import fit_estimate
from models.joint.selection import Reason, fit_selected
from models.joint.sums import sums_of

BLOCKS = Blocks(("seen", "other", "lost"), (2, 1, 3))
FIRST = np.array([1.0, 0.0, 0.0])
SLOPE = 2.0


def patients(count: int = 400, seed: int = 0, slope: float = SLOPE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole scores (n, d), labels, and who lost the last block, half of them, likelier with a high first score."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    loading = random.standard_normal((BLOCKS.width, 2))
    loading *= np.sqrt(0.5) / np.linalg.norm(loading, axis=1, keepdims=True)
    whole = 0.5 * np.outer(labels, random.standard_normal(BLOCKS.width))
    whole += random.standard_normal((count, 2)) @ loading.T + np.sqrt(0.5) * random.standard_normal(whole.shape)
    x = (whole[:, 3] - whole[:, 3].mean()) / whole[:, 3].std()
    order = np.argsort(-slope * x - random.gumbel(size=count))
    lost = np.zeros(count, dtype=bool)
    lost[order[: count // 2]] = True
    return whole, labels, lost


def hidden(whole: np.ndarray, lost: np.ndarray) -> np.ndarray:
    rows = whole.copy()
    rows[np.ix_(lost, np.arange(3, 6))] = np.nan
    rows[::7, 2] = np.nan  # another block is missing here and there
    return rows


def test_a_slope_of_zero_is_missing_at_random() -> None:
    whole, labels, lost = patients(120)
    rows = hidden(whole, lost)
    found = fit_selected(rows, labels, BLOCKS, 2, Reason("lost", FIRST, 0.0))
    expected = fit_estimate(sums_of(rows, labels, BLOCKS, 2))[0].estimate
    np.testing.assert_allclose(found.parameters.mean, expected.mean, atol=2e-3)
    np.testing.assert_allclose(found.parameters.covariance, expected.covariance, atol=2e-3)
    assert found.converged


def test_the_right_slope_takes_the_bias_away() -> None:
    """The figures over 100 seeds are in docs/results/missingness.md."""
    errors = []
    for seed in range(3):
        whole, labels, lost = patients(300, seed)
        rows, spread = hidden(whole, lost), whole[:, 3].std()
        at_random = fit_estimate(sums_of(rows, labels, BLOCKS, 2))[0].estimate
        stated = fit_selected(rows, labels, BLOCKS, 2, Reason("lost", FIRST, SLOPE)).parameters
        errors.append([(p.share @ p.mean[:, 3] - whole[:, 3].mean()) / spread for p in (at_random, stated)])
    em, selected = np.mean(errors, axis=0)
    assert em < -0.3
    assert abs(selected) < 0.1


def test_lost_scores_are_those_of_the_integral() -> None:
    """One score seen, one lost, one class, so that P(lost) can be put in by hand; in the order of the rows."""
    random = np.random.default_rng(3)
    blocks = Blocks(("a", "b"), (1, 1))
    whole = random.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=60)
    lost = random.random(60) < 1 / (1 + np.exp(-2 * whole[:, 1]))
    rows = whole.copy()
    rows[lost, 1] = np.nan
    found = fit_selected(rows, np.zeros(60, dtype=np.int64), blocks, 1, Reason("b", np.array([-1.0]), -1.5))
    mean, covariance = found.parameters.mean[0], found.parameters.covariance
    gamma = learnt(rows, lost, found, slope=-1.5)
    for seen, z, expected in list(zip(rows[lost, 0], gamma, found.lost, strict=True))[::8]:
        middle = mean[1] + covariance[1, 0] / covariance[0, 0] * (seen - mean[0])
        spread = np.sqrt(covariance[1, 1] - covariance[1, 0] ** 2 / covariance[0, 0])

        def weight(u: float, z: float = z, middle: float = middle, spread: float = spread) -> float:
            x = (-u + mean[1]) / np.sqrt(covariance[1, 1])
            return float(stats.norm.pdf(u, middle, spread) * -np.expm1(-np.exp(z - 1.5 * x)))

        ends = (middle - 9 * spread, middle + 9 * spread)
        whole_of_it = integrate.quad(weight, *ends)[0]
        assert -integrate.quad(lambda u, w=weight: u * w(u), *ends)[0] / whole_of_it == pytest.approx(
            expected, abs=2e-3
        )


def learnt(rows: np.ndarray, lost: np.ndarray, found: object, *, slope: float) -> np.ndarray:
    """γ · z of who lacks the block, learnt again by a plain search of the expected likelihood on a fine grid."""
    from scipy.optimize import minimize

    mean, covariance = found.parameters.mean[0], found.parameters.covariance  # type: ignore[attr-defined]
    at_random = fit_estimate(sums_of(rows, np.zeros(len(rows), dtype=np.int64), Blocks(("a", "b"), (1, 1)), 1))[0]
    m, c = at_random.estimate.mean[0], at_random.estimate.covariance
    told = -(m[1] + c[1, 0] / c[0, 0] * (rows[:, 0] - m[0]))
    told = (told - told.mean()) / told.std()
    sd = np.sqrt(covariance[1, 1])
    left = np.sqrt(covariance[1, 1] - covariance[1, 0] ** 2 / covariance[0, 0])
    middle = mean[1] + covariance[1, 0] / covariance[0, 0] * (rows[:, 0] - mean[0])
    grid = np.linspace(-7, 7, 1401)
    density = stats.norm.pdf(grid) / stats.norm.pdf(grid).sum()

    def loss(gamma: np.ndarray) -> float:
        base = gamma[0] + gamma[1] * told
        u = middle[lost, None] + left * grid
        chance = -np.expm1(-np.exp(base[lost, None] + slope * -(u - mean[1]) / sd))
        there = np.exp(base[~lost] + slope * -(rows[~lost, 1] - mean[1]) / sd)
        return float(there.sum() - np.log(chance @ density).sum() + gamma[1] ** 2 / 8)

    gamma = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).x
    return gamma[0] + gamma[1] * told[lost]


def test_turned_round_it_is_the_same() -> None:
    whole, labels, lost = patients(80)
    rows = hidden(whole, lost)
    one, other = (
        fit_selected(rows, labels, BLOCKS, 2, Reason("lost", sign * 3 * FIRST, sign * SLOPE)) for sign in (1, -1)
    )
    np.testing.assert_allclose(one.parameters.mean, other.parameters.mean, atol=1e-6)
    np.testing.assert_allclose(one.lost, -other.lost, atol=1e-6)


def test_what_cannot_be_stated_is_named() -> None:
    whole, labels, lost = patients(40)
    with pytest.raises(ValueError, match="nobody lacks lost"):
        fit_selected(whole, labels, BLOCKS, 2, Reason("lost", FIRST, 1.0))
    for wrong in (np.ones(2), np.zeros(3)):
        with pytest.raises(ValueError, match="expected as many, not all 0"):
            fit_selected(hidden(whole, lost), labels, BLOCKS, 2, Reason("lost", wrong, 1.0))


def test_a_class_that_has_lost_every_scan_keeps_finite_figures() -> None:
    whole, labels, lost = patients(60)
    rows = hidden(whole, lost | (labels == 1))
    found = fit_selected(rows, labels, BLOCKS, 2, Reason("lost", FIRST, SLOPE))
    assert np.isfinite(found.parameters.mean).all()
    assert np.isfinite(found.lost).all()

"""Bases against scikit-learn's, and what they promise of scans that they were not learnt from."""

import dataclasses

import numpy as np
import pytest
from sklearn.decomposition import PCA

from models.joint.basis import NoVariationError, fit_basis, public_components

WIDTH = 300


def scans(count: int, seed: int) -> np.ndarray:
    """Five strong directions, noise of 2 everywhere."""
    strong = np.random.default_rng(0).standard_normal((5, WIDTH)) * np.array([[5], [4], [3], [2], [2]])
    random = np.random.default_rng([seed, 1])
    return (4 + random.standard_normal((count, 5)) @ strong / 2 + 2 * random.standard_normal((count, WIDTH))).astype(
        np.float32
    )


def test_components_are_those_of_scikit_learn() -> None:
    x = scans(60, 1)
    basis, _ = fit_basis(x)
    theirs = PCA(n_components=basis.size, svd_solver="full").fit(x)
    agreement = np.abs(np.sum(basis.components[:5] * theirs.components_[:5], axis=1))
    np.testing.assert_allclose(agreement, 1, atol=1e-4)
    np.testing.assert_allclose(basis.components @ basis.components.T, np.eye(basis.size), atol=1e-4)
    assert basis.size == 20  # a third of the patients


def test_no_more_components_than_explain_the_variance() -> None:
    x = scans(90, 1)
    few = x.mean(0) + (x[:, :2] - 4) @ np.random.default_rng(2).standard_normal((2, WIDTH)).astype(np.float32)
    assert fit_basis(few.astype(np.float32))[0].size == 2
    assert fit_basis(x, most=7)[0].size == 7


def test_training_scores_are_as_large_as_those_of_new_scans() -> None:
    """Those of the components themselves are too large by far."""
    x, new = scans(54, 1), scans(600, 2)
    basis, scores = fit_basis(x)
    ratio = scores.var(0) / basis.scores(new).var(0)
    assert 0.75 < np.median(ratio) < 1.35
    assert np.median(basis.scores(x).var(0) / basis.scores(new).var(0)) > 1.5
    assert scores.var(0).mean() == pytest.approx(1)
    assert [np.corrcoef(scores[:, j], basis.scores(x)[:, j])[0, 1] > 0.7 for j in range(3)] == [True] * 3


def test_residuals_are_those_of_new_scans() -> None:
    x, new = scans(54, 1), scans(400, 2)
    basis, _ = fit_basis(x)
    left = new - basis.features(basis.scores(new))
    assert np.sqrt((left**2).mean()) == pytest.approx(np.sqrt((basis.residual**2).mean()), rel=0.1)
    assert basis.outside(new).mean() == pytest.approx(1, abs=0.1)
    assert basis.outside(3 * new).mean() > 1.5
    drawn = basis.draw_residuals(3000, np.random.default_rng(3))
    np.testing.assert_allclose(drawn.std(0), basis.residual, rtol=0.15)


def test_the_variance_of_features_is_that_of_draws() -> None:
    basis, _ = fit_basis(scans(30, 1))
    random = np.random.default_rng(4)
    root = random.standard_normal((basis.size, basis.size)) / 3
    flat = random.standard_normal((8000, basis.size)) @ root.T
    drawn = basis.features(flat) + basis.draw_residuals(8000, random)
    np.testing.assert_allclose(drawn.var(0), basis.variance(root @ root.T), rtol=0.15)


def test_a_public_basis_depends_on_nobody() -> None:
    x = scans(30, 1)
    one, scores = fit_basis(x, kind="public", shape=(75, 2, 2))
    other, _ = fit_basis(scans(30, 9), kind="public", shape=(75, 2, 2))
    np.testing.assert_array_equal(one.components, other.components)
    np.testing.assert_allclose(one.components @ one.components.T, np.eye(one.size), atol=1e-5)
    means = x.reshape(30, 75, 4).mean(2)
    rows = public_components((75, 1, 1), one.size)
    np.testing.assert_allclose(scores, 2 * means @ rows.T, atol=1e-3)
    np.testing.assert_allclose(one.features(scores).mean(0), x.mean(0), atol=1e-3)


def test_scans_that_are_all_alike_are_refused() -> None:
    with pytest.raises(NoVariationError, match="all 10 training scans are alike"):
        fit_basis(np.full((10, 40), 0.3, dtype=np.float32))


def test_numbers_that_are_not_finite_are_refused() -> None:
    x = scans(10, 1)
    x[3, 5] = np.nan
    with pytest.raises(ValueError, match="expected finite ones"):
        fit_basis(x)
    basis, _ = fit_basis(scans(10, 1))
    with pytest.raises(ValueError, match="expected finite ones"):
        basis.scores(x)
    with pytest.raises(ValueError, match=r"expected finite ones, \(n, 300\)"):
        basis.scores(x[:, :7])


def test_the_variance_of_a_feature_that_hardly_varies_is_not_counted_twice() -> None:
    """Components move it and residuals move it back; new scans have neither."""
    x = scans(60, 1)
    new = scans(400, 7)
    above = x[:, :150].mean(0) + 1.3 * x[:, :150].std(0)
    for rows in (x, new):
        rows[:, :150] = np.maximum(rows[:, :150] - above, 0)  # mostly 0
    basis, scores = fit_basis(x)
    told = basis.variance(np.cov(scores.T, bias=True))
    true = new.var(0)
    rare = np.arange(300) < 150
    assert told[rare].sum() == pytest.approx(true[rare].sum(), rel=0.35)
    plain = dataclasses.replace(basis, agreement=np.ones_like(basis.agreement))
    assert np.abs(np.log(told / np.maximum(true, 1e-6)))[~rare].mean() < 0.3
    assert plain.variance(np.cov(scores.T, bias=True))[rare].sum() > 1.15 * told[rare].sum()


def test_one_scan_that_differs_from_all_others_is_said() -> None:
    """A fold without it has no component; it was a number that is none, or an error of the linear algebra."""
    for count in (3, 8, 55):
        x = np.zeros((count, 4), dtype=np.float32)
        x[0, 1] = 1
        with pytest.raises(NoVariationError, match=rf"all but [12] of {count} training scans are alike"):
            fit_basis(x)
    x[:9, 1] = 1
    assert np.isfinite(fit_basis(x)[1]).all()

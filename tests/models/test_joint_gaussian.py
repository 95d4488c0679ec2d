"""The joint Gaussian against closed forms, numerical integration and the truth that patients were drawn from."""

import numpy as np
import pytest
from helpers.joint_world import with_gaps, world
from scipy.stats import invwishart, multivariate_normal

from evaluation.imputation import gaussian_coverage
from models.joint.blocks import Blocks
from models.joint.gaussian import (
    JointGaussian,
    Parameters,
    TooFewPatientsError,
    condition,
    fit_estimate,
    log_density,
)
from models.joint.posterior import draw, fit, inverse_wishart
from models.joint.sums import sums_of

WORLD = world()
A, B, C = (WORLD.blocks.slice_of(name) for name in "abc")
TRUE = JointGaussian(WORLD.blocks, Parameters(np.array([0.3, 0.7]), WORLD.mean, WORLD.covariance))


def test_with_nothing_missing_em_is_the_closed_form() -> None:
    rows, labels = WORLD.draw(60, np.random.default_rng(1))
    model, prior = fit_estimate(sums_of(rows, labels, WORLD.blocks, 2))
    means = np.stack([rows[labels == k].mean(0) for k in (0, 1)])
    off = rows - means[labels]
    expected = (off.T @ off + prior.weight * prior.target) / (60 - 2 + prior.weight)
    np.testing.assert_allclose(model.estimate.mean, means, atol=1e-10)
    np.testing.assert_allclose(model.estimate.covariance, expected, atol=1e-10)
    assert prior.weight == pytest.approx(58 * model.shrinkage / (1 - model.shrinkage))
    owner = WORLD.blocks.owner
    assert (prior.target[owner[:, None] != owner] == 0).all()
    np.testing.assert_allclose(np.diag(prior.target), (off**2).sum(0) / 58)


def test_em_climbs_to_where_its_own_step_stays() -> None:
    """The gradient of the penalised likelihood is 0: an independent check by finite differences."""
    random = np.random.default_rng(2)
    rows, labels = WORLD.draw(80, random)
    rows = with_gaps(rows, WORLD.blocks, 0.3, random)
    model, prior = fit_estimate(sums_of(rows, labels, WORLD.blocks, 2))

    def objective(mean: np.ndarray, covariance: np.ndarray) -> float:
        total = 0.0
        for row, label in zip(rows, labels, strict=True):
            seen = ~np.isnan(row)
            total += multivariate_normal(mean[label, seen], covariance[np.ix_(seen, seen)]).logpdf(row[seen])
        inverse = np.linalg.inv(covariance)
        extra = (prior.weight - 2) * np.linalg.slogdet(covariance)[1] + prior.weight * np.trace(prior.target @ inverse)
        return total - extra / 2  # n − K + κ: two patients less count, one a class

    estimate, step = model.estimate, 1e-5
    for _ in range(6):
        turn = random.standard_normal(estimate.covariance.shape) * 0.3
        turn += turn.T
        moved = [objective(estimate.mean, estimate.covariance + sign * step * turn) for sign in (1, -1)]
        assert abs(moved[0] - moved[1]) / (2 * step) < 1e-3
        shift = random.standard_normal(estimate.mean.shape)
        moved = [objective(estimate.mean + sign * step * shift, estimate.covariance) for sign in (1, -1)]
        assert abs(moved[0] - moved[1]) / (2 * step) < 1e-3


def test_what_is_missing_follows_the_textbook() -> None:
    rows, labels = WORLD.draw(5, np.random.default_rng(3))
    rows[:, B] = np.nan
    found = condition(TRUE, rows, labels)
    seen, gone = np.r_[0:4, 7:9], np.r_[4:7]
    slope = WORLD.covariance[np.ix_(gone, seen)] @ np.linalg.inv(WORLD.covariance[np.ix_(seen, seen)])
    left = WORLD.covariance[np.ix_(gone, gone)] - slope @ WORLD.covariance[np.ix_(seen, gone)]
    for i, label in enumerate(labels):
        expected = WORLD.mean[label, gone] + slope @ (rows[i, seen] - WORLD.mean[label, seen])
        np.testing.assert_allclose(found.mean[i, gone], expected, atol=1e-10)
        np.testing.assert_allclose(found.covariance[i][np.ix_(gone, gone)], left, atol=1e-10)
        assert (found.covariance[i][seen] == 0).all()
        np.testing.assert_array_equal(found.mean[i, seen], rows[i, seen])


def test_an_unknown_class_is_averaged_over() -> None:
    rows, _ = WORLD.draw(4, np.random.default_rng(4))
    rows[:, B], rows[:, C] = np.nan, np.nan
    found = condition(TRUE, rows)
    density = np.stack(
        [multivariate_normal(WORLD.mean[k, A], WORLD.covariance[A, A]).pdf(rows[:, A]) for k in (0, 1)], axis=1
    ) * [0.3, 0.7]
    np.testing.assert_allclose(found.classes, density / density.sum(1, keepdims=True), atol=1e-10)
    given = [condition(TRUE, rows, np.full(4, k)) for k in (0, 1)]
    mean = sum(found.classes[:, [k]] * given[k].mean for k in (0, 1))
    np.testing.assert_allclose(found.mean, mean, atol=1e-10)
    second = sum(
        found.classes[:, k, None, None] * (given[k].covariance + given[k].mean[:, :, None] * given[k].mean[:, None, :])
        for k in (0, 1)
    )
    gone = np.r_[4:9]
    expected = (second - mean[:, :, None] * mean[:, None, :])[:, gone][:, :, gone]
    np.testing.assert_allclose(found.covariance[:, gone][:, :, gone], expected, atol=1e-10)


def test_densities_are_those_of_scipy() -> None:
    rows, labels = WORLD.draw(6, np.random.default_rng(5))
    rows[:3, C] = np.nan
    expected = [
        multivariate_normal(WORLD.mean[k, s], WORLD.covariance[np.ix_(s, s)]).logpdf(row[s])
        for row, k in zip(rows, labels, strict=True)
        for s in [~np.isnan(row)]
    ]
    np.testing.assert_allclose(log_density(TRUE, rows, labels), expected, atol=1e-9)
    both = np.logaddexp(
        log_density(TRUE, rows, np.zeros(6, int)) + np.log(0.3), log_density(TRUE, rows, np.ones(6, int)) + np.log(0.7)
    )
    np.testing.assert_allclose(log_density(TRUE, rows), both, atol=1e-9)


def test_draws_have_the_moments_that_condition_states() -> None:
    rows, _ = WORLD.draw(3, np.random.default_rng(6))
    rows[:, B] = np.nan
    found = condition(TRUE, rows)
    drawn, classes = draw(TRUE, rows, 20_000, np.random.default_rng(7))
    np.testing.assert_allclose(drawn.mean(0), found.mean, atol=0.04)
    for i in range(3):
        np.testing.assert_allclose(np.cov(drawn[:, i, B].T), found.covariance[i, B, B], atol=0.05)
    np.testing.assert_allclose((classes == 1).mean(0), found.classes[:, 1], atol=0.02)
    assert (drawn[:, :, A] == rows[:, A]).all()


def test_new_patients_have_the_moments_of_the_model() -> None:
    drawn, classes = draw(TRUE, np.full((1, 9), np.nan), 20_000, np.random.default_rng(8))
    mean, covariance = TRUE.estimate.total()
    np.testing.assert_allclose(drawn[:, 0].mean(0), mean, atol=0.05)
    np.testing.assert_allclose(np.cov(drawn[:, 0].T), covariance, atol=0.07)
    assert (classes == 1).mean() == pytest.approx(0.7, abs=0.02)


def test_inverse_wishart_has_the_moments_of_scipy() -> None:
    scale, random = np.array([[2.0, 0.6], [0.6, 1.0]]), np.random.default_rng(9)
    ours = np.stack([inverse_wishart(9.0, scale, random) for _ in range(8000)])
    theirs = invwishart(9, scale).rvs(8000, random_state=1)
    np.testing.assert_allclose(ours.mean(0), scale / 6, atol=0.02)
    np.testing.assert_allclose(
        np.quantile(ours[:, 0, 0], [0.1, 0.5, 0.9]), np.quantile(theirs[:, 0, 0], [0.1, 0.5, 0.9]), rtol=0.06
    )


def test_parameters_are_drawn_around_the_estimate() -> None:
    random = np.random.default_rng(10)
    rows, labels = WORLD.draw(400, random)
    model = fit(sums_of(with_gaps(rows, WORLD.blocks, 0.3, random), labels, WORLD.blocks, 2), draws=60)
    drawn = np.stack([each.covariance for each in model.draws])
    assert np.abs(drawn.mean(0) - model.estimate.covariance).max() < 0.08
    deviation = drawn.std(0) / np.sqrt((1 + WORLD.covariance**2) / 400)  # of a complete sample; with gaps it is larger
    assert 0.9 < deviation.mean() < 1.7


@pytest.mark.slow
@pytest.mark.parametrize(("count", "low", "high"), [(20, 0.86, 0.96), (54, 0.873, 0.927), (200, 0.873, 0.927)])
def test_ninety_percent_intervals_cover_ninety_percent(count: int, low: float, high: float) -> None:
    """And fewer without the uncertainty of the parameters.

    From 50 patients on .88 to .92 is promised; the mean of eight cohorts has a standard error of .0035, so two more.
    """
    covered, plugged = [], []
    size = min(16, count // 3)
    for seed in range(8):
        here = world(seed, (size, size), link=0.4)
        random = np.random.default_rng(seed)
        rows, labels = here.draw(count, random)
        rows = np.where(random.random((count, 1)) < 0.3, np.where(here.blocks.owner == 1, np.nan, rows), rows)
        model = fit(sums_of(rows, labels, here.blocks, 2), seed=seed)
        tested, _ = here.draw(150, random)
        gone = here.blocks.slice_of("b")
        given = np.where(here.blocks.owner == 1, np.nan, tested)
        drawn, _ = draw(model, given, 240, random)
        inside = np.quantile(drawn[:, :, gone], [0.05, 0.95], axis=0, method="weibull")  # exact for few draws
        covered.append(((inside[0] <= tested[:, gone]) & (tested[:, gone] <= inside[1])).mean())
        plug = condition(model, given, plug_in=True)
        sd = np.sqrt(np.diagonal(plug.covariance, axis1=1, axis2=2))[:, gone]
        plugged.append(gaussian_coverage(tested[:, gone], plug.mean[:, gone], sd, [0.9])[0])
    assert low <= np.mean(covered) <= high
    assert np.mean(covered) > np.mean(plugged)


# --- what the patients do not tell ---


def test_without_pairs_the_links_come_through_the_class_alone() -> None:
    random = np.random.default_rng(11)
    rows, labels = WORLD.draw(60, random)
    rows = rows[:, :7]
    blocks = Blocks(("MRI", "PET"), (4, 3))
    rows[:30, 4:], rows[30:, :4] = np.nan, np.nan
    model = fit(sums_of(rows, labels, blocks, 2), draws=3)
    assert any("no training patient has both MRI and PET: conditional independence assumed" in n for n in model.notes)
    np.testing.assert_allclose(model.estimate.covariance[:4, 4:], 0, atol=1e-12)
    found = condition(model, np.where(np.arange(7) < 4, rows[:3], np.nan), labels[:3], plug_in=True)
    np.testing.assert_allclose(found.mean[:, 4:], model.estimate.mean[labels[:3], 4:], atol=1e-10)


def test_links_are_found_where_some_patients_have_both() -> None:
    random = np.random.default_rng(12)
    rows, labels = WORLD.draw(600, random)
    rows[:200, B], rows[200:400, A] = np.nan, np.nan
    model, _ = fit_estimate(sums_of(rows, labels, WORLD.blocks, 2))
    assert not model.notes
    between = WORLD.covariance[A, B]
    assert np.corrcoef(model.estimate.covariance[A, B].ravel(), between.ravel())[0, 1] > 0.9


def test_a_class_without_a_block_is_said() -> None:
    rows, labels = WORLD.draw(40, np.random.default_rng(13))
    rows[np.ix_(labels == 1, range(4, 7))] = np.nan
    model, _ = fit_estimate(sums_of(rows, labels, WORLD.blocks, 2))
    assert any(note.startswith("b: no training patient of class 1 has it") for note in model.notes)
    assert np.isfinite(model.estimate.mean).all()


def test_three_classes_and_one_nobody_has() -> None:
    here = world(3, classes=3)
    rows, labels = here.draw(90, np.random.default_rng(14))
    model = fit(sums_of(rows, labels, here.blocks, 4), draws=4)
    np.testing.assert_allclose(model.estimate.mean[:3], here.mean, atol=0.7)
    found = condition(model, rows[:6])
    np.testing.assert_allclose(found.classes.sum(1), 1)
    assert (found.classes[:, 3] < 1e-6).all()


@pytest.mark.parametrize("count", [1, 3])
def test_too_few_patients_are_refused(count: int) -> None:
    rows, labels = WORLD.draw(max(count, 2), np.random.default_rng(15))
    with pytest.raises(TooFewPatientsError, match=rf"a: {count} training patients have it; a joint model needs [34]"):
        fit(sums_of(rows[:count], labels[:count], WORLD.blocks, 2))


def test_a_constant_score_stays_what_it_is() -> None:
    rows, labels = WORLD.draw(50, np.random.default_rng(16))
    rows[:, 5] = 2.0
    model = fit(sums_of(rows, labels, WORLD.blocks, 2), draws=4)
    rows[:, B] = np.nan
    drawn, _ = draw(model, rows, 20, np.random.default_rng(17))
    np.testing.assert_allclose(drawn[:, :, 5], 2.0, atol=0.01)
    assert np.isfinite(drawn).all()

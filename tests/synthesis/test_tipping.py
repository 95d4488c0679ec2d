"""Imputed scores moved by δ: directions, class differences with Rubin's interval, answers."""

import numpy as np
import pytest
from helpers.joint_world import world
from scipy import stats

from models.joint.gaussian import JointGaussian, Parameters, class_probabilities
from models.joint.posterior import draw
from synthesis.tipping import IMPUTATIONS, CannotTipError, answers, class_difference, direction_of

DELTAS = (-1.0, 0.0, 1.0)


def model_of(link: float = 0.5) -> JointGaussian:
    made = world(classes=2, link=link)
    return JointGaussian(made.blocks, Parameters(np.array([0.4, 0.6]), made.mean, made.covariance))


def patients(model: JointGaussian, count: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with block b missing of every third, and labels; and who lacks it."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 2
    rows = (
        model.estimate.mean[labels]
        + random.standard_normal((count, model.blocks.width)) @ np.linalg.cholesky(model.estimate.covariance).T
    )
    lacking = np.arange(count) % 3 == 0
    rows[np.ix_(lacking, np.arange(*model.blocks.slice_of("b").indices(model.blocks.width)))] = np.nan
    return rows, labels, lacking


def test_directions_point_to_the_last_class() -> None:
    model = model_of()
    part = model.blocks.slice_of("b")
    total = model.estimate.total()[1][part, part]
    apart = model.estimate.mean[1, part] - model.estimate.mean[0, part]
    principal, between = direction_of(model, "b", "principal"), direction_of(model, "b", "class")
    np.testing.assert_allclose(total @ principal.unit, np.linalg.eigvalsh(total)[-1] * principal.unit, atol=1e-9)
    assert principal.unit @ apart > 0
    np.testing.assert_allclose(between.unit, apart / np.linalg.norm(apart))
    assert between.spread == pytest.approx(np.sqrt(between.unit @ total @ between.unit))
    alike = JointGaussian(model.blocks, Parameters(np.array([0.5, 0.5]), np.zeros((2, 9)), model.estimate.covariance))
    with pytest.raises(CannotTipError, match="same mean"):
        direction_of(alike, "b", "class")


def test_the_difference_moves_by_the_share_that_is_moved() -> None:
    model = model_of()
    rows, labels, lacking = patients(model)
    lacking[labels == 0] = False
    rows[::6] = np.where(np.isnan(rows[::6]), 0.0, rows[::6])  # of the first class nobody lacks it now
    direction = direction_of(model, "b", "class")
    args = (model, rows, labels, "b", direction, DELTAS)
    found = class_difference(*args, np.random.default_rng(1))
    np.testing.assert_allclose(np.diff(found[:, 0]), lacking[labels == 1].mean())
    np.testing.assert_allclose(class_difference(*args, np.random.default_rng(1), last_only=True), found)
    assert (found[:, 1] < found[:, 0]).all()


def test_the_interval_is_that_of_a_t_test_where_draws_hardly_differ() -> None:
    """A block that the others foretell almost exactly is as good as seen."""
    model = model_of(link=0.9999999)
    rows, labels, _ = patients(model)
    direction = direction_of(model, "b", "principal")
    middle, low, high = class_difference(model, rows, labels, "b", direction, (0.0, 1.0), np.random.default_rng(0))[0]
    means, seen = model.estimate.mean, model.blocks.slice_of("a")
    slope = np.linalg.lstsq(model.estimate.covariance[seen, seen], model.estimate.covariance[seen], rcond=1e-5)[0]
    part = model.blocks.slice_of("b")
    filled = means[labels][:, part] + (rows[:, seen] - means[labels][:, seen]) @ slope[:, part]
    scores = np.where(np.isnan(rows[:, part]), filled, rows[:, part]) @ direction.unit / direction.spread
    expected = stats.ttest_ind(scores[labels == 1], scores[labels == 0], equal_var=False)
    assert middle == pytest.approx(scores[labels == 1].mean() - scores[labels == 0].mean(), abs=0.02)
    assert high - low == pytest.approx(np.ptp(expected.confidence_interval(0.95)), rel=0.03)


def test_the_interval_has_the_spread_between_imputations_in_it() -> None:
    """Rubin 1987, chapter 3, on the same draws: T = W + (1 + 1/m) B, and the degrees of freedom that go with it."""
    model = model_of(link=0.05)
    rows, labels, _ = patients(model)
    direction = direction_of(model, "b", "class")
    found = class_difference(model, rows, labels, "b", direction, (0.0, 1.0), np.random.default_rng(5))[0]
    drawn, _ = draw(model, rows, IMPUTATIONS, np.random.default_rng(5), labels)
    scores = drawn[:, :, model.blocks.slice_of("b")] @ direction.unit / direction.spread
    each = [stats.ttest_ind(one[labels == 1], one[labels == 0], equal_var=False) for one in scores]
    q = np.array([one[labels == 1].mean() - one[labels == 0].mean() for one in scores])
    within = np.mean([(difference / test.statistic) ** 2 for difference, test in zip(q, each, strict=True)])
    between = (1 + 1 / IMPUTATIONS) * q.var(ddof=1)
    assert between > 0.05 * within
    freedom = min(len(rows) - 2, (IMPUTATIONS - 1) * (1 + within / between) ** 2)
    reach = stats.t.ppf(0.975, freedom) * np.sqrt(within + between)
    np.testing.assert_allclose(found, [q.mean(), q.mean() - reach, q.mean() + reach])


def test_only_who_lacks_the_scan_gets_another_answer() -> None:
    model = model_of()
    rows, _, lacking = patients(model)
    found = answers(model, rows, "b", direction_of(model, "b", "class"), DELTAS, np.random.default_rng(0))
    own = class_probabilities(model, model.estimate, rows)
    for probabilities in found:
        np.testing.assert_array_equal(probabilities[~lacking], own[~lacking])
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(found[1], own, atol=0.15)  # 50 imputations
    assert np.abs(found[1] - own).mean() < 0.02
    assert (found[2] - found[0])[lacking, 1].mean() > 0.1
    whole = rows[~lacking]
    kept = answers(model, whole, "b", direction_of(model, "b", "class"), DELTAS, np.random.default_rng(0))
    np.testing.assert_array_equal(kept[0], kept[2])


def test_there_must_be_something_to_move_and_to_compare() -> None:
    model = model_of()
    rows, labels, lacking = patients(model)
    direction, random = direction_of(model, "b", "class"), np.random.default_rng(0)
    with pytest.raises(CannotTipError, match="nothing to move"):
        class_difference(model, rows[~lacking], labels[~lacking], "b", direction, DELTAS, random)
    with pytest.raises(CannotTipError, match="1 patients of the last class"):
        class_difference(model, rows[:3], np.array([0, 1, 0]), "b", direction, DELTAS, random)

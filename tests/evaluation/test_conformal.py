"""Conformal sets against hand-computed ranks, the definition by p-values, brute force, and simulated coverage."""

import math

import numpy as np
import pytest

from evaluation.calibration import apply_temperature, fit_temperature
from evaluation.conformal import (
    SCORES,
    fewest_subjects,
    leave_one_out,
    leave_one_out_sets,
    prediction_sets,
    score_threshold,
    subject_scores,
    too_few_subjects,
)
from evaluation.outliers import Reference, distances, fit_reference


@pytest.mark.parametrize(
    ("count", "error_rate", "expected"),
    [(9, 0.1, 0.9), (9, 0.2, 0.8), (9, 0.25, 0.8), (19, 0.1, 1.8), (20, 0.1, 1.9), (8, 0.1, math.inf), (4, 0.2, 0.4)],
)
def test_threshold_is_the_right_order_statistic(count: int, error_rate: float, expected: float) -> None:
    scores = np.arange(count, 0, -1) / 10  # 0.1, 0.2, … in reverse
    assert score_threshold(scores, error_rate) == pytest.approx(expected)


@pytest.mark.parametrize(("error_rate", "needed"), [(0.1, 9), (0.05, 19), (0.2, 4), (0.3, 3), (0.01, 99), (0.5, 1)])
def test_fewest_subjects_is_where_the_threshold_becomes_finite(error_rate: float, needed: int) -> None:
    assert fewest_subjects(error_rate) == needed
    assert math.isfinite(score_threshold(np.zeros(needed), error_rate))
    assert math.isinf(score_threshold(np.zeros(needed - 1), error_rate))
    assert too_few_subjects(needed, error_rate) == ""
    assert too_few_subjects(needed - 1, error_rate) == (
        f"{needed - 1} held-out subjects are too few for an error rate of {error_rate:g}; {needed} are needed"
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_never_sorted_into_an_answer(value: float) -> None:
    wrong = np.array([[0.4, 0.6], [value, 0.5]])
    for ask in (
        lambda: score_threshold([0.1, value], 0.4),
        lambda: prediction_sets(wrong, 0.5),
        lambda: subject_scores(wrong, [0, 1], ["a", "b"]),
        lambda: apply_temperature(wrong, 1.0),
        lambda: fit_temperature(wrong, [0, 1]),
        lambda: distances(Reference(np.zeros(2), np.eye(2), 9), wrong),
        lambda: fit_reference(wrong),
    ):
        with pytest.raises(ValueError, match="is not a finite number; the model or the scans are damaged"):
            ask()


@pytest.mark.parametrize("error_rate", [0.0, 1.0, -0.1, 5.0])
def test_nonsense_rates_are_refused(error_rate: float) -> None:
    with pytest.raises(ValueError, match="expected a share between 0 and 1"):
        fewest_subjects(error_rate)


def test_sets_are_those_of_conformal_p_values_and_hold_the_leading_class() -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        scores = random.integers(0, 12, random.integers(10, 40)) / 12  # with ties
        p = random.dirichlet(np.ones(3), 5)
        error_rate = float(random.choice([0.1, 0.15, 0.3]))
        values = (1 + (scores >= (1 - p)[:, :, None]).sum(axis=2)) / (len(scores) + 1)
        expected = values > error_rate + 1e-12
        expected[np.arange(5), p.argmax(1)] = True
        np.testing.assert_array_equal(prediction_sets(p, score_threshold(scores, error_rate)), expected)


@pytest.mark.parametrize("score", SCORES)
def test_every_score_is_a_share_that_falls_with_the_probability(score: str) -> None:
    p = np.random.default_rng(2).dirichlet(np.ones(3), 50)
    scores = SCORES[score](p)
    assert scores.shape == p.shape
    assert scores.min() >= 0
    assert scores.max() <= 1
    assert (np.diff(np.take_along_axis(scores, p.argsort(axis=1), axis=1)) <= 0).all()


def test_the_score_asked_for_is_used_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORES, "squared", lambda p: (1 - p) ** 2)
    random = np.random.default_rng(3)
    p, truth, subjects = random.dirichlet(np.ones(3), 30), random.integers(0, 3, 30), [str(n) for n in range(30)]
    plain, squared = subject_scores(p, truth, subjects), subject_scores(p, truth, subjects, "squared")
    np.testing.assert_allclose(squared, plain**2)
    same = [prediction_sets(p, t, name) for t, name in ((0.7, "one_minus_p"), (0.49, "squared"))]
    np.testing.assert_array_equal(*same)
    assert leave_one_out(p, truth, subjects, 0.2, "squared") == leave_one_out(p, truth, subjects, 0.2)


def test_no_class_is_lost_to_a_model_that_hardly_errs() -> None:
    found = prediction_sets([[0.98, 0.02], [0.5, 0.5]], threshold=0.001)
    np.testing.assert_array_equal(found, [[True, False], [True, False]])


@pytest.mark.parametrize("error_rate", [0.1, 0.2])
def test_simulated_coverage_keeps_the_promise_and_not_much_more(error_rate: float) -> None:
    """New and held-out subjects are drawn alike; the model is wrong on purpose, which must not matter."""
    random = np.random.default_rng(0)
    draws, count = 4000, 24
    p_true = random.beta(2, 1, (draws, count + 1)) ** 2
    covered = [1 - row[-1] <= score_threshold(1 - row[:-1], error_rate) for row in p_true]
    error = 3 * math.sqrt(error_rate * (1 - error_rate) / draws)
    assert 1 - error_rate - error <= np.mean(covered) <= 1 - error_rate + 1 / (count + 1) + error


def test_coverage_of_subjects_with_several_observations_holds_for_all_of_them() -> None:
    random = np.random.default_rng(3)
    draws, subjects, each = 1500, 20, 3
    difficulty = random.normal(0, 2, (draws, subjects + 1, 1))
    p_true = 1 / (1 + np.exp(-(2 - difficulty + random.normal(0, 1, (draws, subjects + 1, each)))))
    names = np.repeat([f"s{i}" for i in range(subjects)], each)
    covered = []
    for row in p_true:
        held = row[:-1].reshape(-1)
        scores = subject_scores(np.stack([1 - held, held], axis=1), np.ones(len(held), dtype=int), list(names))
        covered.append((1 - row[-1] <= score_threshold(scores, 0.1)).all())
    assert np.mean(covered) >= 0.9 - 3 * math.sqrt(0.09 / draws)


def test_a_subject_gives_its_worst_score() -> None:
    p = [[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4]]
    np.testing.assert_allclose(subject_scores(p, [0, 0, 1, 0], ["b", "b", "a", "c"]), [0.2, 0.7, 0.4])


def test_leaving_each_subject_out_agrees_with_doing_so_by_hand() -> None:
    random = np.random.default_rng(5)
    p = random.dirichlet([1.5, 1.0], 40)
    truth = (random.random(40) < p[:, 1]).astype(int)
    subjects = [f"s{number // 2}" for number in range(40)]  # two observations each
    inside = leave_one_out_sets(p, truth, subjects, 0.2)
    assert inside is not None
    for name in set(subjects):
        mine = np.array([s == name for s in subjects])
        others = subject_scores(p[~mine], truth[~mine], [s for s in subjects if s != name])
        expected = prediction_sets(p[mine], score_threshold(others, 0.2))
        np.testing.assert_array_equal(inside[mine], expected)
    facts = leave_one_out(p, truth, subjects, 0.2)
    hit = inside[np.arange(40), truth]
    assert facts["subjects"] == 20
    assert facts["coverage"] == np.mean(hit.reshape(20, 2).all(axis=1))
    assert facts["coverage"] >= math.ceil(20 * 0.8) / 20  # by construction
    assert facts["coverage_by_class"] == [hit[truth == 0].mean(), hit[truth == 1].mean()]
    single = inside.sum(1) == 1
    assert facts["answered"] == single.mean()
    assert facts["answered_right"] == hit[single].mean()


def test_too_few_subjects_leave_no_shares() -> None:
    p, subjects = np.full((9, 2), 0.5), [f"s{i}" for i in range(9)]
    assert leave_one_out_sets(p, [0] * 9, subjects, 0.1) is None  # 8 others, 9 needed
    facts = leave_one_out(p, [0] * 9, subjects, 0.1)
    assert facts["coverage"] is None
    assert facts["coverage_by_class"] == [None, None]
    p, subjects = np.full((10, 2), 0.5), [f"s{i}" for i in range(10)]
    facts = leave_one_out(p, [0] * 10, subjects, 0.1)
    assert facts["coverage_by_class"] == [1.0, None]
    assert (facts["answered"], facts["answered_right"]) == (0.0, None)

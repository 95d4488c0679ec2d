"""ROC and calibration points against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from evaluation.curves import calibration_bins, mean_roc, roc_points


@pytest.mark.parametrize("seed", range(5))
def test_roc_points_equal_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    positive, scores = np.arange(50) % 3 == 0, np.round(generator.random(50), 1)
    false, true = roc_points(positive, scores)
    expected_false, expected_true, _ = roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(false, expected_false)
    np.testing.assert_allclose(true, expected_true)


def test_one_class_has_no_roc() -> None:
    assert roc_points([True, True], [0.1, 0.2])[0].size == 0
    assert mean_roc([roc_points([False], [0.1])])[0].size == 0


def test_mean_roc_lies_between_its_curves() -> None:
    perfect, chance = roc_points([False, True], [0.1, 0.9]), roc_points([False, True], [0.5, 0.5])
    false, true = mean_roc([perfect, chance, (np.empty(0), np.empty(0))], points=11)
    np.testing.assert_allclose(false[1:], np.linspace(0, 1, 11))
    np.testing.assert_allclose(true[1:], (1 + np.linspace(0, 1, 11)) / 2)
    assert (false[0], true[0]) == (0, 0)


def test_calibration_bins_have_equal_counts() -> None:
    scores = np.arange(20) / 20
    mean, observed, counts = calibration_bins(scores > 0.5, scores, bins=4)
    assert counts.tolist() == [5, 5, 5, 5]
    np.testing.assert_allclose(mean, scores.reshape(4, 5).mean(axis=1))
    np.testing.assert_allclose(observed, (scores > 0.5).reshape(4, 5).mean(axis=1))


def test_equal_scores_share_a_bin_whatever_their_order() -> None:
    positive, scores = np.array([1, 0, 1, 0, 1, 0], dtype=bool), np.array([0.2, 0.2, 0.2, 0.2, 0.9, 0.9])
    forward, back = calibration_bins(positive, scores, bins=3), calibration_bins(positive[::-1], scores[::-1], bins=3)
    assert forward[2].tolist() == [4, 2]
    for here, there in zip(forward, back, strict=True):
        np.testing.assert_array_equal(here, there)


def test_calibration_of_nothing_is_empty_and_no_bins_are_refused() -> None:
    assert calibration_bins([], [])[2].size == 0
    with pytest.raises(ValueError, match="bins is 0"):
        calibration_bins([True], [0.5], bins=0)

"""ROC curves: of one class, and their mean."""

from __future__ import annotations

import numpy as np

from evaluation.curves import mean_roc, roc_points


def test_one_class_has_no_roc() -> None:
    assert roc_points([True, True], [0.1, 0.2])[0].size == 0
    assert mean_roc([roc_points([False], [0.1])])[0].size == 0


def test_mean_roc_lies_between_its_curves() -> None:
    perfect, chance = roc_points([False, True], [0.1, 0.9]), roc_points([False, True], [0.5, 0.5])
    false, true = mean_roc([perfect, chance, (np.empty(0), np.empty(0))], points=11)
    np.testing.assert_allclose(false[1:], np.linspace(0, 1, 11))
    np.testing.assert_allclose(true[1:], (1 + np.linspace(0, 1, 11)) / 2)
    assert (false[0], true[0]) == (0, 0)

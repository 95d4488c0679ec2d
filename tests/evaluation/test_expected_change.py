"""What one more modality did, with numbers that can be checked by hand."""

import numpy as np
import pytest

from evaluation.conformal import leave_one_out_sets
from evaluation.expected_change import expected_change


def test_changes_by_hand_with_subjects_counting_alike() -> None:
    without = [[0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]
    complete = [[0.9, 0.1], [0.4, 0.6], [0.1, 0.9]]
    found = expected_change(without, complete, [0, 1, 1], ["a", "a", "b"], error_rate=0.1)
    assert found["n"] == 2
    # the leading class's probability moves by 0.3 and 0.3 for a (mean 0.3), by 0.1 for b
    assert found["mean_absolute_change"] == pytest.approx((0.3 + 0.1) / 2)
    assert found["decisions_changed"] == pytest.approx((0.5 + 0.0) / 2)
    assert found["abstentions_resolved"] is None  # far too few for sets
    assert found["error_rate"] == 0.1


def test_resolved_abstentions_are_counted_among_abstentions() -> None:
    random = np.random.default_rng(2)
    truth = random.integers(0, 2, 60)
    right = lambda low, high: random.uniform(low, high, 60)  # noqa: E731 - of the true class

    def as_rows(p_true: np.ndarray) -> np.ndarray:
        rows = np.stack([1 - p_true, p_true], axis=1)
        return np.where(truth[:, None] == 1, rows, rows[:, ::-1])

    without, complete = as_rows(right(0.3, 0.8)), as_rows(right(0.55, 0.99))
    subjects = [f"s{i}" for i in range(60)]
    found = expected_change(without, complete, truth, subjects, error_rate=0.1)
    before = leave_one_out_sets(without, truth, subjects, 0.1)
    after = leave_one_out_sets(complete, truth, subjects, 0.1)
    assert before is not None
    assert after is not None
    unsure = [row.sum() != 1 for row in before]
    assert 5 < sum(unsure) < 60
    resolved = [row.sum() == 1 for row, was in zip(after, unsure, strict=True) if was]
    assert found["abstentions_resolved"] == pytest.approx(np.mean(resolved))
    assert found["abstentions_resolved"] > 0.5


def test_a_modality_that_changes_nothing_changes_nothing() -> None:
    p = np.random.default_rng(0).dirichlet([1, 1, 1], 20)
    found = expected_change(p, p, np.arange(20) % 3, [f"s{i}" for i in range(20)], error_rate=0.2)
    assert found["mean_absolute_change"] == 0
    assert found["decisions_changed"] == 0
    assert found["abstentions_resolved"] in (0.0, None)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 2\) and \(2, 2\)"):
        expected_change([[0.5, 0.5]], [[0.5, 0.5]] * 2, [0], ["a"], error_rate=0.1)
    with pytest.raises(ValueError, match="n ≥ 1"):
        expected_change(np.zeros((0, 2)), np.zeros((0, 2)), [], [], error_rate=0.1)

"""Several sessions of a patient: patients are drawn, permuted and counted, not rows."""

import itertools

import numpy as np
import pytest

from evaluation.generated.distributions import kernel_distance, kernel_test
from evaluation.generated.judgement import Judgement, judge
from evaluation.generated.likelihood import feature_likelihood
from evaluation.generated.neighbours import memorisation
from evaluation.generated.usefulness import real_or_generated

SESSIONS = 3
Rows = np.ndarray


def names(count: int, sessions: int = SESSIONS) -> list[str]:
    return [f"s{i // sessions}" for i in range(count * sessions)]


@pytest.fixture(scope="module")
def both() -> tuple[Judgement, Judgement]:
    """The same patients, each scanned once, and each with the same scan three times."""
    random = np.random.default_rng(5)
    train, held_out, made = (random.standard_normal((n, 8)) for n in (26, 20, 40))
    again = [np.repeat(rows, SESSIONS, axis=0) for rows in (train, held_out)]
    return judge(train, held_out, made), judge(*again, made, subjects=(names(26), names(20)))


@pytest.mark.parametrize(
    "name", ["kernel", "kernel_of_training", "frechet_train", "frechet_held_out", "manifold", "manifold_of_training"]
)
def test_the_same_scan_again_tells_nothing_new(both: tuple[Judgement, Judgement], name: str) -> None:
    one, several = (vars(getattr(each, name)) for each in both)
    assert several == pytest.approx(one, abs=1e-9)


def test_copies_and_likelihoods_are_those_of_patients(both: tuple[Judgement, Judgement]) -> None:
    one, several = both
    for name in ("authentic", "c_t", "nearer", "copied"):
        assert getattr(several.memorisation, name) == pytest.approx(getattr(one.memorisation, name), abs=1e-9)
    assert vars(several.likelihood) == pytest.approx(vars(one.likelihood), abs=1e-9)
    np.testing.assert_allclose(several.variance, one.variance, rtol=0.03)  # n - 1 of more rows
    assert several.probe.high - several.probe.low > 0.9 * (one.probe.high - one.probe.low)
    assert (several.train, several.train_patients, several.held_out_patients) == (78, 26, 20)


def test_the_kernel_distance_is_the_mean_over_choices_of_one_session_each() -> None:
    random = np.random.default_rng(0)
    real, made = random.standard_normal((6, 3)), random.standard_normal((4, 3))
    whose = ["a", "a", "b", "c", "c", "c"]
    choices = itertools.product([0, 1], [2], [3, 4, 5])
    expected = np.mean([kernel_distance(real[list(rows)], made) for rows in choices])
    found = kernel_test(real, made, subjects=(whose, None), permutations=10)
    assert found.value == pytest.approx(expected)
    assert kernel_test(made, real, subjects=(None, whose), permutations=10).value == pytest.approx(expected)


def test_p_is_right_where_sessions_of_a_patient_are_alike() -> None:
    """As independent rows two of five such samples would differ at a level of .05."""
    below = {True: 0, False: 0}
    for seed in range(60):
        random = np.random.default_rng(seed)
        person = np.repeat(random.standard_normal((15, 4)), SESSIONS, axis=0)
        real, made = person + 0.3 * random.standard_normal(person.shape), random.standard_normal((60, 4))
        for known in below:
            subjects = (names(15) if known else None, None)
            below[known] += kernel_test(real, made, subjects=subjects, permutations=99, seed=seed).p <= 0.05
    assert below[True] <= 8
    assert below[False] >= 16


def test_another_session_does_not_hide_a_copy() -> None:
    random = np.random.default_rng(1)
    person = np.repeat(random.standard_normal((20, 30)), 6, axis=0)
    train = person + 0.05 * random.standard_normal(person.shape)
    held_out, made = random.standard_normal((20, 30)), random.standard_normal((30, 30))
    made[:10] = train[::12] + 0.01 * random.standard_normal((10, 30))
    found = memorisation(train, held_out, made, subjects=(names(20, 6), None))
    assert sorted((each.generated, each.training // 12) for each in found.copies) == [(i, i) for i in range(10)]
    assert not memorisation(train, held_out, made).copies  # six sessions alike: no row is alone


def test_the_probe_tests_no_session_of_a_patient_that_it_has_learnt_from() -> None:
    """Sessions of which each patient has its own mark would be told by it, if some were learnt from."""
    random = np.random.default_rng(2)
    marks = np.repeat(4 * np.eye(80)[:20], 4, axis=0)
    real = np.hstack([marks, 0.1 * random.standard_normal((80, 2))])
    made = np.hstack([4 * np.eye(80)[20:], 0.1 * random.standard_normal((60, 2))])
    assert real_or_generated(real, made, subjects=names(20, 4)).auc < 0.75
    assert real_or_generated(real, made).auc > 0.9  # as independent rows


def test_subjects_that_do_not_fit_are_refused() -> None:
    rows = np.random.default_rng(0).standard_normal((12, 3))
    with pytest.raises(ValueError, match="2 subjects for 12 rows"):
        kernel_test(rows, rows, subjects=(["a", "b"], None))
    with pytest.raises(ValueError, match="rows of 4 patients, at least 6 patients"):
        judge(rows, rows, rows, subjects=(None, names(4)))
    with pytest.raises(ValueError, match="1 training patients, at least 3"):
        memorisation(rows, rows, rows, subjects=(["a"] * 12, None))
    assert 0 < feature_likelihood(rows, rows, rows + 1, subjects=(names(4), names(4)), permutations=3).p <= 1

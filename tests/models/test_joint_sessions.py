"""Which session of a patient a joint model learns from."""

import numpy as np

from models.joint.sessions import one_session_each


def test_the_session_with_the_most_modalities_is_taken_and_of_those_the_latest() -> None:
    """Against the rule written out."""
    random = np.random.default_rng(0)
    subjects = [f"s{n}" for n in random.integers(0, 20, 100)]
    modalities, order = random.integers(1, 4, 100), random.permutation(100)
    expected = []
    for name in sorted(set(subjects)):
        own = [i for i in range(100) if subjects[i] == name]
        most = max(modalities[i] for i in own)
        expected.append(max((i for i in own if modalities[i] == most), key=lambda i: order[i]))
    assert one_session_each(subjects, modalities, order).tolist() == sorted(expected)


def test_a_session_each_is_everybody_and_nobody_is_nobody() -> None:
    assert one_session_each(["b", "a", "c"], np.array([1, 3, 2]), np.zeros(3)).tolist() == [0, 1, 2]
    assert one_session_each([], np.array([], dtype=np.int64), np.array([], dtype=np.int64)).tolist() == []


def test_a_patient_more_or_less_changes_no_other_row() -> None:
    """So noise that is made to hide one row hides a patient."""
    random = np.random.default_rng(1)
    subjects, modalities, order = random.integers(0, 12, 60), random.integers(1, 4, 60), random.integers(0, 5, 60)
    everybody = set(one_session_each(subjects, modalities, order).tolist())
    for name in np.unique(subjects):
        left = np.flatnonzero(subjects != name)
        without = {int(left[i]) for i in one_session_each(subjects[left], modalities[left], order[left])}
        assert without < everybody
        assert [subjects[i] for i in everybody - without] == [name]

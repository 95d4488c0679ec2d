"""Releases that tell a few patients apart by what they have in common, and those that do not."""

import itertools

import numpy as np
import pytest

from models.joint import disclosure

TWENTY = [f"p{i:02d}" for i in range(20)]


def told_apart(sets: list[list[str]], new: list[list[str]], least: int) -> list[tuple[str, ...]]:
    """Ask with one row for each patient."""
    rows = [[[(name,) for name in each] for each in side] for side in (sets, new)]
    return [tuple(row[0] for row in group) for group in disclosure.told_apart(*rows, least)]


def test_one_patient_more_is_told_apart_and_five_are_not() -> None:
    assert told_apart([TWENTY], [[*TWENTY, "new"]], 5) == [("new",)]
    five = [f"n{i}" for i in range(5)]
    assert told_apart([TWENTY], [[*TWENTY, *five]], 5) == []
    assert told_apart([TWENTY], [TWENTY], 5) == []
    assert told_apart([], [TWENTY, five], 5) == []


def test_who_changes_a_cell_is_told_apart() -> None:
    one, other = TWENTY[:10], TWENTY[10:]
    assert told_apart([one, other], [one[1:], [*other, one[0]]], 5) == [("p00",)]


def test_two_who_change_places_are_a_difference_of_few() -> None:
    assert told_apart([TWENTY[:10]], [[*TWENTY[1:10], "x"]], 5) == [("p00", "x")]


def test_a_sum_over_all_and_those_over_parts_give_the_rest_away() -> None:
    parts = [TWENTY[:8], TWENTY[8:16]]  # each far from all; together they leave four
    assert told_apart([TWENTY], parts, 5) == [("p16", "p17", "p18", "p19")]
    assert told_apart([TWENTY], parts[:1], 5) == []


def test_two_sums_and_that_of_both_without_two_patients_give_these_away() -> None:
    one, other = TWENTY[:10], TWENTY[10:]
    assert told_apart([TWENTY], [[*one, "x"], [*other, "y"]], 5) == [("x", "y")]
    assert told_apart([TWENTY], [[*one, "x"], [*other, "y"]], 2) == []


def test_what_was_given_away_before_is_not_held_against_the_new_one() -> None:
    before = [TWENTY, TWENTY[:-1]]
    assert told_apart(before, [TWENTY], 5) == []


@pytest.mark.parametrize("seed", range(4))
def test_atoms_in_the_span_are_those_that_integer_combinations_reach(seed: int) -> None:
    """Against trying every combination with weights -1, 0 and 1: what these reach must be found."""
    random = np.random.default_rng(seed)
    people = np.array([f"q{i}" for i in range(12)])
    sets = [people[random.random(12) < 0.6].tolist() for _ in range(4)]
    member = np.array([[name in each for each in sets] for name in people], dtype=int)
    reached = set()
    for weights in itertools.product((-1, 0, 1), repeat=4):
        total = member @ np.array(weights)
        if 0 < np.count_nonzero(total) < 3 and set(np.abs(total)) <= {0, 1}:
            reached.add(tuple(sorted(people[total != 0])))
    assert reached <= set(told_apart([], sets, 3)) | set(told_apart(sets, sets, 3)) | set(
        told_apart(sets[:-1], sets, 3)
    )


def test_a_session_more_of_a_patient_gives_the_patient_away() -> None:
    once = [(name, "1") for name in TWENTY]
    assert disclosure.told_apart([once], [[*once, ("p07", "2")]], 5) == [(("p07", "2"),)]
    again = [*once[:7], ("p07", "1, another scan"), *once[8:]]
    assert disclosure.told_apart([once], [again], 5) == [(("p07", "1"), ("p07", "1, another scan"))]
    of_four = [(name, f"{n}") for name in TWENTY[:4] for n in (2, 3)]  # eight rows, four patients
    assert len(disclosure.told_apart([once], [[*once, *of_four]], 5)) == 1
    assert disclosure.told_apart([once], [[*once, *((name, "2") for name in TWENTY[:5])]], 5) == []

"""Neighbours: against definitions written out by hand, and against SciPy."""

import numpy as np
import pytest
from scipy import stats

from evaluation.generated import neighbours
from evaluation.generated.neighbours import Copy, data_copying_score, manifold, memorisation


def rows(count: int, seed: int, columns: int = 4) -> np.ndarray:
    """Independent rows."""
    return np.random.default_rng(seed).normal(0, 1, (count, columns))


def test_the_manifold_is_its_definition() -> None:
    real, made, k = rows(12, 1), 0.6 * rows(17, 2) + 0.4, 3

    def radius(x: np.ndarray, i: int) -> float:
        return sorted(np.linalg.norm(x[i] - x[j]) for j in range(len(x)) if j != i)[k - 1]

    inside = [[np.linalg.norm(r - g) < radius(real, i) for g in made] for i, r in enumerate(real)]
    found = manifold(real, made, k=k)
    assert found.precision == pytest.approx(np.mean([any(row[j] for row in inside) for j in range(17)]))
    assert found.density == pytest.approx(np.sum(inside) / (k * 17))
    assert found.coverage == pytest.approx(np.mean([any(row) for row in inside]))
    seen = [any(np.linalg.norm(r - g) < radius(made, j) for j, g in enumerate(made)) for r in real]
    assert found.recall == pytest.approx(np.mean(seen))


def test_no_manifold_with_as_many_rows_as_neighbours() -> None:
    assert np.isnan(manifold(rows(5, 1), rows(50, 2)).coverage)
    assert np.isfinite(manifold(rows(6, 1), rows(50, 2)).coverage)


def test_a_single_spot_has_precision_and_no_coverage() -> None:
    real = rows(60, 1)
    found = manifold(real, real[:1] + 0.001 * rows(60, 2))
    assert found.precision == 1
    assert found.coverage < 0.5
    assert found.recall < 0.1


@pytest.mark.parametrize("tied", [False, True])
def test_the_data_copying_score_is_the_normal_of_mann_and_whitney(tied: bool) -> None:
    one, other = np.abs(rows(30, 1)[:, 0]), 0.2 + np.abs(rows(20, 2)[:, 0])
    if tied:
        one, other = one.round(1), other.round(1)
    p = stats.mannwhitneyu(one, other, alternative="less", use_continuity=False, method="asymptotic").pvalue
    assert stats.norm.cdf(data_copying_score(one, other)) == pytest.approx(p, rel=1e-9)
    assert data_copying_score(np.ones(4), np.ones(3)) == 0


def test_authenticity_is_its_definition() -> None:
    train, held, made = rows(20, 1), rows(15, 2), rows(40, 3)
    authentic = []
    for row in made:
        nearest = min(range(20), key=lambda i: np.linalg.norm(train[i] - row))
        own = min(np.linalg.norm(train[nearest] - train[j]) for j in range(20) if j != nearest)
        authentic.append(np.linalg.norm(train[nearest] - row) > own)
    assert memorisation(train, held, made).authentic == pytest.approx(np.mean(authentic))


def test_copies_are_listed_with_the_row_that_they_are_of() -> None:
    train, held, made = rows(40, 1, 30), rows(20, 2, 30), rows(50, 3, 30)
    made[7], made[30] = train[11] + 0.01, train[3]
    found = memorisation(train, held, made)
    assert [(copy.generated, copy.training) for copy in found.copies] == [(30, 3), (7, 11)]
    assert found.copies[0] == Copy(30, 3, 0.0, 0.0)
    assert found.copies[1].distance == pytest.approx(0.01 * np.sqrt(30))
    assert found.copied == pytest.approx(2 / 50)


def test_copies_are_looked_for_among_all_rows_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other figures are of the first rows alone."""
    train, held_out = rows(30, 1), rows(20, 2)
    honest, copies = rows(25, 3), train[:12]
    few = memorisation(train, held_out, honest)
    every = memorisation(train, held_out, np.vstack([honest, copies]))
    monkeypatch.setattr(neighbours, "AT_ONCE", 10)
    found = memorisation(train, held_out, np.vstack([honest, copies]), most=25)
    assert found.copies == every.copies
    assert {copy.generated for copy in found.copies} >= set(range(25, 37))
    assert (found.authentic, found.c_t, found.nearer) == (few.authentic, few.c_t, few.nearer)
    assert every.authentic < few.authentic


def test_an_exact_copy_is_found_where_training_rows_are_alike_in_pairs() -> None:
    train = rows(30, 1, 20)
    train[15:19] = train[:4]  # so that no row is nearer than 95 % of these are to each other
    made = np.vstack([train[2], rows(9, 3, 20)])
    assert [copy.generated for copy in memorisation(train, rows(12, 2, 20), made).copies] == [0]


def test_honest_rows_are_nearer_than_95_percent_of_held_out_ones_in_5_percent() -> None:
    found = [memorisation(rows(40, 3 * i, 8), rows(60, 3 * i + 1, 8), rows(80, 3 * i + 2, 8)) for i in range(60)]
    assert np.mean([each.nearer for each in found]) == pytest.approx(0.06, abs=0.025)
    assert np.mean([each.copied for each in found]) < 0.02
    assert np.std([each.c_t for each in found]) < 1.6
    assert abs(np.mean([each.c_t for each in found])) < 0.5

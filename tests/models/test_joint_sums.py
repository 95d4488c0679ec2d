"""Sums of scores: what is added can be taken out, and sites add up."""

import numpy as np
import pytest
from helpers.joint_world import with_gaps, world

from models.joint.blocks import Blocks
from models.joint.gaussian import fit_estimate
from models.joint.posterior import fit
from models.joint.sums import Sums, merge, subtract, sums_of

WORLD = world()


def patients(count: int = 80, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    rows, labels = WORLD.draw(count, random)
    return with_gaps(rows, WORLD.blocks, 0.3, random), labels


def of(rows: np.ndarray, labels: np.ndarray) -> Sums:
    return sums_of(rows, labels, WORLD.blocks, 2)


def equal(one: Sums, other: Sums, tolerance: float) -> None:
    assert one.cells.keys() == other.cells.keys()
    for key, cell in one.cells.items():
        assert cell.count == other.cells[key].count
        np.testing.assert_allclose(cell.total, other.cells[key].total, atol=tolerance, rtol=0)
        np.testing.assert_allclose(cell.outer, other.cells[key].outer, atol=tolerance, rtol=0)


def test_cells_are_the_sums_of_their_patients() -> None:
    rows, labels = patients()
    has = ~np.isnan(rows[:, [0, 4, 7]])
    sums = of(rows, labels)
    assert sums.count == 80
    for (label, pattern), cell in sums.cells.items():
        chosen = rows[(labels == label) & (has == pattern).all(axis=1)][:, WORLD.blocks.columns(pattern)]
        assert cell.count == len(chosen) > 0
        np.testing.assert_allclose(cell.total, chosen.sum(0), atol=1e-12)
        np.testing.assert_allclose(cell.outer, np.einsum("ni,nj->ij", chosen, chosen), atol=1e-12)
    np.testing.assert_array_equal(sums.with_block().sum(0), has.sum(0))
    np.testing.assert_array_equal(sums.pairs(), has.T.astype(int) @ has.astype(int))
    np.testing.assert_array_equal(sums.per_class(), np.bincount(labels))


def test_sites_merged_give_the_model_of_all_patients_together() -> None:
    rows, labels = patients()
    order = np.random.default_rng(0).permutation(80)
    parts = [of(rows[part], labels[part]) for part in np.array_split(order, 5)]
    together = parts[0]
    for part in parts[1:]:
        together = merge(together, part)
    central = of(rows, labels)
    equal(together, central, 1e-10)
    ours, theirs = fit(together, draws=3), fit(central, draws=3)
    np.testing.assert_allclose(ours.estimate.mean, theirs.estimate.mean, atol=1e-9)
    np.testing.assert_allclose(ours.estimate.covariance, theirs.estimate.covariance, atol=1e-9)
    np.testing.assert_allclose(ours.draws[2].covariance, theirs.draws[2].covariance, atol=1e-7)


def test_a_patient_taken_out_was_never_seen() -> None:
    rows, labels = patients()
    everybody, gone = of(rows, labels), slice(7, 12)
    never = of(np.delete(rows, gone, axis=0), np.delete(labels, gone))
    left = subtract(everybody, of(rows[gone], labels[gone]))
    equal(left, never, 1e-10)
    np.testing.assert_allclose(
        fit_estimate(left)[0].estimate.covariance, fit_estimate(never)[0].estimate.covariance, atol=1e-10
    )


def test_who_was_never_added_cannot_be_taken_out() -> None:
    rows, labels = patients(20)
    with pytest.raises(ValueError, match="these patients were never added"):
        subtract(of(rows[:5], labels[:5]), of(rows, labels))
    with pytest.raises(ValueError, match="only sums over the same blocks"):
        merge(of(rows, labels), sums_of(rows[:, :4], labels, Blocks(("a",), (4,)), 2))


def test_a_patient_without_anything_counts_for_nothing() -> None:
    rows, labels = patients(10)
    rows[3] = np.nan
    equal(of(rows, labels), of(np.delete(rows, 3, axis=0), np.delete(labels, 3)), 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({(2, 1): np.nan}, "patient in row 2: part of a is NaN"),
        ({(5, 8): np.inf}, "patient in row 5: an infinite score"),
    ],
)
def test_bad_scores_are_named(change: dict[tuple[int, int], float], words: str) -> None:
    rows, labels = WORLD.draw(10, np.random.default_rng(0))
    for place, value in change.items():
        rows[place] = value
    with pytest.raises(ValueError, match=words):
        of(rows, labels)


def test_bad_labels_and_blocks_are_named() -> None:
    rows, labels = WORLD.draw(10, np.random.default_rng(0))
    with pytest.raises(ValueError, match="expected one each, from 0 to 1"):
        of(rows, labels + 1)
    with pytest.raises(ValueError, match=r"expected \(n, 9\)"):
        of(rows[:, :5], labels)
    with pytest.raises(ValueError, match="expected different names"):
        Blocks(("a", "a"), (1, 1))

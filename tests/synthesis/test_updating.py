"""An updated model is the model of all patients together, and one that forgot a patient never knew the patient."""

import numpy as np
import pytest
from helpers.joint_world import with_gaps, world

from models.joint.basis import fit_basis
from models.joint.blocks import Blocks
from models.joint.gaussian import TooFewPatientsError
from models.joint.posterior import fit
from models.joint.sums import onto, scale, sums_of
from synthesis.updating import (
    Updated,
    apart,
    drift,
    held_out,
    learn,
    model_of,
    nobody,
    predict,
    weighted_sums,
    with_blocks,
)

WORLD = world()
EXACT = 1e-10


def patients(count: int = 90, seed: int = 1) -> tuple[list[str], np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    rows, labels = WORLD.draw(count, random)
    return [f"s{i:03d}" for i in range(count)], with_gaps(rows, WORLD.blocks, 0.3, random), labels


def learnt(
    parts: list[slice], names: list[str], rows: np.ndarray, labels: np.ndarray, forgetting: float = 1.0
) -> Updated:
    state = nobody(WORLD.blocks, 2)
    for part in parts:
        state = learn(state, names[part], rows[part], labels[part], forgetting=forgetting)
    return state


def same_model(one: Updated, other: Updated) -> None:
    assert one.subjects == other.subjects
    assert apart(one.sums, other.sums) < EXACT
    ours, theirs = model_of(one.sums)[0].estimate, model_of(other.sums)[0].estimate
    np.testing.assert_allclose(ours.mean, theirs.mean, atol=EXACT)
    np.testing.assert_allclose(ours.covariance, theirs.covariance, atol=EXACT)


def test_updates_give_the_model_of_all_patients_together() -> None:
    given = patients()
    in_parts = learnt([slice(0, 30), slice(30, 31), slice(31, 70), slice(70, 90)], *given)
    same_model(in_parts, learnt([slice(0, 90)], *given))
    assert apart(in_parts.sums, sums_of(given[1], given[2], WORLD.blocks, 2)) < EXACT


def test_who_was_erased_was_never_seen() -> None:
    names, rows, labels = patients()
    state = learnt([slice(0, 50), slice(50, 90)], names, rows, labels)
    gone = [names[3], names[60]]
    kept = [i for i, name in enumerate(names) if name not in gone]
    never = learn(nobody(WORLD.blocks, 2), [names[i] for i in kept], rows[kept], labels[kept])
    left = state.without(gone)
    same_model(left, never)
    assert not set(gone) & set(left.subjects)
    new = WORLD.draw(10, np.random.default_rng(9))
    np.testing.assert_allclose(predict(left.sums, *new).classes, predict(never.sums, *new).classes, atol=EXACT)
    with pytest.raises(ValueError, match="s003 is not in"):
        left.without(["s003"])


def test_a_basis_learnt_from_a_patient_would_keep_traces() -> None:
    """Why erasure is by subtraction with a public basis alone: principal components turn when a patient is left out."""
    features = np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32)
    features[0] *= 5
    turned = [fit_basis(each, most=4)[0].components for each in (features, features[1:])]
    assert np.abs(np.abs(turned[0][0] @ turned[1][0]) - 1) > 0.01
    public = [fit_basis(each, kind="public", most=4)[0].components for each in (features, features[1:])]
    np.testing.assert_array_equal(*public)


def test_earlier_patients_count_less_by_the_factor_of_forgetting() -> None:
    names, rows, labels = patients()
    state = learnt([slice(0, 30), slice(30, 60), slice(60, 90)], names, rows, labels, forgetting=0.5)
    np.testing.assert_array_equal(state.weights, np.repeat([0.25, 0.5, 1.0], 30))
    assert state.sums.count == pytest.approx(52.5)
    assert apart(state.sums, state.anew()) < EXACT
    whole = weighted_sums(rows, labels, state.weights, WORLD.blocks, 2)
    later = weighted_sums(rows[30:], labels[30:], state.weights[30:], WORLD.blocks, 2)
    assert apart(state.without(names[:30]).sums, later) < EXACT
    assert apart(state.sums, whole) < EXACT
    assert apart(state.sums, sums_of(rows, labels, WORLD.blocks, 2)) > 0.1
    with pytest.raises(ValueError, match="count less than one"):
        fit(state.sums, draws=2)
    with pytest.raises(ValueError, match="0 < λ ≤ 1"):
        learn(state, ["x"], rows[:1], labels[:1], forgetting=0.0)


def test_a_new_session_takes_the_place_of_the_old_one() -> None:
    names, rows, labels = patients()
    state = learnt([slice(0, 90)], names, rows, labels)
    later = rows[:1] + 1.0
    after = learn(state, [names[0]], later, labels[:1])
    same_model(after, learnt([slice(0, 90)], names, np.concatenate([later, rows[1:]]), labels))


def test_a_modality_that_nobody_had_can_come_later() -> None:
    names, rows, labels = patients()
    few = Blocks(("c", "a"), (2, 4))
    order = [*range(7, 9), *range(4)]
    there = ~np.isnan(rows[:, order]).all(axis=1)
    early = Updated(
        sums_of(rows[:, order], labels, few, 2),
        tuple(np.array(names)[there]),
        rows[there][:, order],
        labels[there],
        np.ones(there.sum()),
    )
    moved = with_blocks(early, WORLD.blocks)
    expected = rows.copy()
    expected[:, 4:7] = np.nan
    assert apart(moved.sums, sums_of(expected, labels, WORLD.blocks, 2)) < EXACT
    assert apart(moved.sums, moved.anew()) < EXACT
    with pytest.raises(ValueError, match="a: 4 scores in the sums, 3 asked for"):
        onto(early.sums, Blocks(("a",), (3,)))


def test_too_few_patients_of_a_modality_leave_it_out_and_of_all_are_refused() -> None:
    names, rows, labels = patients(40)
    rows[2:, 7:] = np.nan
    state = learn(nobody(WORLD.blocks, 2), names, rows, labels)
    model, left_out = model_of(state.sums)
    assert left_out == ("c",)
    assert model.blocks.names == ("a", "b")
    with pytest.raises(TooFewPatientsError):
        model_of(state.without(names[2:]).sums)
    assert np.isfinite(predict(state.sums, rows[:5], labels[:5]).surprise).all()


def test_weights_of_half_are_patients_of_half() -> None:
    _, rows, labels = patients()
    sums = sums_of(rows, labels, WORLD.blocks, 2)
    half = scale(sums, 0.5)
    assert (sums.whole, half.whole) == (True, False)
    np.testing.assert_allclose(half.per_class(), sums.per_class() / 2)
    np.testing.assert_allclose(half.pairs(), sums.pairs() / 2)


def stream(shift: float, seed: int) -> tuple[Updated, dict[str, float]]:
    """60 patients, then 30 more whose scores lie `shift` standard deviations off; with their surprise."""
    names, rows, labels = patients(90, seed)
    rows[60:] += shift
    before = learnt([slice(0, 60)], names, rows, labels)
    said = predict(before.sums, rows[60:], labels[60:])
    after = learn(before, names[60:], rows[60:], labels[60:])
    return after, dict(zip(names[60:], said.surprise, strict=True))


def test_drift_of_a_stream_is_found_and_none_is_not() -> None:
    assert all(drift(*stream(1.5, seed), version=2).found for seed in range(2))
    assert sum(drift(*stream(0.0, seed), version=2).found for seed in range(3)) <= 1


def test_limits_of_all_versions_add_up_and_few_patients_say_nothing() -> None:
    after, newest = stream(3.0, 0)
    limits = [drift(after, newest, version=v).limit for v in (2, 3)]
    assert limits[0] == 4 * limits[1]
    assert sum(6 / np.pi**2 / v**2 for v in range(1, 10_000)) == pytest.approx(1, abs=1e-3)
    few = dict(list(newest.items())[:7])
    said = drift(after, few, version=2)
    assert np.isnan(said.p)
    assert not said.found


def test_surprise_of_patients_like_those_before_is_about_standard_normal() -> None:
    names, rows, labels = patients(400, 3)
    said = held_out(learn(nobody(WORLD.blocks, 2), names, rows, labels))
    assert abs(said.surprise.mean()) < 0.15
    assert 0.85 < said.surprise.std() < 1.2
    right = said.classes.argmax(axis=1) == labels
    assert right.mean() > 0.7

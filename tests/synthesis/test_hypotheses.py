"""Questions asked of made patients whose truth is known."""

import numpy as np
import pytest
from helpers.questioned import BLOCKS, Made, confounded, phantoms

from evaluation.paired import MeanDifference, mean_difference
from models.joint.gaussian import class_probabilities, condition
from models.joint.posterior import fit
from models.joint.sums import sums_of
from synthesis.hypotheses import (
    class_axis,
    displacement,
    distance,
    of_somebody_else,
    outcomes,
    permuted,
    random_moves,
    shift,
)
from synthesis.questions import CLASS, Along, Question, parse_along

SIGN = Question("MRI", Along("component", 0), 1.0, (CLASS,))
SEVERITY = "covariate severity"


def effect(made: Made, question: Question, target: str = "PET", move: np.ndarray | None = None) -> MeanDifference:
    if move is None:
        move = displacement(made.model, question)
    moves = np.repeat(move[None], len(made.tested), axis=0) if move.ndim == 1 else move
    changed = shift(made.model, question, made.tested, moves)
    return mean_difference([outcomes(made.model, question, made.tested, changed)[target]])


def in_signs(made: Made, question: Question) -> MeanDifference:
    """The change of PET's sign (its first score) when MRI's sign appears."""
    changed = shift(made.model, question, made.tested, np.ones((len(made.tested), 1)))
    return mean_difference([changed.scores[:, :, 1]])


@pytest.mark.parametrize("penetrance", [0.6, 0.8])
def test_the_conditional_of_phantoms_is_met(penetrance: float) -> None:
    truth = (penetrance - 1) / penetrance
    found = [in_signs(phantoms(seed, penetrance=penetrance), SIGN).mean for seed in range(3)]
    np.testing.assert_allclose(found, truth, atol=0.1)


def test_what_is_held_fixed_takes_away_what_both_depend_on() -> None:
    """MRI does nothing to PET; severity does both. Held fixed, the interval holds 0; not held, it does not."""
    held = Question("MRI", Along("component", 0), 1.0, (SEVERITY, CLASS))
    inside = [0 for seed in range(10) if (e := effect(confounded(seed, draws=15), held)).low <= 0 <= e.high]
    assert len(inside) >= 8
    free = [effect(confounded(seed), Question("MRI", Along("component", 0))) for seed in range(3)]
    assert all(each.low > 0.1 for each in free)
    assert all(each.p < 1e-3 for each in free)


def test_a_held_class_carries_nothing() -> None:
    """Two modalities that go together through the class alone."""
    random = np.random.default_rng(0)
    labels = np.arange(300) % 2
    rows = random.standard_normal((300, BLOCKS.width)) + labels[:, None] * np.r_[np.full(8, 0.7), 0]
    made = Made(fit(sums_of(rows, labels, BLOCKS, 2), draws=15), rows, labels, rows[:80])
    free, held = (effect(made, Question("MRI", Along(CLASS), held=each)) for each in ((), (CLASS,)))
    assert free.low > 0.1
    assert abs(held.mean) < 0.5 * free.mean


def test_controls_are_silent() -> None:
    silent = {"permuted": 0, "random": 0}
    question = Question("MRI", Along("component", 0))
    for seed in range(10):
        made = confounded(seed, draws=15)
        move = displacement(made.model, question)
        moves = np.repeat(move[None], len(made.tested), axis=0)
        once = [f"s{i}" for i in range(len(made.rows))]
        mixed = permuted(made.rows, made.labels, BLOCKS, 2, "MRI", subjects=once, draws=15, seed=seed)
        changed = outcomes(made.model, question, made.tested, shift(mixed, question, made.tested, moves))
        e = mean_difference([changed["PET"]])
        silent["permuted"] += e.low <= 0 <= e.high
        e = effect(made, question, move=random_moves(made.model, move, "MRI", len(made.tested), seed))
        silent["random"] += e.low <= 0 <= e.high
    assert min(silent.values()) >= 8


def test_sessions_of_a_patient_get_those_of_one_other_patient() -> None:
    """Shuffled one by one, sessions of a patient would be alike no more, and chance would link less than it does."""
    subjects = np.repeat([f"s{i}" for i in range(12)], np.arange(12) % 4 + 1)
    session = np.concatenate([np.arange(n % 4 + 1) for n in range(12)])
    for seed in range(20):
        taken = of_somebody_else(list(subjects), np.random.default_rng(seed))
        giver = {who: set(subjects[taken[subjects == who]]) for who in set(subjects)}
        assert all(len(of) == 1 for of in giver.values())
        assert {who for of in giver.values() for who in of} == set(subjects)  # each gives once
        assert all(of != {who} for who, of in giver.items())
        sizes = np.array([(subjects == subjects[i]).sum() for i in taken])
        np.testing.assert_array_equal(session[taken], session % sizes)
    np.testing.assert_array_equal(of_somebody_else(["a", "a"], np.random.default_rng(0)), [0, 1])


def visits(seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """30 patients with 8 visits, nine tenths of whose variance is the patient's; nothing links the blocks."""
    random = np.random.default_rng([seed, 9])
    own = np.sqrt(0.9) * random.standard_normal((30, BLOCKS.width))
    rows = np.repeat(own, 8, axis=0) + np.sqrt(0.1) * random.standard_normal((240, BLOCKS.width))
    return rows, np.repeat(np.arange(30) % 2, 8), [f"s{i:02d}" for i in range(30) for _ in range(8)]


def test_pairings_are_permuted_by_patient() -> None:
    """What chance links among 30 patients: a correlation of 1 / sqrt(30), however often they come."""
    found: dict[str, list[float]] = {"by patient": [], "by visit": []}
    for seed in range(12):
        rows, labels, subjects = visits(seed)
        for name, of in (("by patient", subjects), ("by visit", [str(i) for i in range(len(rows))])):
            mixed = permuted(rows, labels, BLOCKS, 2, "MRI", subjects=of, draws=0, seed=seed)
            covariance = mixed.estimate.covariance[:4, 4:8]
            found[name].append(float(np.square(covariance).mean()))
    assert np.mean(found["by patient"]) > 2 * np.mean(found["by visit"])


def test_the_probability_moves_with_the_source_and_with_what_it_brings_along() -> None:
    made = phantoms(1)
    along = Question("MRI", Along(CLASS))
    less = effect(made, Question("MRI", Along(CLASS), by=-1.0), CLASS)
    assert less.high < 0
    changed = shift(made.model, along, made.tested, np.zeros((len(made.tested), 1)))
    assert np.abs(changed.chance).max() < 1e-12
    assert np.abs(changed.scores).max() < 1e-12
    np.testing.assert_array_equal(shift(made.model, along, made.tested, np.ones((50, 1))).scores[:, :, 0], 0)


def test_a_patient_keeps_age_where_scans_move() -> None:
    """MRI follows severity and severity the class; a moved MRI makes nobody else more severe."""
    made = confounded(0, draws=0)
    question = Question("MRI", Along(CLASS))
    move = np.r_[displacement(made.model, question), np.zeros(5)]
    changed = shift(made.model, question, made.tested, np.repeat(move[None, :4], len(made.tested), axis=0))
    after = made.tested + move
    after[:, 4:8] += changed.scores[0][:, 4:8]
    before, then = (class_probabilities(made.model, made.model.estimate, rows)[:, -1] for rows in (made.tested, after))
    np.testing.assert_array_equal(changed.scores[0][:, 8], 0)
    np.testing.assert_allclose(changed.chance[0], then - before, atol=1e-12)
    assert SEVERITY not in outcomes(made.model, question, made.tested, changed)


def test_one_draw_of_the_parameters_agrees_with_the_conditional_of_the_model() -> None:
    """An independent way to the same figure: `condition` before and after, on the source alone."""
    made = confounded(0, draws=0)
    question = Question("MRI", Along(CLASS))
    move = displacement(made.model, question)
    before = np.full_like(made.tested, np.nan)
    before[:, :4] = made.tested[:, :4]
    expected = condition(made.model, before + np.r_[move, np.zeros(5)]).mean - condition(made.model, before).mean
    moves = np.repeat(move[None], len(made.tested), axis=0)
    found = shift(made.model, question, made.tested, moves).scores[0]
    np.testing.assert_allclose(found[:, 4:8], expected[:, 4:8], atol=1e-10)


def test_ablation_takes_the_source_away_and_leaves_missing_targets_alone() -> None:
    made = confounded(0)
    rows = made.tested.copy()
    rows[:50, 4:8] = np.nan
    question = Question("MRI", None)
    changed = shift(made.model, question, rows, None)
    found = outcomes(made.model, question, rows, changed)
    assert np.isnan(found["PET"][:, :50]).all()
    assert np.abs(found["PET"][:, 50:]).max() > 0.1
    assert np.abs(found[CLASS]).max() > 0.01
    assert abs(found[CLASS].mean()) < 0.05


def test_moves_have_the_length_that_was_asked_for() -> None:
    made = confounded(0)
    total = made.model.estimate.total()[1][:4, :4]
    for question in (Question("MRI", Along("component", 2), 1.5), Question("MRI", Along(CLASS), -0.5)):
        move = displacement(made.model, question)
        unit = move / np.linalg.norm(move)
        assert np.linalg.norm(move) / np.sqrt(unit @ total @ unit) == pytest.approx(abs(question.by))
    assert displacement(made.model, Question("MRI", Along(CLASS)))[0] > 0  # towards the disease
    covariance = made.model.estimate.covariance[:4, :4]
    moves = random_moves(made.model, move, "MRI", 200, 0)
    lengths = np.einsum("nk,nk->n", moves, np.linalg.solve(covariance, moves.T).T)
    np.testing.assert_allclose(lengths, move @ np.linalg.solve(covariance, move))
    with pytest.raises(ValueError, match="MRI has 4 components, not 5"):
        displacement(made.model, Question("MRI", Along("component", 4)))
    with pytest.raises(ValueError, match="no feature map with positions"):
        displacement(made.model, Question("MRI", Along("region")))


def test_distances_are_from_the_nearest_class() -> None:
    made = confounded(0)
    mean = made.model.estimate.mean[:, :4]
    np.testing.assert_allclose(distance(made.model, mean, "MRI"), 0, atol=1e-9)
    assert distance(made.model, mean + 3, "MRI").min() > 10
    axis = class_axis(made.model, "PET")
    assert axis @ made.model.estimate.total()[1][4:8, 4:8] @ axis == pytest.approx(1)


@pytest.mark.parametrize("text", ["class", "component 3", "region 2-4 3-5"])
def test_directions_are_read(text: str) -> None:
    region = Along("region", region=(1, 3, 2, 4))
    expected = {"class": Along(CLASS), "component 3": Along("component", 2), "region 2-4 3-5": region}
    assert parse_along(text) == expected[text]


@pytest.mark.parametrize("text", ["component 0", "component", "region 4-2 3-5", "klass", "region 1-2"])
def test_other_directions_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected class, component 3, or region"):
        parse_along(text)

"""Patients that never were: as many of each class and pattern as there were, and scores as they were."""

import numpy as np
import pytest

from models.joint.model import JointConfig, Patients, fit_model
from synthesis.patients import class_offsets, draw_patients, observed_patterns

COUNT, WIDTH = 120, 20


def training(seed: int = 0) -> tuple[Patients, np.ndarray]:
    """Two modalities that share two numbers; all of class 1 have both, of class 0 a third lacks B."""
    random = np.random.default_rng(seed)
    labels = (np.arange(COUNT) % 4 == 0).astype(np.int64)
    shared = random.normal(0, 1, (COUNT, 2)) + 2 * labels[:, None]
    features = {}
    for name in ("A", "B"):
        mix = np.random.default_rng(len(name) + ord(name)).normal(0, 1, (2, WIDTH))
        features[name] = (shared @ mix + 0.3 * random.normal(0, 1, (COUNT, WIDTH))).astype(np.float32)
    features["B"][(labels == 0) & (np.arange(COUNT) % 3 == 0)] = np.nan
    age = (70 + 5 * random.normal(0, 1, (COUNT, 1)) - 70) / 5 + labels[:, None]
    return Patients(features, {"age": age}), labels


@pytest.fixture(scope="module")
def made() -> tuple:
    patients, labels = training()
    model, _ = fit_model(patients, labels, 2, JointConfig(draws=10), shape=(WIDTH, 1, 1))
    return patients, labels, model, draw_patients(model, 4000, ("A", "B"), np.random.default_rng(1))


def test_classes_and_patterns_are_as_in_training(made: tuple) -> None:
    patients, labels, model, drawn = made
    assert sum(observed_patterns(model, ("A", "B")).values()) == COUNT
    assert drawn.classes.mean() == pytest.approx(labels.mean(), abs=0.03)
    assert drawn.has["A"].all()
    assert drawn.has["B"][drawn.classes == 1].all()
    lacking = 1 - patients.has("B")[labels == 0].mean()
    assert 1 - drawn.has["B"][drawn.classes == 0].mean() == pytest.approx(lacking, abs=0.03)


@pytest.mark.parametrize("block", ["A", "B"])
def test_features_have_the_mean_and_the_covariance_of_training(made: tuple, block: str) -> None:
    patients, labels, model, drawn = made
    features = drawn.features(model, block, np.arange(4000), np.random.default_rng(2))
    there = patients.has(block)
    for label in (0, 1):
        real, synthetic = patients.features[block][there & (labels == label)], features[drawn.classes == label]
        error = real.std(axis=0) / np.sqrt(len(real))
        assert (np.abs(real.mean(axis=0) - synthetic.mean(axis=0)) / error < 4.5).all()
    one, other = (np.cov(rows.T) for rows in (patients.features[block][there], features))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.97
    assert np.trace(other) / np.trace(one) == pytest.approx(1, abs=0.2)


def test_what_belongs_together_is_drawn_together(made: tuple) -> None:
    patients, labels, model, drawn = made

    def link(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        return float(np.linalg.svd(a.T @ b, compute_uv=False)[0] / np.sqrt((a**2).sum() * (b**2).sum()))

    both = patients.has("B") & (labels == 0)
    inside = np.flatnonzero(drawn.classes == 0)
    random = np.random.default_rng(3)
    a, b = (drawn.features(model, name, inside, random) for name in ("A", "B"))
    real = link(patients.features["A"][both], patients.features["B"][both])
    assert link(a, b) > 0.8 * real
    assert link(a, random.permutation(b)) < 0.3 * real
    age = drawn.covariates["age"][:, 0]
    given = patients.covariates["age"][:, 0]
    apart = given[labels == 1].mean() - given[labels == 0].mean()
    assert age[drawn.classes == 1].mean() - age[drawn.classes == 0].mean() == pytest.approx(apart, abs=0.3)


def test_a_sign_that_the_basis_misses_is_added_back_but_of_a_few_patients() -> None:
    random = np.random.default_rng(0)
    labels = (np.arange(60) % 2).astype(np.int64)
    mix = random.normal(0, 5, (3, 40)) * (np.arange(40) < 39)  # the last column is noise alone
    rows = (random.normal(0, 1, (60, 3)) @ mix + random.normal(0, 1, (60, 40))).astype(np.float32)
    rows[labels == 1, 39] += 8
    model, _ = fit_model(Patients({"A": rows}, {}), labels, 2, JointConfig(components=3, draws=3), shape=(40, 1, 1))
    drawn = draw_patients(model, 3000, ("A",), np.random.default_rng(1))

    def apart(offsets: np.ndarray | None) -> float:
        made = drawn.features(model, "A", np.arange(3000), np.random.default_rng(2), offsets=offsets)
        return float(made[drawn.classes == 1, 39].mean() - made[drawn.classes == 0, 39].mean())

    real = rows[labels == 1, 39].mean() - rows[labels == 0, 39].mean()
    assert apart(class_offsets(model, "A", rows, labels)) == pytest.approx(real, rel=0.1)
    assert apart(None) < 0.2 * real
    made = drawn.features(model, "A", np.flatnonzero(drawn.classes == 0), np.random.default_rng(2))
    spread = rows[:, 39] - np.where(labels == 1, real, 0)  # the last column lies outside of the basis
    assert made[:, 39].std() == pytest.approx(np.hypot(spread.std(), real / 2), rel=0.2)  # class means among residuals
    few = np.where(np.arange(60) < 8, labels, 0)  # four patients of class 1
    assert not class_offsets(model, "A", rows, few)[1].any()


def test_another_seed_draws_others_and_the_same_the_same(made: tuple) -> None:
    _, _, model, _ = made
    one, same, other = (draw_patients(model, 9, ("A",), np.random.default_rng(seed)).scores for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)


def test_without_training_patients_of_a_modality_there_is_nobody_to_draw(made: tuple) -> None:
    _, _, model, _ = made
    with pytest.raises(ValueError, match="not in tuple|no training patient"):
        draw_patients(model, 9, ("C",), np.random.default_rng(1))

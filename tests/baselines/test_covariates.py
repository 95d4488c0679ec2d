"""Classifiers that see no image: what they learn from, and what they must not."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from baselines.covariates import INVERSE_PENALTIES, UNCHOSEN, WEIGHT, WEIGHTS, fit_table, fused, fusion_weight
from baselines.sample import CannotFit
from cohort.covariates import availability_of


def cohort(n: int = 120, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, pd.Series, np.ndarray]:
    """Age tells the class, sex does not, and a tenth of the ages is missing; two of three are trained on."""
    random = np.random.default_rng(seed)
    target = random.integers(0, 2, n)
    age = np.where(random.random(n) < 0.1, "", (65 + 8 * target + random.normal(0, 6, n)).round(1).astype(str))
    table = pd.DataFrame({"age": age, "sex": random.choice(["F", "M"], n)}, index=[f"o{i}" for i in range(n)])
    subjects = pd.Series([f"s{i // 2}" for i in range(n)], index=table.index)  # two sessions each
    return table, target, subjects, np.arange(n) % 3 > 0


def test_age_tells_what_it_tells() -> None:
    table, target, subjects, train = cohort(400)
    fitted = fit_table(table, target, subjects, train, classes=2)
    found = fitted.probabilities(table[~train])
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert roc_auc_score(target[~train], found[:, 1]) > 0.75
    assert fitted.inverse_penalty in INVERSE_PENALTIES


def test_nothing_is_learnt_from_test_rows() -> None:
    table, target, subjects, train = cohort()
    usual = fit_table(table, target, subjects, train, classes=2)
    other, wrong = table.copy(), np.where(train, target, 1 - target)
    other.loc[~train, "age"] = "1000"
    other.loc[~train, "sex"] = "unknown"
    changed = fit_table(other, wrong, subjects, train, classes=2)
    np.testing.assert_array_equal(usual.probabilities(table), changed.probabilities(table))


def test_which_scans_there_are_is_told_exactly() -> None:
    """One class has exactly one of two scans, the other has both or none but a third: no single scan tells it."""
    sets = {0: ("MRI", "CT"), 1: ("PET", "CT"), 2: ("MRI", "PET", "CT"), 3: ("CT",)}
    kinds = np.arange(80) % 4
    scans = pd.DataFrame([(f"o{i:02d}", name) for i, kind in enumerate(kinds) for name in sets[kind]])
    table = availability_of(scans.set_axis(["observation", "modality"], axis=1))
    target = (kinds < 2).astype(np.int64)
    train = np.arange(80) < 60
    fitted = fit_table(table, target, pd.Series(table.index), train, classes=2)
    found = fitted.probabilities(table[~train])[:, 1]
    assert ((found > 0.9) == (target[~train] == 1)).all()


def test_where_nothing_differs_everybody_gets_the_share_of_the_class() -> None:
    table = pd.DataFrame({"pattern": ["MRI"] * 8}, index=range(8))
    fitted = fit_table(table, np.array([0, 0, 0, 1] * 2), pd.Series(range(8)), np.arange(8) < 4, classes=3)
    np.testing.assert_array_equal(fitted.probabilities(table), [[0.75, 0.25, 0]] * 8)
    assert fitted.parameters == 0


def test_a_class_that_nobody_is_trained_on_has_no_chance() -> None:
    table, target, subjects, train = cohort()
    found = fit_table(table, target, subjects, train, classes=3).probabilities(table)
    assert (found[:, 2] == 0).all()


def test_one_class_cannot_be_fitted() -> None:
    table, target, subjects, train = cohort()
    with pytest.raises(CannotFit, match="one class"):
        fit_table(table, np.zeros_like(target), subjects, train, classes=2)


def test_without_an_inner_fold_of_two_classes_the_penalty_is_no_extreme() -> None:
    table = pd.DataFrame({"age": ["50", "80"]}, index=["a", "b"])
    fitted = fit_table(table, np.array([0, 1]), pd.Series(["a", "b"]), np.array([True, True]), classes=2)
    assert fitted.inverse_penalty == UNCHOSEN
    assert fitted.probabilities(table)[1, 1] > 0.52


# --- covariates + images ---


def probabilities(logits: np.ndarray) -> np.ndarray:
    p = 1 / (1 + np.exp(-logits))
    return np.stack([1 - p, p], axis=1)


def test_images_count_as_much_as_they_are_worth_on_validation() -> None:
    random = np.random.default_rng(1)
    target = random.integers(0, 2, 400)
    sign, prior = 2 * target - 1, np.array([0.5, 0.5])
    covariates = probabilities(sign + random.normal(0, 1.4, 400))
    useless, good = (probabilities(v) for v in (random.normal(0, 2, 400), sign + random.normal(0, 1.4, 400)))
    assert fusion_weight(covariates, useless, target, prior) == (0.0, "")
    weight, note = fusion_weight(covariates, good, target, prior)
    assert weight >= 0.7
    assert note == ""
    both = fused(covariates, good, prior, weight)
    assert roc_auc_score(target, both[:, 1]) > roc_auc_score(target, covariates[:, 1]) + 0.05


def test_fusion_is_a_product_of_odds() -> None:
    prior = np.array([0.8, 0.2])
    one, two = np.array([[0.4, 0.6]]), np.array([[0.7, 0.3]])
    odds = (0.6 / 0.4) * (0.3 / 0.7 / (0.2 / 0.8)) ** 0.5
    np.testing.assert_allclose(fused(one, two, prior, 0.5)[:, 1], odds / (1 + odds))
    np.testing.assert_allclose(fused(one, two, prior, 0.0), one)
    assert np.isnan(fused(one, np.full((1, 2), np.nan), prior, 0.5)).all()


def test_without_two_classes_in_validation_nothing_is_chosen() -> None:
    p = np.full((3, 2), 0.5)
    weight, note = fusion_weight(p, p, np.zeros(3, dtype=np.int64), np.array([0.5, 0.5]))
    assert weight == WEIGHT in WEIGHTS
    assert "not of two classes" in note

"""Probes, groups and gains against scikit-learn and by hand."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from evaluation.confounding import (
    PENALTIES,
    bands,
    gain_over_covariates,
    out_of_fold,
    probe_category,
    probe_number,
)
from evaluation.intervals import paired_difference


def rows(n: int = 60, features: int = 200) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    inputs = random.normal(3, 1, (n, features))
    return inputs, inputs[:, 0] * 2 + random.normal(0, 0.5, n)


def test_each_row_is_predicted_by_ridge_regression_on_the_others() -> None:
    inputs, target = rows()
    folds = np.arange(60) % 5
    ours = sum(out_of_fold(inputs @ inputs.T, target[:, np.newaxis], folds))[:, 0]
    train, held = folds != 2, folds == 2
    size = (np.square(inputs[train] - inputs[train].mean(0)).sum(1)).mean() * train.sum()
    theirs = [Ridge(alpha=p * size).fit(inputs[train], target[train]).predict(inputs[held]) for p in PENALTIES]
    assert min(np.abs(ours[held] - each).max() for each in theirs) < 1e-6


def test_the_target_of_a_row_does_not_reach_its_own_prediction() -> None:
    inputs, target = rows()
    folds = np.arange(60) % 5
    other = np.where(folds == 2, 1000.0, target)
    before, after = (sum(out_of_fold(inputs @ inputs.T, t[:, None], folds))[folds == 2] for t in (target, other))
    np.testing.assert_array_equal(before, after)


def subjects(n: int) -> pd.Series:
    return pd.Series([f"s{i}" for i in range(n)])


def test_a_site_that_shows_is_told_and_one_that_does_not_is_not() -> None:
    random = np.random.default_rng(0)
    site = np.arange(90) % 3
    shown = random.normal(0, 1, (90, 40)) + 2 * np.eye(40)[site]
    folds = np.stack([random.permutation(90) % 5 for _ in range(2)])
    names = pd.Series(np.array(list("ABC"))[site])
    found = probe_category(shown @ shown.T, names, subjects(90), folds)
    assert found["low"] > 0.8
    noise = random.normal(0, 1, (90, 40))
    found = probe_category(noise @ noise.T, names, subjects(90), folds)
    assert found["low"] < 0.5 < found["high"]


def test_a_number_that_shows_is_predicted() -> None:
    inputs, target = rows(80, 5)
    folds = np.arange(80)[np.newaxis] % 5
    found = probe_number(inputs @ inputs.T, target, subjects(80), folds)
    predicted = sum(out_of_fold(inputs @ inputs.T, target[:, np.newaxis], folds[0]))[:, 0]
    assert found["mean"] == pytest.approx(1 - np.square(target - predicted).mean() / target.var())
    assert 0.7 < found["low"] < found["mean"] < found["high"] < 1
    noise = np.random.default_rng(3).normal(size=80)
    assert probe_number(inputs @ inputs.T, noise, subjects(80), folds)["low"] < 0


def test_two_folds_are_too_few() -> None:
    with pytest.raises(ValueError, match="2 folds; three are needed"):
        out_of_fold(np.eye(4), np.ones((4, 1)), np.array([0, 0, 1, 1]))


def predictions() -> pd.DataFrame:
    """Two repeats, 30 subjects: A has ten of each class, all told apart; B has ten of one and none of the other."""
    site = ["A"] * 20 + ["B"] * 10
    truth = np.array([0] * 10 + [1] * 10 + [0] * 10)
    table = pd.DataFrame({"subject": [f"{s}{i}" for i, s in enumerate(site)], "truth": truth})
    p = np.where(truth == 1, 0.9, 0.1)
    p[20:] = 0.8
    table = table.assign(observation=table["subject"], p_0=1 - p, p_1=p)
    return pd.concat([table.assign(repeat=1), table.assign(repeat=2)], ignore_index=True)


def test_bands_hold_about_equally_many() -> None:
    ages = pd.Series([60.0, 61, 62, 63, 64, 65, np.nan], index=list("abcdefg"))
    found = bands(ages)
    assert found.tolist()[:6] == [name for name in found.cat.categories for _ in range(2)]
    assert found.cat.categories[0] == "60 to 61.6667"
    assert found.isna()["g"]
    assert bands(pd.Series([5.0, 5, np.nan])).tolist()[:2] == ["5 to 5"] * 2


def test_bands_are_cut_where_those_named_are_and_hold_everybody() -> None:
    ages = pd.Series([60.0, 61, 62, 63, 90, 20], index=list("abcdef"))
    found = bands(ages, learnt_from=set("abcd"))
    assert list(found.cat.categories) == ["20 to 61", "over 61 to 62", "over 62 to 90"]
    assert found.astype(str).to_dict() == {
        "a": "20 to 61", "b": "20 to 61", "c": "over 61 to 62", "d": "over 62 to 90", "e": "over 62 to 90",
        "f": "20 to 61",
    }  # fmt: skip


def test_the_gain_is_the_paired_difference_on_what_both_could_take() -> None:
    base = predictions()
    random = np.random.default_rng(0)
    covariates = base.assign(p_1=random.random(60), p_0=0.0)
    covariates["p_0"] = 1 - covariates["p_1"]
    top = base.copy()
    top.loc[:9, ["p_0", "p_1"]] = np.nan
    found = gain_over_covariates(covariates, top, base.assign(p_1=0.5, p_0=0.5))
    shared = top["p_0"].notna()
    expected = paired_difference(top[shared], covariates[shared], "auc")
    assert (found["difference"], found["low"], found["high"]) == (
        expected["difference"], expected["low"], expected["high"],
    )  # fmt: skip
    assert found["n"] == 50
    assert found["fused_auc"] - found["covariates_auc"] == pytest.approx(found["difference"])
    assert found["availability_auc"] == 0.5
    assert all(np.isnan(v) for v in gain_over_covariates(None, None, None).values())

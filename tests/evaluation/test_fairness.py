"""Groups of patients: measures of each, gaps between them, and what chance explains."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, recall_score, roc_auc_score

from benchmarks.bench_fairness import HARMS, Design, Harm, simulate
from benchmarks.bench_fairness import cohort as simulated
from evaluation.comparison import holm
from evaluation.fairness import (
    MEASURES,
    audit_groups,
    calibration_slope,
    crossed,
    gaps_between_groups,
)


def cohort(n: int = 90, *, seed: int = 0, harm: float = 0.0, repeats: int = 1) -> tuple[Any, dict[str, pd.Series]]:
    """Test predictions of n patients, and their groups; sick women lack the share `harm` of what the sick show."""
    return simulated(Design("", n, repeats), Harm("", lacking=harm), seed=seed)


def audit(table: pd.DataFrame, groups: dict[str, pd.Series], **more: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    audited = audit_groups(table, groups, smallest=10)
    return audited, gaps_between_groups(table, groups, audited, smallest=10, **{"permutations": 400, **more})


def test_every_measure_is_that_of_scikit_learn() -> None:
    table, groups = cohort(120, harm=0.7, repeats=2)
    table["decided"] = (table["p_1"] >= np.where(table["repeat"] == 1, 0.3, 0.6)).astype(int)  # a threshold a repeat
    found = audit_groups(table, groups, smallest=10).set_index(["grouping", "group"])
    for grouping, group_of in groups.items():
        for group in group_of.unique():
            here = table[table["subject"].map(group_of.astype(str)) == group]
            truth, p, decided = here["truth"], here["p_1"], here["decided"]
            row = found.loc[grouping, group]
            assert row["auc_mean"] == pytest.approx(roc_auc_score(truth, p))
            assert row["tpr_mean"] == pytest.approx(recall_score(truth, decided))
            assert row["fpr_mean"] == pytest.approx(1 - recall_score(1 - truth, 1 - decided))
            assert row["brier_mean"] == pytest.approx(brier_score_loss(truth, p))
            odds = np.log(p / (1 - p)).to_numpy()[:, np.newaxis]
            fit = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(odds, truth)
            assert row["calibration_slope_mean"] == pytest.approx(fit.coef_[0, 0], rel=1e-3)
            assert row["prevalence"] == pytest.approx(here.drop_duplicates("subject")["truth"].mean())
            for name in MEASURES:
                assert row[f"{name}_low"] < row[f"{name}_mean"] < row[f"{name}_high"], (group, name)
    assert list(found.loc["age"].index) == ["young", "middle", "old"]


def test_a_group_too_small_is_not_scored_and_has_no_gap() -> None:
    table, groups = cohort(90)
    site = groups["site"].copy()
    sick = table.loc[table["truth"] == 1, "subject"]
    site[sick.iloc[:9]] = "C"
    site[table.loc[table["truth"] == 0, "subject"].iloc[:19]] = "C"
    audited, gaps = audit(table, {"site": site})
    row = audited.set_index("group").loc["C"]
    assert (row["fewest"], row["subjects"]) == (9, 28)
    assert row[[f"{name}_mean" for name in MEASURES]].isna().all()
    assert set(gaps["highest"]) | set(gaps["lowest"]) == {"A", "B"}
    assert audit(table, {"all": pd.Series("A", index=site.index)})[1].empty


def test_the_gap_is_the_highest_minus_the_lowest_with_an_interval_around_it() -> None:
    table, groups = cohort(180, harm=0.6)
    audited, gaps = audit(table, groups)
    for row in gaps.itertuples():
        values = audited[audited["grouping"] == row.grouping].set_index("group")[f"{row.measure}_mean"]
        assert row.gap == pytest.approx(values.max() - values.min())
        assert (row.highest, row.lowest) == (values.idxmax(), values.idxmin())
        assert row.low < row.gap < row.high
        assert row.groups == len(values)
    assert set(gaps["measure"]) == set(MEASURES)
    assert gaps.loc[gaps["measure"].isin(["balanced_accuracy", "calibration_slope"]), "p"].isna().all()
    assert gaps.loc[gaps["measure"] == "auc", "p"].notna().all()


def test_p_is_the_share_of_all_assignments_with_as_large_a_gap() -> None:
    """Four of each class, two groups: all 36 assignments that keep each group's numbers can be listed."""
    truth = np.repeat([0, 1], 4)
    p = np.array([0.1, 0.2, 0.6, 0.7, 0.15, 0.65, 0.8, 0.9])
    names = [f"s{i}" for i in range(8)]
    table = pd.DataFrame({"repeat": 1, "subject": names, "observation": names, "truth": truth, "p_0": 1 - p, "p_1": p})
    table["decided"] = (p >= 0.5).astype(int)
    group = pd.Series(list("AABBBBAA"), index=names)
    measures = {
        "auc": roc_auc_score,
        "brier": brier_score_loss,
        "tpr": lambda y, q: (q[y == 1] >= 0.5).mean(),
        "fpr": lambda y, q: (q[y == 0] >= 0.5).mean(),
    }
    audited = audit_groups(table, {"g": group}, smallest=2)
    found = gaps_between_groups(table, {"g": group}, audited, smallest=2, permutations=20_000).set_index("measure")
    members_of = [
        np.isin(np.arange(8), [*well, *sick])
        for well, sick in itertools.product(itertools.combinations(range(4), 2), itertools.combinations(range(4, 8), 2))
    ]
    exact = {}
    for name, measure in measures.items():
        gaps = [abs(measure(truth[a], p[a]) - measure(truth[~a], p[~a])) for a in [group == "A", *members_of]]
        exact[name] = np.mean(np.array(gaps[1:]) >= gaps[0] - 1e-9)
        assert found.loc[name, "p"] == pytest.approx(exact[name], abs=0.015), name
    assert len(set(exact.values())) == 4


def test_p_is_never_0_and_holm_counts_all_tests() -> None:
    table, groups = cohort(120, harm=1.0)
    gaps = audit(table, groups)[1]
    assert gaps["p"].min() == 1 / 401  # none of the 400
    np.testing.assert_array_equal(gaps["p_holm"], holm(gaps["p"]))
    assert gaps["p"].notna().sum() > gaps.groupby("grouping")["p"].count().max()


def test_who_changes_class_is_permuted_among_those_who_do() -> None:
    """Else a group could be left without a class: the sick of A are those who fell ill."""
    rows = [("a1", 0), ("a1", 1), ("a2", 0), ("a2", 1), *((f"b{i}", 0) for i in range(4)), ("b4", 1), ("b5", 1)]
    table = pd.DataFrame(rows, columns=["subject", "truth"]).assign(repeat=1, decided=0)
    table = table.assign(p_1=np.linspace(0.2, 0.8, 10), observation=[f"o{i}" for i in range(10)])
    table["p_0"] = 1 - table["p_1"]
    group = {"g": pd.Series({name: name[0] for name in table["subject"]})}
    audited = audit_groups(table, group, smallest=2)
    gaps = gaps_between_groups(table, group, audited, smallest=2, permutations=100).set_index("measure")
    assert gaps.loc["auc", "gap"] > 0.1
    assert gaps.loc["auc", "p"] == 1  # nobody else could be in A


def test_the_interval_of_a_gap_takes_the_nearer_end_of_each() -> None:
    """Zou and Donner: down to the low end of the higher group and the high end of the lower one."""
    table, groups = cohort(60)
    audited = audit_groups(table, {"sex": groups["sex"]}, smallest=10).assign(
        auc_mean=[0.8, 0.5], auc_low=[0.6, 0.3], auc_high=[0.9, 0.8]
    )
    gaps = gaps_between_groups(table, {"sex": groups["sex"]}, audited, smallest=10, permutations=100)
    row = gaps.set_index("measure").loc["auc"]
    assert (row["low"], row["high"]) == pytest.approx((0.3 - np.hypot(0.2, 0.3), 0.3 + np.hypot(0.1, 0.2)))


def test_the_interval_of_a_slope_is_that_of_the_sandwich() -> None:
    table, groups = cohort(120)
    row = audit_groups(table, {"all": pd.Series("A", index=groups["sex"].index)}, smallest=10).iloc[0]
    x = np.stack([np.ones(120), np.log(table["p_1"] / table["p_0"])], axis=1)
    slope = row["calibration_slope_mean"]
    model = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(x[:, 1:], table["truth"])
    fitted = model.predict_proba(x[:, 1:])[:, 1]
    bread = np.linalg.inv(x.T @ (x * (fitted * (1 - fitted))[:, np.newaxis]))
    influence = (x * (table["truth"] - fitted).to_numpy()[:, np.newaxis]) @ bread[1]
    error = np.sqrt((influence**2).sum() * 120 / 119)
    reach = stats.t.ppf(0.975, table["truth"].value_counts().min() - 1) * error
    ends = row["calibration_slope_low"], row["calibration_slope_high"]
    assert ends == pytest.approx((slope - reach, slope + reach), rel=1e-3)


def test_rows_of_a_patient_stay_together() -> None:
    """Ten tests of each patient are no ten patients: p is about that of one test."""
    table, groups = cohort(60, harm=0.4, seed=3)
    ten = pd.concat([table.assign(repeat=r) for r in range(1, 11)], ignore_index=True)
    sex = {"sex": groups["sex"]}
    one, many = (audit(each, sex, permutations=2000)[1].set_index("measure")["p"] for each in (table, ten))
    assert one["auc"] > 0.01
    assert many["auc"] == pytest.approx(one["auc"], abs=1e-9)


def test_numbers_of_sick_and_well_alone_are_no_finding() -> None:
    """The Brier score differs where prevalence does, though the model is the same in both."""
    random = np.random.default_rng(0)
    n = 400
    truth = np.concatenate([np.arange(200) < 150, np.arange(200) < 50]).astype(int)
    p = np.clip(np.where(truth == 1, random.beta(2, 3, n), random.beta(1, 9, n)), 0.01, 0.99)
    names = [f"s{i}" for i in range(n)]
    table = pd.DataFrame({"repeat": 1, "subject": names, "observation": names, "truth": truth, "p_0": 1 - p, "p_1": p})
    table["decided"] = (p >= 0.5).astype(int)
    group = {"site": pd.Series(np.repeat(["A", "B"], 200), index=names)}
    _, gaps = audit(table, group)
    brier = gaps.set_index("measure").loc["brier"]
    assert brier["gap"] > 0.1
    assert brier["p"] > 0.05


def test_the_seed_decides_p_and_the_order_of_rows_does_not() -> None:
    table, groups = cohort(80, harm=0.3)
    first = audit(table, groups)[1]
    again = audit(table.sample(frac=1, random_state=0), groups)[1]
    pd.testing.assert_frame_equal(first, again)
    assert not audit(table, groups, seed=1)[1]["p"].equals(first["p"])


def test_groups_are_crossed_where_both_have_two() -> None:
    names = list("abcd")
    groups = {
        "sex": pd.Series(["F", "M", "F", "M"], index=names),
        "age": pd.Series(pd.Categorical(["old", "old", "young", None], ["young", "old"], ordered=True), index=names),
        "country": pd.Series("x", index=names),
    }
    found = crossed(groups)
    assert list(found) == ["sex and age"]
    pair = found["sex and age"]
    assert pair.astype(str).to_dict() == {"a": "F, old", "b": "M, old", "c": "F, young"}
    assert list(pair.cat.categories) == ["F, young", "F, old", "M, old"]


def test_a_slope_that_does_not_exist_is_not_given() -> None:
    truth = np.array([0, 0, 0, 1, 1, 1])
    one = np.ones((1, 6))
    assert np.isnan(calibration_slope(truth, [0.1, 0.2, 0.3, 0.7, 0.8, 0.9], one)).all()  # separated
    assert np.isnan(calibration_slope(truth, [0.4] * 6, one)).all()
    random = np.random.default_rng(0)
    odds = random.normal(0, 2, 20_000)
    y = random.random(20_000) < 1 / (1 + np.exp(-odds))
    for factor in (0.5, 1, 3):
        slope = calibration_slope(y.astype(int), 1 / (1 + np.exp(-factor * odds)), np.ones((1, 20_000)))
        assert slope == pytest.approx(1 / factor, rel=0.06)


def test_a_planted_harm_is_found_and_none_is_found_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few cohorts; docs/results/fairness.md has more."""
    monkeypatch.setattr("benchmarks.bench_fairness.PERMUTATIONS", 600)
    design = Design("", 90)
    hits, alarms, tests = simulate(design, HARMS[1], 10)
    assert hits >= 0.8
    assert alarms <= 0.2
    assert tests >= 12
    assert simulate(design, HARMS[0], 10)[1] <= 0.2


def test_three_classes_have_what_can_be_said_of_them() -> None:
    random = np.random.default_rng(0)
    n = 150
    truth = np.arange(n) % 3
    p = random.dirichlet(np.ones(3), n)
    names = [f"s{i}" for i in range(n)]
    columns = {f"p_{k}": p[:, k] for k in range(3)}
    table = pd.DataFrame({"repeat": 1, "subject": names, "observation": names, "truth": truth, **columns})
    table["decided"] = p.argmax(axis=1)
    sex = {"sex": pd.Series(np.array(["F", "M"])[np.arange(n) // 3 % 2], index=names)}
    audited, gaps = audit(table, sex)
    assert audited[["tpr_mean", "fpr_mean", "calibration_slope_mean", "prevalence"]].isna().all(axis=None)
    assert audited[["auc_mean", "brier_mean", "balanced_accuracy_mean"]].notna().all(axis=None)
    assert set(gaps["measure"]) == {"auc", "balanced_accuracy", "brier"}

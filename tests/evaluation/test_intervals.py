"""Intervals against textbook errors of one repeat, and their promises on simulated cohorts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.bench_intervals import Setting, Studies, coverage, members, rejections, scores, studies
from evaluation.intervals import CORRELATION, error_of_mean, interval, paired_difference, summarise
from evaluation.metrics import METRICS, score


def delong_error(truth: np.ndarray, positive: np.ndarray) -> float:
    """The standard error of one AUC as in DeLong 1988, one comparison at a time."""
    cases, controls = positive[truth == 1], positive[truth == 0]
    won = np.array([[float(c > d) + 0.5 * (c == d) for d in controls] for c in cases])
    return float(np.sqrt(won.mean(1).var(ddof=1) / cases.size + won.mean(0).var(ddof=1) / controls.size))


def test_one_repeat_has_the_errors_of_textbooks(make_predictions) -> None:
    rows = make_predictions(n_subjects=60, repeats=1).drop_duplicates("subject")
    found, truth, positive = summarise(rows), rows["truth"].to_numpy(), rows["p_1"].to_numpy()
    right = (positive >= 0.5) == truth
    errors = {"auc": delong_error(truth, positive), "accuracy": right.std(ddof=1) / np.sqrt(right.size)}
    sizes = {"auc": np.bincount(truth), "accuracy": np.array([right.size])}
    for name, error in errors.items():
        mean, odds = found[name]["mean"], [found[name][end] / (1 - found[name][end]) for end in ("low", "high")]
        half = np.diff(np.log(odds))[0] / 2  # log odds
        assert np.log(odds).mean() == pytest.approx(np.log(mean / (1 - mean)))
        reach = half * mean * (1 - mean) / error
        assert stats.t.ppf(0.975, sizes[name].sum()) <= reach <= stats.t.ppf(0.975, sizes[name].min() - 1)


def test_repeats_of_the_same_predictions_add_no_certainty(make_predictions) -> None:
    once = make_predictions(repeats=1)
    copies = pd.concat([once.assign(repeat=i) for i in range(5)])
    for name, summary in summarise(once).items():
        again = summarise(copies)[name]
        assert (again["low"], again["high"]) == pytest.approx((summary["low"], summary["high"])), name


def test_more_repeats_help_and_not_as_if_they_were_independent(make_predictions) -> None:
    def width(repeats: int) -> float:
        found = summarise(make_predictions(n_subjects=90, repeats=repeats))["accuracy"]
        return found["high"] - found["low"]

    assert width(1) * np.sqrt(CORRELATION) * 0.9 < width(20) < width(1)


def table_of(block: Studies, cohort: int = 0, method: int = 0) -> pd.DataFrame:
    """One simulated study as a table of predictions."""
    rows = [
        {"repeat": r, "subject": f"{patient:03d}", "observation": f"{patient:03d}_{s}", 
         "truth": int(block.truth[patient]), "p_1": 1 / (1 + np.exp(-block.logits[cohort, method, r, i, s]))}
        for r, patients in enumerate(block.test[cohort])
        for i, patient in enumerate(patients)
        for s in range(block.logits.shape[-1])
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(p_0=1 - table["p_1"])


@pytest.mark.parametrize("sessions", [1, 2])
def test_the_simulation_is_of_the_intervals_and_tests_that_are_printed(sessions: int) -> None:
    block = next(studies(Setting(40, 3, sessions, features=10), 2, methods=2, seed=1))
    found, (a, b) = summarise(table_of(block, 1)), (table_of(block, 1, m) for m in (0, 1))
    for name, (values, influence) in scores(block).items():
        mean = values[1, 0].mean()
        error = error_of_mean(values[1, 0], influence[1, 0], members(block, name)[1])
        ends = [float(end) for end in interval(name, mean, *error)]
        assert [found[name]["mean"], found[name]["low"], found[name]["high"]] == pytest.approx([mean, *ends], rel=1e-4)
        error, freedom, _ = error_of_mean(values[1, 1] - values[1, 0], influence[1, 1] - influence[1, 0],
                                          members(block, name)[1])  # fmt: skip
        p = 2 * stats.t.sf(abs((values[1, 1] - values[1, 0]).mean()) / error, freedom)
        assert paired_difference(b, a, name)["p"] == pytest.approx(p, rel=1e-3)


@pytest.mark.parametrize(
    "setting", [Setting(40, 3), Setting(40, 20), Setting(90, 5, sessions=2, features=10, shrinkage=0.1)]
)
def test_intervals_cover_the_expected_score_of_the_way_of_training(setting: Setting) -> None:
    cohorts = 300
    _, _, now = coverage(setting, cohorts, before_of=0)
    for name, rate in now.items():
        assert rate >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / cohorts), name
    assert now["auc"] <= 0.99


def test_a_bootstrap_over_patients_does_not_cover() -> None:
    """So the simulation can tell good intervals from those of earlier versions."""
    _, before, _ = coverage(Setting(40, 20), 150, before_of=150)
    assert all(rate < 0.93 for rate in before.values())


def test_equal_methods_are_seldom_called_different() -> None:
    cohorts = 200
    one, _, family = (now for _, now in rejections(Setting(90, 3, features=10), cohorts, before_of=0))
    assert one <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / cohorts / 2)  # five tests that share a reference count as two
    assert family <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / cohorts)


def test_few_positives_are_covered_or_withheld() -> None:
    few = {"features": 10, "shrinkage": 0.1}
    _, _, now = coverage(Setting(40, 5, positives=7 / 40, **few), 300, before_of=0)
    assert now["auc"] >= 0.91
    rows = table_of(next(studies(Setting(40, 1, positives=4 / 40, **few), 1, methods=1, seed=0)))
    assert rows.loc[rows["truth"] == 1, "subject"].nunique() == 1
    found = summarise(rows)
    assert np.isfinite(found["auc"]["mean"])
    assert np.isnan([found["auc"]["low"], found["auc"]["high"]]).all()
    assert np.isfinite(found["brier"]["low"])


def test_mean_and_std_are_over_repeats(predictions: pd.DataFrame) -> None:
    found = summarise(predictions)
    aucs = [score(rows["truth"], rows[["p_0", "p_1"]])["auc"] for _, rows in predictions.groupby("repeat")]
    assert found["auc"]["mean"] == pytest.approx(np.mean(aucs))
    assert found["auc"]["std"] == pytest.approx(np.std(aucs, ddof=1))


def test_row_order_does_not_matter(predictions: pd.DataFrame) -> None:
    shuffled = predictions.sample(frac=1, random_state=1)
    assert summarise(shuffled) == summarise(predictions)


def test_copies_of_an_observation_add_no_certainty(make_predictions) -> None:
    once = make_predictions(repeats=1)
    copies = pd.concat([once.assign(observation=once["observation"] + f"_{i}") for i in range(4)])
    here, there = summarise(once)["accuracy"], summarise(copies)["accuracy"]
    assert (here["low"], here["high"]) == pytest.approx((there["low"], there["high"]))


def test_interval_covers_the_true_accuracy_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(150):
        right = np.repeat(generator.random(40) < 0.8, 3)  # three equal rows a subject: rows alone would be far too sure
        truth = np.arange(120) % 2
        positive = np.where(right == (truth == 1), 0.9, 0.1)
        names = [f"s{i // 3:02d}" for i in range(120)]
        rows = pd.DataFrame({"repeat": 0, "subject": names, "observation": range(120), "truth": truth})
        found = summarise(rows.assign(p_0=1 - positive, p_1=positive))["accuracy"]
        covered += found["low"] <= 0.8 <= found["high"]
    assert 0.87 <= covered / 150 <= 0.99


def test_thresholds_may_differ_by_repeat(predictions: pd.DataFrame) -> None:
    found = summarise(predictions, thresholds={0: 0.2, 1: 0.5, 2: 0.8})
    by_hand = [
        score(rows["truth"], rows[["p_0", "p_1"]], threshold=t)["recall"]
        for (_, rows), t in zip(predictions.groupby("repeat"), (0.2, 0.5, 0.8), strict=True)
    ]
    assert found["recall"]["mean"] == pytest.approx(np.mean(by_hand))
    with pytest.raises(ValueError, match="repeat 1 has no threshold"):
        summarise(predictions, thresholds={0: 0.5})


def test_degenerate_predictions_give_nan(make_predictions) -> None:
    one_repeat = summarise(make_predictions(repeats=1))["auc"]
    assert np.isnan(one_repeat["std"])
    assert np.isfinite(one_repeat["mean"])
    rows = make_predictions(repeats=1)
    one_class = summarise(rows[rows["truth"] == 1])
    assert np.isnan(one_class["auc"]["mean"])
    assert np.isnan(one_class["auc"]["low"])
    assert np.isfinite(one_class["accuracy"]["low"])
    one_subject = summarise(rows[rows["subject"] == "sub-000"])["accuracy"]
    assert np.isfinite(one_subject["mean"])
    assert np.isnan(one_subject["low"])
    nothing = summarise(rows.iloc[:0])
    assert all(np.isnan(summary["mean"]) and np.isnan(summary["low"]) for summary in nothing.values())


def test_a_perfect_score_of_few_subjects_is_not_certain() -> None:
    truth = np.arange(20) % 2
    rows = pd.DataFrame({"repeat": 0, "subject": range(20), "observation": range(20), "truth": truth})
    found = summarise(rows.assign(p_0=1.0 - truth, p_1=1.0 * truth))
    assert found["accuracy"]["low"] == pytest.approx(stats.binomtest(20, 20).proportion_ci(0.95).low)
    assert found["auc"]["low"] == pytest.approx(stats.binomtest(10, 10).proportion_ci(0.95).low)
    assert (found["auc"]["high"], found["brier"]["low"]) == (1.0, 0.0)
    assert found["brier"]["high"] == pytest.approx(1 - found["accuracy"]["low"])


@pytest.mark.parametrize("n_classes", [2, 4])
def test_intervals_stay_in_the_range_of_the_metric_and_hold_the_mean(n_classes: int, make_predictions) -> None:
    for seed in range(5):
        for name, each in summarise(make_predictions(n_classes=n_classes, n_subjects=24, repeats=2)).items():
            if np.isfinite(each["low"]):
                top = {"log_loss": np.inf, "brier": 2 if n_classes > 2 else 1}.get(name, 1)
                assert 0 <= each["low"] <= each["mean"] <= each["high"] <= top, (name, seed)


def test_identical_predictions_differ_by_exactly_zero(predictions: pd.DataFrame) -> None:
    for metric in METRICS:
        found = paired_difference(predictions, predictions.sample(frac=1, random_state=3), metric)
        assert found == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}


def test_a_better_method_is_found_better_and_the_sign_turns(predictions: pd.DataFrame) -> None:
    coin = np.random.default_rng(4).random(len(predictions))
    worse = predictions.assign(p_0=1 - coin, p_1=coin)
    there, back = (paired_difference(*pair, "auc") for pair in ((predictions, worse), (worse, predictions)))
    assert there["difference"] > 0
    assert there["low"] > 0
    assert there["p"] < 0.05
    assert back["difference"] == pytest.approx(-there["difference"])
    assert (back["low"], back["high"]) == pytest.approx((-there["high"], -there["low"]))
    assert back["p"] == there["p"]
    means = [summarise(rows)["auc"]["mean"] for rows in (predictions, worse)]
    assert there["difference"] == pytest.approx(means[0] - means[1])


def test_rows_that_do_not_match_are_named(predictions: pd.DataFrame) -> None:
    first = predictions["observation"].iloc[0]
    with pytest.raises(ValueError, match=f"repeat 0, observation '{first}' is predicted by a but not by b"):
        paired_difference(predictions, predictions.iloc[1:], "auc")
    with pytest.raises(ValueError, match="predicted by b but not by a"):
        paired_difference(predictions.iloc[1:], predictions, "auc")
    with pytest.raises(ValueError, match="truth is 0 in a and 1 in b"):
        paired_difference(predictions.assign(truth=0), predictions.assign(truth=1), "auc")
    with pytest.raises(ValueError, match="metric 'AUC' is unknown"):
        paired_difference(predictions, predictions, "AUC")


def test_bad_tables_and_settings_are_refused(predictions: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"lack the column\(s\) subject"):
        summarise(predictions.drop(columns="subject"))
    with pytest.raises(ValueError, match="predicts observation 'sub-000_v0' twice"):
        summarise(pd.concat([predictions, predictions.iloc[:1]]))
    with pytest.raises(ValueError, match="expected probability columns"):
        summarise(predictions.drop(columns="p_0"))

"""The cluster bootstrap against a plain loop over the same draws, and its coverage."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from evaluation.intervals import paired_difference, summarise
from evaluation.metrics import METRICS, score


def naive_draws(predictions: pd.DataFrame, threshold: float, draws: int, seed: int) -> dict[str, np.ndarray]:
    """The same bootstrap with rows really repeated, one draw and one repeat at a time."""
    subjects = sorted(predictions["subject"].unique())
    columns = [name for name in predictions.columns if name.startswith("p_")]
    generator = np.random.default_rng(seed)
    result: dict[str, list[float]] = {name: [] for name in METRICS}
    for counts in generator.multinomial(len(subjects), np.full(len(subjects), 1 / len(subjects)), size=draws):
        times = predictions["subject"].map(dict(zip(subjects, counts, strict=True)))
        drawn = predictions.loc[predictions.index.repeat(times)]
        scores = []
        for repeat in sorted(predictions["repeat"].unique()):
            rows = drawn[drawn["repeat"] == repeat]
            scores.append(score(rows["truth"].to_numpy(dtype=int), rows[columns], threshold=threshold))
        for name in METRICS:
            result[name].append(float(np.mean([one[name] for one in scores])))
    return {name: np.array(values) for name, values in result.items()}


@pytest.mark.parametrize("n_classes", [2, 3])
def test_interval_equals_a_plain_loop(n_classes: int, make_predictions) -> None:
    predictions = make_predictions(n_classes=n_classes, n_subjects=30, repeats=2)
    found = summarise(predictions, thresholds=0.4, draws=60, seed=5)
    for name, drawn in naive_draws(predictions, threshold=0.4, draws=60, seed=5).items():
        kept = drawn[np.isfinite(drawn)]
        assert found[name]["n_undefined"] == 60 - kept.size
        assert (found[name]["low"], found[name]["high"]) == pytest.approx(tuple(np.quantile(kept, [0.025, 0.975])))


def test_mean_and_std_are_over_repeats(predictions: pd.DataFrame) -> None:
    found = summarise(predictions, draws=10)
    aucs = [score(rows["truth"], rows[["p_0", "p_1"]])["auc"] for _, rows in predictions.groupby("repeat")]
    assert found["auc"]["mean"] == pytest.approx(np.mean(aucs))
    assert found["auc"]["std"] == pytest.approx(np.std(aucs, ddof=1))


def test_row_order_does_not_matter_and_the_seed_does(predictions: pd.DataFrame) -> None:
    shuffled = predictions.sample(frac=1, random_state=1)
    assert summarise(shuffled, draws=50) == summarise(predictions, draws=50)
    assert summarise(predictions, draws=50, seed=1) != summarise(predictions, draws=50)


def test_copies_of_an_observation_add_no_certainty(make_predictions) -> None:
    once = make_predictions(repeats=1)
    copies = pd.concat([once.assign(observation=once["observation"] + f"_{i}") for i in range(4)])
    here, there = summarise(once, draws=200)["accuracy"], summarise(copies, draws=200)["accuracy"]
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
        found = summarise(rows.assign(p_0=1 - positive, p_1=positive), draws=300)["accuracy"]
        covered += found["low"] <= 0.8 <= found["high"]
    assert 0.87 <= covered / 150 <= 0.99


def test_thresholds_may_differ_by_repeat(predictions: pd.DataFrame) -> None:
    found = summarise(predictions, thresholds={0: 0.2, 1: 0.5, 2: 0.8}, draws=5)
    by_hand = [
        score(rows["truth"], rows[["p_0", "p_1"]], threshold=t)["recall"]
        for (_, rows), t in zip(predictions.groupby("repeat"), (0.2, 0.5, 0.8), strict=True)
    ]
    assert found["recall"]["mean"] == pytest.approx(np.mean(by_hand))
    with pytest.raises(ValueError, match="repeat 1 has no threshold"):
        summarise(predictions, thresholds={0: 0.5})


def test_degenerate_predictions_give_nan(make_predictions) -> None:
    one_repeat = summarise(make_predictions(repeats=1), draws=20)["auc"]
    assert np.isnan(one_repeat["std"])
    assert np.isfinite(one_repeat["mean"])
    rows = make_predictions(repeats=1)
    one_class = summarise(rows[rows["truth"] == 1], draws=20)
    assert np.isnan(one_class["auc"]["mean"])
    assert np.isnan(one_class["auc"]["low"])
    assert one_class["auc"]["n_undefined"] == 20
    assert np.isfinite(one_class["accuracy"]["low"])
    one_subject = summarise(rows[rows["subject"] == "sub-000"], draws=20)["accuracy"]
    assert np.isfinite(one_subject["mean"])
    assert np.isnan(one_subject["low"])
    nothing = summarise(rows.iloc[:0], draws=20)
    assert all(np.isnan(summary["mean"]) and np.isnan(summary["low"]) for summary in nothing.values())


def test_few_defined_draws_are_dropped_and_counted() -> None:
    rows = pd.DataFrame({"repeat": 0, "subject": list("abcd"), "observation": list("abcd"), "truth": [0, 0, 0, 1]})
    found = summarise(rows.assign(p_0=[0.9, 0.4, 0.2, 0.3], p_1=[0.1, 0.6, 0.8, 0.7]), draws=1000)["auc"]
    assert found["n_undefined"] == pytest.approx(1000 * (0.75**4 + 0.25**4), abs=60)
    assert 0 <= found["low"] <= found["mean"] <= found["high"] <= 1


def test_two_thousand_draws_are_quick(make_predictions) -> None:
    rows = make_predictions(n_subjects=900, repeats=1)
    start = time.perf_counter()
    summarise(rows)
    assert len(rows) > 300
    assert time.perf_counter() - start < 3.0


def test_identical_predictions_differ_by_exactly_zero(predictions: pd.DataFrame) -> None:
    for metric in METRICS:
        found = paired_difference(predictions, predictions.sample(frac=1, random_state=3), metric, draws=50)
        assert found == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "n_undefined": 0}


def test_a_better_method_is_found_better_and_the_sign_turns(predictions: pd.DataFrame) -> None:
    coin = np.random.default_rng(4).random(len(predictions))
    worse = predictions.assign(p_0=1 - coin, p_1=coin)
    there, back = (paired_difference(*pair, "auc", draws=500) for pair in ((predictions, worse), (worse, predictions)))
    assert there["difference"] > 0
    assert there["low"] > 0
    assert there["p"] < 0.05
    assert back["difference"] == pytest.approx(-there["difference"])
    assert (back["low"], back["high"]) == pytest.approx((-there["high"], -there["low"]))
    assert back["p"] == there["p"]
    means = [summarise(rows, draws=5)["auc"]["mean"] for rows in (predictions, worse)]
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
    with pytest.raises(ValueError, match="draws is 0"):
        summarise(predictions, draws=0)

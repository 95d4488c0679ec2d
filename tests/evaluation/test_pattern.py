"""How much a method makes of which scans there are."""

import numpy as np
import pandas as pd
import pytest

from evaluation.comparison import holm, mechanisms_table
from evaluation.intervals import paired_difference
from evaluation.pattern import PATTERN, SHUFFLED, pattern_table


def predictions() -> pd.DataFrame:
    """A method that gains most where it was trained by the reason, and one that was trained at random only."""
    random = np.random.default_rng(0)
    truth = np.arange(60) % 2
    noise = random.standard_normal(60)
    frames = []
    for method, training, signal in (
        ("A", "random", 0.5), ("A", "class", 2.0), ("A", "itself", 1.0), ("A", "itself" + SHUFFLED, 0.8),
        ("B", "class", 0.3),
    ):  # fmt: skip
        for tested, kept in {"nothing": 1.0, "random": 0.2, "class": 0.9, "itself": 0.6}.items():
            p = 1 / (1 + np.exp(-(kept * signal * (2 * truth - 1) + noise)))
            frames.append(
                pd.DataFrame(
                    {
                        "method": method, "training": training, "tested": tested, "repeat": 1,
                        "subject": [f"s{i}" for i in range(60)], "observation": [f"s{i}" for i in range(60)],
                        "truth": truth, "p_0": 1 - p, "p_1": p,
                    }
                )
            )  # fmt: skip
    table = pd.concat(frames, ignore_index=True)
    gone = (table["method"] == "A") & (table["training"] == "random") & (table["observation"] == "s3")
    table.loc[gone, ["p_0", "p_1"]] = np.nan  # one that a method could not take
    return table


def test_training_by_the_reason_is_held_against_training_at_random() -> None:
    table = predictions()
    found = pattern_table(table)
    assert list(found.columns) == list(PATTERN)
    assert list(zip(found["method"], found["reason"], strict=True)) == [("A", "class"), ("A", "itself"), ("B", "class")]
    rows = found.set_index(["method", "reason"])
    points = mechanisms_table(table).set_index(["method", "training", "tested"])["auc_mean"]
    assert rows.loc[("A", "class"), "random_auc"] == points["A", "random", "class"]
    assert rows.loc[("B", "class"), "auc"] == points["B", "class", "class"]
    assert rows["n"].to_list() == [59, 59, 60]  # one that A could not take, trained at random
    np.testing.assert_allclose(rows["auc"] - rows["random_auc"], rows["learnt"])
    np.testing.assert_allclose(rows["auc"] - rows["shuffled_auc"], rows["within"])
    kept = table[(table["method"] == "A") & (table["tested"] == "class") & (table["observation"] != "s3")]
    expected = paired_difference(kept[kept["training"] == "class"], kept[kept["training"] == "random"], "auc")
    assert rows.loc[("A", "class"), ["learnt", "learnt_low", "learnt_high"]].to_list() == pytest.approx(
        [expected["difference"], expected["low"], expected["high"]]
    )
    assert rows.loc[("A", "class"), "learnt_p"] == pytest.approx(expected["p"])
    assert rows["learnt_p_holm"].to_list() == pytest.approx(list(holm(rows["learnt_p"])), nan_ok=True)
    smaller = rows["learnt_p"].min()  # of two
    assert rows["learnt_p_holm"].min() == pytest.approx(min(2 * smaller, expected["p"]))
    assert rows.loc[("A", "class"), "learnt_low"] > 0
    assert rows.loc[("A", "itself"), "within"] > 0
    assert rows[["shuffled_auc", "within"]].loc[[("A", "class"), ("B", "class")]].isna().all(axis=None)
    assert np.isnan(rows.loc[("B", "class"), "learnt"])

"""Scores and gaps of groups against fairlearn, where it is installed; it is no dependency."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score, roc_auc_score

from benchmarks.bench_fairness import Design, Harm
from benchmarks.bench_fairness import cohort as simulated
from evaluation.fairness import audit_groups, gaps_between_groups

fairlearn = pytest.importorskip("fairlearn.metrics", reason="fairlearn is not installed")


@pytest.mark.parametrize("repeats", [1, 3])
def test_every_point_value_is_that_of_fairlearn(repeats: int) -> None:
    table, groups = simulated(Design("", 240, repeats), Harm("", lacking=0.5), seed=repeats)
    table = table.assign(decided=(table["p_1"] >= 0.4).astype(int))
    audited = audit_groups(table, groups, smallest=10)
    gaps = gaps_between_groups(table, groups, audited, smallest=10, permutations=1).set_index(["grouping", "measure"])
    for name, group_of in groups.items():
        of_row = table["subject"].map(group_of.astype(object)).astype(str)
        found = audited[audited["grouping"] == name].set_index("group")
        hard = {"tpr": recall_score, "fpr": fairlearn.false_positive_rate}
        frames = {
            measure: fairlearn.MetricFrame(
                metrics=metric, y_true=table["truth"], y_pred=table["decided"], sensitive_features=of_row
            )
            for measure, metric in hard.items()
        }
        frames["auc"] = fairlearn.MetricFrame(
            metrics=roc_auc_score, y_true=table["truth"], y_pred=table["p_1"], sensitive_features=of_row
        )
        for measure, frame in frames.items():
            expected = pd.Series(frame.by_group).sort_index()
            np.testing.assert_allclose(found[f"{measure}_mean"].sort_index(), expected, rtol=0, atol=1e-12)
            assert gaps.loc[(name, measure), "gap"] == pytest.approx(
                frame.difference(method="between_groups"), abs=1e-12
            )

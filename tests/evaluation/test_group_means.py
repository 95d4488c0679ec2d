"""Means by group of patients, and gaps between them, against SciPy."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from evaluation.group_means import audit_means, gaps_of_means

NAMES = [f"p{i}" for i in range(24)]
SITE = pd.Series(["A", "B"] * 12, index=NAMES)


def values(gap: float = 0.0, *, classes: int = 1, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    value = random.gamma(2.0, 1.0, 24) + gap * (SITE == "A").to_numpy()
    return pd.DataFrame({"subject": NAMES, "truth": np.arange(24) // 2 % classes, "value": value})


def test_means_and_intervals_are_those_of_scipy() -> None:
    table = values()
    found = audit_means(table, {"site": SITE}, smallest=5).set_index("group")
    for group in ("A", "B"):
        own = table.loc[table["subject"].map(SITE) == group, "value"]
        low, high = stats.t.interval(0.95, 11, own.mean(), stats.sem(own))
        assert found.loc[group, ["mean", "low", "high"]].to_list() == pytest.approx([own.mean(), low, high])
    few = SITE.mask(SITE.index.isin(NAMES[:4]), "C")
    small = audit_means(table, {"site": few}, smallest=5).set_index("group")
    assert small["subjects"].to_dict() == {"A": 10, "B": 10, "C": 4}
    assert np.isnan(small["mean"]["C"])
    assert gaps_of_means(table, {"site": few.mask(few == "B", "C")}, smallest=15, permutations=10).empty


@pytest.mark.parametrize("gap", [0.0, 1.0])
def test_the_gap_is_that_of_welch_and_its_p_that_of_scipy(gap: float) -> None:
    table = values(gap)
    one, other = (table.loc[table["subject"].map(SITE) == group, "value"].to_numpy() for group in ("A", "B"))
    row = gaps_of_means(table, {"site": SITE}, smallest=5, permutations=4000).iloc[0]
    if one.mean() < other.mean():
        one, other = other, one
    interval = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert [row["gap"], row["low"], row["high"]] == pytest.approx([one.mean() - other.mean(), *interval])
    exact = stats.permutation_test(
        (one, other), lambda a, b: abs(a.mean() - b.mean()), n_resamples=4000, alternative="greater", rng=1
    )
    assert row["p"] == pytest.approx(exact.pvalue, abs=0.03)


def test_groups_are_permuted_within_the_class() -> None:
    """All of one site are sick and have large values: given the class there is nothing to find."""
    table = values().assign(truth=(SITE == "A").to_numpy().astype(int))
    table["value"] += 10 * table["truth"]
    assert gaps_of_means(table, {"site": SITE}, smallest=5, permutations=200)["p"][0] == 1.0

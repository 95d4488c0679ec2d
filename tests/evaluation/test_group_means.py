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


@pytest.mark.parametrize("ill", [0, 3, 12])
def test_the_interval_of_a_share_is_wilsons(ill: int) -> None:
    table = pd.DataFrame({"subject": NAMES[:12], "truth": 0, "value": [1.0] * ill + [0.0] * (12 - ill)})
    found = audit_means(table, {"all": pd.Series("A", index=NAMES)}, smallest=5, shares=True).iloc[0]
    expected = stats.binomtest(ill, 12).proportion_ci(0.95, method="wilson")
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found["high"] - found["low"] > 0.2  # also where all are alike


def test_the_difference_of_two_shares_has_newcombes_interval() -> None:
    """56 of 70 against 48 of 80, the first example of his table II, method 10: .0524 to .3339."""
    sizes = {"A": (56, 70), "B": (48, 80)}
    rows = [(f"{g}{i}", g, float(i < some)) for g, (some, n) in sizes.items() for i in range(n)]
    table = pd.DataFrame(rows, columns=["subject", "group", "value"]).assign(truth=0)
    by = {"site": table.set_index("subject")["group"]}
    row = gaps_of_means(table, by, smallest=5, permutations=10, shares=True).iloc[0]
    assert row[["gap", "low", "high"]].to_list() == pytest.approx([0.2, 0.0524, 0.3339], abs=5e-5)

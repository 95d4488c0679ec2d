"""Is a figure of each patient, such as the error of an imputed scan, as large in every group of patients?

As `evaluation.fairness` for scores of predictions: a group is looked at if it has enough patients, a gap is the highest
mean minus the lowest, and p comes from groups that are assigned anew among the patients of each class.

Source: Phipson and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9:39 (p is never 0); Welch 1947, Biometrika 34:28
(interval of a difference).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from evaluation.fairness import PERMUTATIONS
from evaluation.intervals import LEVEL
from evaluation.metrics import FloatArray

GROUP_COLUMNS = ("grouping", "group", "subjects", "mean", "low", "high")
GAP_COLUMNS = ("grouping", "groups", "highest", "lowest", "gap", "low", "high", "p")


def audit_means(values: pd.DataFrame, groups: Mapping[str, pd.Series], *, smallest: int) -> pd.DataFrame:
    """Return the mean of each group of patients.

    Args:
        values: one row a patient: `subject`, `truth` (class, or all classes that the patient has been of), `value`.
        groups: name of a grouping → subject (index) → group; subjects that are not listed are in none.
        smallest: patients that a group needs.

    Returns:
        One row a grouping and group, `GROUP_COLUMNS`; `mean` and the ends of its t interval are NaN in smaller ones.
    """
    rows = []
    for grouping, group_of in groups.items():
        assigned = values["subject"].map(group_of.astype(object))
        for group in dict.fromkeys(group_of.dropna().sort_values(kind="stable")):
            own = values.loc[assigned == group, "value"].to_numpy(dtype=np.float64)
            row: dict[str, Any] = {"grouping": grouping, "group": str(group), "subjects": len(own)}
            enough = len(own) >= max(smallest, 2)
            reach = _reach(len(own) - 1) * own.std(ddof=1) / np.sqrt(len(own)) if enough else np.nan
            mean = own.mean() if enough else np.nan
            rows.append(row | {"mean": mean, "low": mean - reach, "high": mean + reach})
    return pd.DataFrame(rows, columns=list(GROUP_COLUMNS))


def gaps_of_means(
    values: pd.DataFrame,
    groups: Mapping[str, pd.Series],
    *,
    smallest: int,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the gap of the means in every grouping with two groups, and p of it; not corrected for their number.

    Args:
        values: as for `audit_means`.
        groups: the same.
        smallest: the same.
        permutations: number of random assignments of the groups.
        seed: of them.

    Returns:
        One row a grouping, `GAP_COLUMNS`; `low` and `high` are the interval of the difference of the two groups named.
    """
    rows = []
    for grouping, group_of in groups.items():
        named = values["subject"].map(group_of.astype(object).dropna().astype(str))
        sizes = named.value_counts()
        large = sorted(sizes.index[sizes >= max(smallest, 2)])
        if len(large) < 2:
            continue
        here = values[named.isin(large)]
        value = here["value"].to_numpy(dtype=np.float64)
        code = np.array([large.index(name) for name in named[here.index]])
        means = _means(value, code[np.newaxis], len(large))[0]
        most, least = int(means.argmax()), int(means.argmin())
        gap = float(means[most] - means[least])
        reach = _welch(value[code == most], value[code == least])
        random = np.random.default_rng(seed)
        drawn = np.tile(code, (permutations, 1))
        for members in pd.Series(np.arange(len(here))).groupby(here["truth"].to_numpy()).indices.values():
            drawn[:, members] = random.permuted(drawn[:, members], axis=1)
        as_large = int((np.ptp(_means(value, drawn, len(large)), axis=1) >= gap - 1e-9 * abs(gap)).sum())
        row = {"grouping": grouping, "groups": len(large), "highest": large[most], "lowest": large[least], "gap": gap}
        p = (1 + as_large) / (1 + permutations)
        rows.append(row | {"low": gap - reach, "high": gap + reach, "p": p})
    return pd.DataFrame(rows, columns=list(GAP_COLUMNS))


def _means(value: FloatArray, code_bn: np.ndarray, count: int) -> FloatArray:
    """Return the mean of each group, (B, count)."""
    found = []
    for group in range(count):
        member = code_bn == group
        found.append((member @ value) / member.sum(axis=1))
    return np.stack(found, axis=1)


def _reach(freedom: float) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))


def _welch(one: FloatArray, other: FloatArray) -> float:
    """Return half the interval of a difference of means."""
    a, b = one.var(ddof=1) / len(one), other.var(ddof=1) / len(other)
    if a + b == 0:
        return 0.0
    freedom = (a + b) ** 2 / (a**2 / (len(one) - 1) + b**2 / (len(other) - 1))
    return _reach(float(freedom)) * float(np.sqrt(a + b))

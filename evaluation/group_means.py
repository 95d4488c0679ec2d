"""Is a figure of each patient, such as the error of an imputed scan, as large in every group of patients?

As `evaluation.fairness` for scores of predictions: a group is looked at if it has enough patients, a gap is the highest
mean minus the lowest, and p comes from groups that are assigned anew among the patients of each class.

Source: Phipson and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9:39 (p is never 0); Welch 1947, Biometrika 34:28
(interval of a difference); Wilson 1927, J. Am. Stat. Assoc. 22:209, and Newcombe 1998, Stat. Med. 17:873, method 10
(intervals of a share and of a difference of shares).
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


def audit_means(
    values: pd.DataFrame, groups: Mapping[str, pd.Series], *, smallest: int, shares: bool = False
) -> pd.DataFrame:
    """Return the mean of each group of patients.

    Args:
        values: one row a patient: `subject`, `truth` (class, or all classes that the patient has been of), `value`.
        groups: name of a grouping → subject (index) → group; subjects that are not listed are in none.
        smallest: patients that a group needs.
        shares: values are between 0 and 1, and means are shares of patients: intervals stay between 0 and 1, and have a
            width where all patients are alike.

    Returns:
        One row a grouping and group, `GROUP_COLUMNS`; `mean` and the ends of its interval are NaN in smaller ones.
    """
    rows = []
    for grouping, group_of in groups.items():
        assigned = values["subject"].map(group_of.astype(object))
        for group in dict.fromkeys(group_of.dropna().sort_values(kind="stable")):
            own = values.loc[assigned == group, "value"].to_numpy(dtype=np.float64)
            row: dict[str, Any] = {"grouping": grouping, "group": str(group), "subjects": len(own)}
            enough = len(own) >= max(smallest, 2)
            mean = own.mean() if enough else np.nan
            low, high = _interval(own, shares=shares) if enough else (np.nan, np.nan)
            rows.append(row | {"mean": mean, "low": low, "high": high})
    return pd.DataFrame(rows, columns=list(GROUP_COLUMNS))


def gaps_of_means(
    values: pd.DataFrame,
    groups: Mapping[str, pd.Series],
    *,
    smallest: int,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    shares: bool = False,
) -> pd.DataFrame:
    """Return the gap of the means in every grouping with two groups, and p of it; not corrected for their number.

    Args:
        values: as for `audit_means`.
        groups: the same.
        smallest: the same.
        permutations: number of random assignments of the groups.
        seed: of them.
        shares: as for `audit_means`.

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
        low, high = _of_difference(value[code == most], value[code == least], shares=shares)
        random = np.random.default_rng(seed)
        drawn = np.tile(code, (permutations, 1))
        for members in pd.Series(np.arange(len(here))).groupby(here["truth"].to_numpy()).indices.values():
            drawn[:, members] = random.permuted(drawn[:, members], axis=1)
        as_large = int((np.ptp(_means(value, drawn, len(large)), axis=1) >= gap - 1e-9 * abs(gap)).sum())
        row = {"grouping": grouping, "groups": len(large), "highest": large[most], "lowest": large[least], "gap": gap}
        p = (1 + as_large) / (1 + permutations)
        rows.append(row | {"low": low, "high": high, "p": p})
    return pd.DataFrame(rows, columns=list(GAP_COLUMNS))


def _means(value: FloatArray, code_bn: np.ndarray, count: int) -> FloatArray:
    """Return the mean of each group, (B, count)."""
    found = []
    for group in range(count):
        member = code_bn == group
        found.append((member @ value) / member.sum(axis=1))
    return np.stack(found, axis=1)


def _interval(values: FloatArray, *, shares: bool) -> tuple[float, float]:
    """Return the interval of a mean: by t, or Wilson's for a share."""
    n, mean = len(values), float(values.mean())
    if not shares:
        reach = _reach(n - 1) * float(values.std(ddof=1)) / float(np.sqrt(n))
        return mean - reach, mean + reach
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    centre, scale = mean + z**2 / (2 * n), 1 + z**2 / n
    half = z * float(np.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2)))
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def _of_difference(one: FloatArray, other: FloatArray, *, shares: bool) -> tuple[float, float]:
    """Return the interval of a difference of means: Welch's, or Newcombe's for shares."""
    gap = float(one.mean() - other.mean())
    if not shares:
        reach = _welch(one, other)
        return gap - reach, gap + reach
    (a_low, a_high), (b_low, b_high) = (_interval(each, shares=True) for each in (one, other))
    a, b = float(one.mean()), float(other.mean())
    return gap - float(np.hypot(a - a_low, b_high - b)), gap + float(np.hypot(a_high - a, b - b_low))


def _reach(freedom: float) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))


def _welch(one: FloatArray, other: FloatArray) -> float:
    """Return half the interval of a difference of means."""
    a, b = one.var(ddof=1) / len(one), other.var(ddof=1) / len(other)
    if a + b == 0:
        return 0.0
    freedom = (a + b) ** 2 / (a**2 / (len(one) - 1) + b**2 / (len(other) - 1))
    return _reach(float(freedom)) * float(np.sqrt(a + b))

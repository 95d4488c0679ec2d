"""Is a model as good in every group of patients: measures by group, gaps between groups, whether chance explains them.

A group is scored if it has enough patients of each class. A gap is the highest value of a measure minus the lowest,
over the groups of one grouping that could be scored. Two figures go with it:

- p, by permutation: groups are assigned anew among the patients of each class, 2,000 times, with all rows of a patient
  together. So each group keeps its numbers of sick and well, and a gap that comes of those alone is no finding. The
  largest of many gaps is compared with the largest of as many by chance, so more groups do not make it smaller.
- an interval of the difference between these two groups, from the intervals of both. They were picked for being far
  apart, so with more than two groups it says how large the difference may be, not whether there is one.

A table of predictions is that of `evaluation.intervals`, with a column `decided` (int): the class decided at the
threshold that was frozen on validation patients.

Source: Good, Permutation, Parametric and Bootstrap Tests of Hypotheses (2005), section 3; Phipson and Smyth 2010, Stat.
Appl. Genet. Mol. Biol. 9:39 (p is never 0); Zou and Donner 2008, Stat. Med. 27:1693 (interval of a difference); Cox
1958, Biometrika 45:562 (calibration slope).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from evaluation.comparison import holm
from evaluation.intervals import LEVEL, probability_columns, summarise
from evaluation.metrics import FloatArray

MEASURES = {
    "auc": "AUC",
    "balanced_accuracy": "Balanced accuracy",
    "tpr": "Sensitivity",
    "fpr": "False positive rate",
    "brier": "Brier score",
    "calibration_slope": "Calibration slope",
}
"""Name → what tables call it. Sensitivity, false positive rate and slope are those of class 1 of two."""

BINARY_ONLY = ("tpr", "fpr", "calibration_slope")
NOT_TESTED = ("balanced_accuracy", "calibration_slope")
"""The first is told by sensitivity and false positive rate; the second is too unstable in small groups."""

PERMUTATIONS = 2000
_SMALLEST = 1e-6  # probability in a log odds
_NEWTON_STEPS = 25
_STEEPEST = 20.0  # slope; beyond it the classes are separated, and there is none
_RIDGE = 1e-9  # relative; keeps a Newton step finite where classes are separated
_BLOCK_VALUES = 2_000_000  # weights held at once, 16 MB, and some arrays of the same size


def audit_groups(predictions: pd.DataFrame, groups: Mapping[str, pd.Series], *, smallest: int) -> pd.DataFrame:
    """Score groups of patients apart, such as each sex or site.

    All repeats are scored together, since few test patients of a small group are in any one of them.

    Args:
        predictions: test predictions, with `decided`.
        groups: name of a grouping → subject (index) → group; subjects that are not listed are in none.
        smallest: subjects of each class that a group needs to be scored.

    Returns:
        One row a grouping and group, in that order: `grouping`, `group`, `subjects`, `n` predictions, `fewest`
        (subjects of its rarest class), `prevalence` (share of subjects of class 1; NaN with more than two classes), and
        for each of `MEASURES` `_mean`, `_low`, `_high`, NaN where `fewest` is below `smallest`.
    """
    classes = len(probability_columns(predictions))
    rows = []
    for grouping, group_of in groups.items():
        assigned = predictions["subject"].map(group_of.astype(object))
        for group in dict.fromkeys(group_of.dropna().sort_values(kind="stable")):
            members = predictions[assigned == group]
            first = members.drop_duplicates("subject")
            fewest = min((members.loc[members["truth"] == k, "subject"].nunique() for k in range(classes)), default=0)
            row: dict[str, Any] = {"grouping": grouping, "group": str(group), "subjects": len(first), "n": len(members)}
            row |= {"fewest": fewest}
            row |= {"prevalence": float(first["truth"].mean()) if classes == 2 and len(first) else np.nan}
            scored = _measured(members) if fewest >= smallest else {}
            for name in MEASURES:
                mean, low, high = scored.get(name, (np.nan, np.nan, np.nan))
                row |= {f"{name}_mean": mean, f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
    ends = [f"{name}_{end}" for name in MEASURES for end in ("mean", "low", "high")]
    return pd.DataFrame(rows, columns=["grouping", "group", "subjects", "n", "fewest", "prevalence", *ends])


def gaps_between_groups(
    predictions: pd.DataFrame,
    groups: Mapping[str, pd.Series],
    audited: pd.DataFrame,
    *,
    smallest: int,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the gap of every measure in every grouping, and whether chance explains it.

    Args:
        predictions: test predictions, with `decided`.
        groups: as for `audit_groups`.
        audited: what `audit_groups` returned for these.
        smallest: as for `audit_groups`.
        permutations: number of random assignments of the groups.
        seed: of them.

    Returns:
        One row a grouping with two scored groups and a measure: `grouping`, `measure`, `groups` (number scored),
        `highest`, `lowest` (names), `gap`, `low`, `high` (interval of the difference of these two), `p` and `p_holm`,
        corrected for all tests in the table; both NaN for `NOT_TESTED`.
    """
    rows = []
    for grouping, group_of in groups.items():
        scored = audited[(audited["grouping"] == grouping) & (audited["fewest"] >= smallest)]
        if len(scored) < 2:
            continue
        found_p = permutation_test(predictions, group_of, list(scored["group"]), permutations=permutations, seed=seed)
        for name in MEASURES:
            found = scored[scored[f"{name}_mean"].notna()].sort_values(f"{name}_mean", kind="stable")
            if len(found) < 2:
                continue
            least, most = found.iloc[0], found.iloc[-1]
            gap = float(most[f"{name}_mean"] - least[f"{name}_mean"])
            low, high = _difference(most, least, name)
            row = {"grouping": grouping, "measure": name, "groups": len(found), "highest": most["group"]}
            row |= {"lowest": least["group"], "gap": gap, "low": low, "high": high}
            rows.append(row | {"p": found_p.get(name, np.nan)})
    columns = ["grouping", "measure", "groups", "highest", "lowest", "gap", "low", "high", "p"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=holm(table["p"].to_numpy(dtype=np.float64)))


def permutation_test(
    predictions: pd.DataFrame,
    group_of: pd.Series,
    scored: list[str],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> dict[str, float]:
    """Return p of the gap between groups, by measure: the share of random groups with as large a gap.

    Groups are permuted among the subjects of each class, all rows of a subject together; subjects who have been of
    several classes are permuted among themselves.

    Args:
        predictions: test predictions, with `decided`.
        group_of: subject (index) → group.
        scored: names of the groups to compare, each with subjects of every class.
        permutations: number of random assignments of the groups.
        seed: of them.
    """
    binary = len(probability_columns(predictions)) == 2
    tested = [name for name in MEASURES if name not in NOT_TESTED and (binary or name not in BINARY_ONLY)]
    named = predictions["subject"].map(group_of.astype(object).dropna().astype(str))
    rows = predictions[named.isin(scored)].sort_values(["subject", "repeat", "observation"], kind="stable")
    first = rows.drop_duplicates("subject")
    codes = {name: i for i, name in enumerate(scored)}
    assigned_s = np.array([codes[g] for g in named[first.index]])
    # Who changes class between sessions is among those who do, so that no group is left without a class.
    stratum, strata = pd.factorize(rows.groupby("subject", sort=False)["truth"].agg(lambda of: tuple(sorted(set(of)))))
    members_of = [np.flatnonzero(stratum == k) for k in range(len(strata))]
    sums = _sums_of_subjects(rows, pd.Index(first["subject"]).get_indexer(rows["subject"]))

    def gaps(assigned_bs: npt.NDArray[np.int64]) -> dict[str, FloatArray]:
        values = [_measured_by_sums(sums, (assigned_bs == code).astype(np.float64)) for code in range(len(scored))]
        return {name: np.ptp(np.stack([each[name] for each in values]), axis=0) for name in tested}

    observed, random = gaps(assigned_s[np.newaxis]), np.random.default_rng(seed)
    as_large = dict.fromkeys(tested, 0)
    block = max(1, _BLOCK_VALUES // max(len(rows), 1))
    for start in range(0, permutations, block):
        assigned = np.tile(assigned_s, (min(block, permutations - start), 1))
        for members in members_of:
            assigned[:, members] = random.permuted(assigned[:, members], axis=1)
        for name, values in gaps(assigned).items():
            # A hair less, so that the same groups in another order of summation count as the same gap.
            as_large[name] += int((values >= observed[name][0] - 1e-9).sum())
    return {name: (1 + count) / (1 + permutations) for name, count in as_large.items()}


def crossed(groups: Mapping[str, pd.Series]) -> dict[str, pd.Series]:
    """Return the groupings by two of the given ones at once, such as `sex and age`, for groupings with two groups.

    Args:
        groups: name of a grouping → subject (index) → group.
    """
    usable = {name: group_of for name, group_of in groups.items() if group_of.nunique() > 1}
    pairs = {}
    for (one, a), (other, b) in itertools.combinations(usable.items(), 2):
        both = pd.DataFrame({"a": a.astype(object), "b": b.astype(object)}).dropna()
        order = {str(name): i for i, name in enumerate(b.dropna().sort_values(kind="stable").unique())}
        names = both["a"].astype(str) + ", " + both["b"].astype(str)
        ranked = both.assign(name=names, first=a.reindex(both.index), second=both["b"].astype(str).map(order))
        categories = list(dict.fromkeys(ranked.sort_values(["first", "second"], kind="stable")["name"]))
        pairs[f"{one} and {other}"] = names.astype(pd.CategoricalDtype(categories, ordered=True))
    return pairs


def calibration_slope(truth: npt.ArrayLike, positive: npt.ArrayLike, weights: npt.ArrayLike) -> FloatArray:
    """Return the slope of a logistic regression of the truth on the log odds, for B weightings of the rows.

    1 is calibrated, below 1 too sure, above 1 not sure enough. Maximum likelihood, with an intercept.

    Args:
        truth: (n,), 0 or 1.
        positive: (n,), probability of class 1.
        weights: (B, n), 0 or more.

    Returns:
        (B,); NaN where the log odds separate the classes, or are all alike.

    Source: Cox 1958, Biometrika 45:562.
    """
    y, w = np.asarray(truth, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    p = np.clip(np.asarray(positive, dtype=np.float64), _SMALLEST, 1 - _SMALLEST)
    x = np.log(p / (1 - p))
    x = x - x.mean()
    intercept, slope = np.zeros(len(w)), np.zeros(len(w))
    for _ in range(_NEWTON_STEPS):
        fitted = 1 / (1 + np.exp(-np.clip(intercept[:, np.newaxis] + slope[:, np.newaxis] * x, -40, 40)))
        rest, information = w * (y - fitted), w * fitted * (1 - fitted)
        i00, i01, i11 = information.sum(axis=1), information @ x, information @ x**2
        i00, i11 = i00 * (1 + _RIDGE) + _RIDGE, i11 * (1 + _RIDGE) + _RIDGE
        g0, g1 = rest.sum(axis=1), rest @ x
        determinant = i00 * i11 - i01**2
        step0, step1 = (i11 * g0 - i01 * g1) / determinant, (i00 * g1 - i01 * g0) / determinant
        short = np.minimum(1, 2 / np.maximum(np.abs(step1), 1e-12))  # far steps overshoot where classes nearly separate
        intercept, slope = intercept + short * step0, slope + short * step1
    settled = (np.abs(slope) < _STEEPEST) & (np.abs(step1) < 1e-6) & (np.ptp(x) > 0)
    return np.where(settled, slope, np.nan)


def _measured(members: pd.DataFrame) -> dict[str, tuple[float, float, float]]:
    """Return mean, low and high of each measure of one group."""
    named = members["observation"].astype(str) + " in repeat " + members["repeat"].astype(str)
    pooled = members.assign(repeat=1, observation=named)
    columns = probability_columns(members)
    hard = pooled.assign(**{c: (pooled["decided"] == k).astype(float) for k, c in enumerate(columns)})

    def ends(table: pd.DataFrame, **names: str) -> dict[str, tuple[float, float, float]]:
        found = summarise(table)
        return {name: (found[m]["mean"], found[m]["low"], found[m]["high"]) for name, m in names.items()}

    scored = ends(pooled, auc="auc", brier="brier")
    if len(columns) > 2:
        scored |= ends(hard, balanced_accuracy="balanced_accuracy")
    else:
        turned = hard.assign(truth=1 - hard["truth"])  # the well are the positive ones, and class 1 is still class 1
        scored |= ends(hard, balanced_accuracy="balanced_accuracy", tpr="recall") | ends(turned, fpr="recall")
        scored["calibration_slope"] = _slope_with_interval(pooled)
    return scored


def _slope_with_interval(pooled: pd.DataFrame) -> tuple[float, float, float]:
    """Return the calibration slope and its interval: infinitesimal jackknife over subjects, t of the rarer class."""
    truth, positive = pooled["truth"].to_numpy(), pooled["p_1"].to_numpy(dtype=np.float64)
    _, owner = np.unique(pooled["subject"].to_numpy(dtype=object), return_inverse=True)
    count, step = int(owner.max()) + 1, 1e-4
    weights = np.vstack([np.ones(len(owner)), 1 + step * (owner == np.arange(count)[:, np.newaxis])])
    slopes = calibration_slope(truth, positive, weights)
    if not np.isfinite(slopes).all():
        return float(slopes[0]), np.nan, np.nan
    influence = (slopes[1:] - slopes[0]) / step
    error = float(np.sqrt((influence**2).sum() * count / max(count - 1, 1)))
    rarer = min(pooled.loc[pooled["truth"] == k, "subject"].nunique() for k in (0, 1))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, max(rarer - 1, 1))) * error
    return float(slopes[0]), float(slopes[0]) - reach, float(slopes[0]) + reach


def _difference(most: pd.Series, least: pd.Series, name: str) -> tuple[float, float]:
    """Return the interval of the difference of two groups, who share no patients, from the interval of each."""
    a, a_low, a_high = (float(most[f"{name}_{end}"]) for end in ("mean", "low", "high"))
    b, b_low, b_high = (float(least[f"{name}_{end}"]) for end in ("mean", "low", "high"))
    return a - b - np.hypot(a - a_low, b_high - b), a - b + np.hypot(a_high - a, b - b_low)


@dataclass(frozen=True)
class _Ranks:
    """Rows in the order of their probability of one class, n of them.

    Attributes:
        owner: subject of each row, (n,).
        positive: whether it is of the class, (n,).
        below: rows with a smaller probability, (n,).
        upto: rows with a smaller or the same one, (n,).
    """

    owner: npt.NDArray[np.intp]
    positive: npt.NDArray[np.bool_]
    below: npt.NDArray[np.intp]
    upto: npt.NDArray[np.intp]

    @classmethod
    def of(cls, scores: FloatArray, positive: npt.NDArray[np.bool_], owner: npt.NDArray[np.intp]) -> _Ranks:
        """Sort the rows."""
        order = np.argsort(scores, kind="stable")
        ranked = scores[order]
        below, upto = (np.searchsorted(ranked, ranked, side=side) for side in ("left", "right"))
        return cls(owner[order], positive[order], below, upto)

    def auc(self, members_bs: FloatArray) -> FloatArray:
        """Return the AUC within B groups, (B,): how often a row of the class outscores another, ties one half."""
        weight = members_bs[:, self.owner]
        others = np.zeros((len(weight), weight.shape[1] + 1))
        np.cumsum(np.where(self.positive, 0.0, weight), axis=1, out=others[:, 1:])
        own = np.where(self.positive, weight, 0.0)
        won = (own * (others[:, self.below] + others[:, self.upto])).sum(axis=1) / 2
        return np.asarray(won / (own.sum(axis=1) * others[:, -1]))


@dataclass(frozen=True)
class _Sums:
    """What the tested measures are made of, by subject, S of them; memory grows with the rows, not with their square.

    Attributes:
        ranks: of each class; of class 1 alone where there are two.
        squares: (S,), squared distances of probability and truth, as in the Brier score.
        rows: (S,).
        decided: class 0 and 1 → (S,), its rows that were decided as class 1.
        truth: class 0 and 1 → (S,), its rows.
    """

    ranks: tuple[_Ranks, ...]
    squares: FloatArray
    rows: FloatArray
    decided: FloatArray
    truth: FloatArray


def _sums_of_subjects(rows: pd.DataFrame, owner: npt.NDArray[np.intp]) -> _Sums:
    """Add up predictions by subject; `owner` is the number of each row's."""
    columns = probability_columns(rows)
    truth, count = rows["truth"].to_numpy(), int(owner.max()) + 1
    probabilities = rows[columns].to_numpy(dtype=np.float64)
    looked_at = [1] if len(columns) == 2 else list(range(len(columns)))

    def of_subject(values: npt.ArrayLike) -> FloatArray:
        added = np.bincount(owner, weights=np.asarray(values, dtype=np.float64), minlength=count)
        return added.astype(np.float64)

    squares = ((probabilities - (truth[:, np.newaxis] == np.arange(len(columns)))) ** 2)[:, looked_at].sum(axis=1)
    decided = rows["decided"].to_numpy() == 1
    return _Sums(
        ranks=tuple(_Ranks.of(probabilities[:, k], truth == k, owner) for k in looked_at),
        squares=of_subject(squares),
        rows=of_subject(np.ones(len(truth))),
        decided=np.stack([of_subject((truth == k) & decided) for k in (0, 1)]),
        truth=np.stack([of_subject(truth == k) for k in (0, 1)]),
    )


def _measured_by_sums(sums: _Sums, members_bs: FloatArray) -> dict[str, FloatArray]:
    """Return the tested measures of B groups, (B,) each; `members_bs` is 1 for the subjects of a group, else 0."""
    aucs = [ranks.auc(members_bs) for ranks in sums.ranks]
    result = {"auc": np.mean(aucs, axis=0), "brier": (members_bs @ sums.squares) / (members_bs @ sums.rows)}
    for name, k in (("tpr", 1), ("fpr", 0)):
        result[name] = (members_bs @ sums.decided[k]) / (members_bs @ sums.truth[k])
    return result

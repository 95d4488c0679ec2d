"""Intervals and paired tests for repeated splits: how well this way of training does on patients like these.

The score of one repeat varies with its test subjects, and with the subjects and the random start of its training.
Repeats share subjects, in test and in training, so their scores are alike, and their mean varies more than that
of R independent scores would. With σ² the variance of one repeat's score and ρ the correlation between two repeats,

    var(mean) = σ² (1 / R + ρ (1 - 1 / R)).

- σ² is mostly the doubt from a few test subjects, known from the subjects themselves: by how much the score would
  change if a subject counted a little more (infinitesimal jackknife; all rows of a subject together). The spread
  between repeats is a second, rough estimate that also sees unstable training; it counts as R - 1 of
  `PRIOR_REPEATS` + R - 1.
- ρ cannot be estimated from the scores of a few repeats. Nadeau and Bengio put it at test / (test + train), 1/3 for
  6:1:3, which holds in simulation (docs/results/intervals.md). Where the same subjects are tested again and again, as
  in a split given by the manifest, the correlation measured from them is higher and is taken.

Intervals are t intervals on the log-odds scale (log scale for the log loss), so that they stay within the metric's
range and are wider on the side that has room. With one repeat they are about the one trained model.

A table of predictions has the columns `repeat` (int), `subject` (str), `observation` (str), `truth` (int) and one
probability column per class, `p_0` to `p_{K-1}`.

Source: Nadeau and Bengio, Inference for the Generalization Error, Machine Learning 52 (2003), section 4; Efron, The
Jackknife, the Bootstrap and Other Resampling Plans (1982), section 6.3 (infinitesimal jackknife); Satterthwaite (1946)
for the degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from evaluation.metrics import CLASSWISE, METRICS, FloatArray, IntArray, score_draws

LEVEL = 0.95  # of every interval
CORRELATION = 1 / 3  # of the scores of two repeats: test / (test + train) of random 6:1:3 splits
PRIOR_REPEATS = 10  # repeats whose spread would say as much of one repeat's variance as the subjects do
_STEP = 1e-6  # by which a subject's weight of 1 is raised
_BLOCK_VALUES = 2_000_000  # weights held at once, 16 MB


class Summary(TypedDict):
    """One metric over repeats: mean, standard deviation (ddof 1), interval."""

    mean: float
    std: float
    low: float
    high: float


class Difference(TypedDict):
    """One metric of a minus that of b: difference, interval, two-sided p."""

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class _Repeat:
    """The test rows of one repeat: truth (n,), probabilities (n, K), index (n,) of each row's subject."""

    truth: IntArray
    probabilities: FloatArray
    subject: IntArray
    threshold: float


def summarise(predictions: pd.DataFrame, *, thresholds: Mapping[int, float] | float = 0.5) -> dict[str, Summary]:
    """Give every metric its mean and standard deviation over repeats and an interval of its expected value.

    Args:
        predictions: test predictions of all repeats, columns as above.
        thresholds: decision threshold, one for all repeats or one per repeat; unused with more than two classes.

    Returns:
        For every name in `METRICS` a `Summary`. NaN stands for: a mean that is undefined in one of the repeats, the
        standard deviation of a single repeat, an interval from fewer than two test subjects a repeat, in each class
        where the metric looks at classes.

    Raises:
        ValueError: if a column or a threshold is missing, there are two rows for one repeat and observation, or a value
            cannot be scored.
    """
    repeats, n_subjects = _repeats(predictions, thresholds)
    scored = _influences(repeats, n_subjects)
    classes = len(probability_columns(predictions))
    result: dict[str, Summary] = {}
    for name, (values, influence) in scored.items():
        mean = float(values.mean()) if values.size else np.nan
        std = float(values.std(ddof=1)) if values.size > 1 else np.nan
        low, high = (float(end) for end in interval(name, mean, *_spread(name, values, influence, repeats), classes))
        result[name] = Summary(mean=mean, std=std, low=low, high=high)
    return result


def paired_difference(a: pd.DataFrame, b: pd.DataFrame, metric: str) -> Difference:
    """Compare two methods on the same test rows: metric of `a` minus metric of `b`, mean over repeats.

    Of two classes, the positive one is decided at a probability of 0.5. What makes a subject hard for both cancels. The
    p value is that of a corrected t test for overlapping splits, with the standard error of this module.

    Args:
        a: predictions of one method.
        b: predictions of the other, for the same repeats and observations, in any order.
        metric: a name in `METRICS`.

    Raises:
        ValueError: if the metric is unknown, or the rows of the two do not match in repeat, observation, subject and
            truth; the message names the first that does not.
    """
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is unknown; expected one of {', '.join(METRICS)}")
    a, b = _sorted_rows(a), _sorted_rows(b)
    _check_same_rows(a, b)
    (repeats_a, n_subjects), (repeats_b, _) = _repeats(a, 0.5), _repeats(b, 0.5)
    (values_a, influence_a), (values_b, influence_b) = (
        _influences(repeats, n_subjects)[metric] for repeats in (repeats_a, repeats_b)
    )
    values = values_a - values_b
    error, freedom, _ = _spread(metric, values, influence_a - influence_b, repeats_a)
    difference = float(values.mean()) if values.size else np.nan
    if error == 0:  # the same decisions everywhere, or nothing to judge a difference by
        end, p = (0.0, 1.0) if difference == 0 else (np.nan, np.nan)
        return Difference(difference=difference, low=end, high=end, p=p)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom) * error)
    p = float(2 * stats.t.sf(abs(difference) / error, freedom))
    return Difference(difference=difference, low=difference - reach, high=difference + reach, p=p)


def error_of_mean(
    values_r: FloatArray, influence_rs: FloatArray, members_ks: npt.NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return how far a mean over repeats may be off; see the head of the module.

    Args:
        values_r: (..., R), the score of each repeat.
        influence_rs: (..., R, S), its derivative by the weight of each subject, corrected for their number: times
            sqrt(n / (n - 1)), n the subjects tested in the repeat, of one class where the metric looks at classes.
        members_ks: (..., K, S), the tested subjects of each class, or all in one line.

    Returns:
        Standard error, degrees of freedom, and the number of subjects that it rests on (those of the smallest class),
        each (...).
    """
    n = values_r.shape[-1]
    one = (influence_rs**2).sum(axis=-1).mean(axis=-1)
    mean_s = influence_rs.mean(axis=-2) ** 2
    correlation = np.ones_like(one)
    if n > 1:
        shared = (mean_s.sum(axis=-1) - one / n) / (1 - 1 / n)
        correlation = np.clip(_ratio(shared, one), CORRELATION, 1)
        by_spread = values_r.var(axis=-1, ddof=1) + correlation * one
        one = (PRIOR_REPEATS * one + (n - 1) * by_spread) / (PRIOR_REPEATS + n - 1)
    error = np.sqrt(one * (1 / n + correlation * (1 - 1 / n)))
    sizes_k = members_ks.sum(axis=-1)
    parts_k = (mean_s[..., np.newaxis, :] * members_ks).sum(axis=-1)
    lost = (parts_k**2 / np.maximum(sizes_k - 1, 1)).sum(axis=-1)
    freedom = np.maximum(_ratio(parts_k.sum(axis=-1) ** 2, lost), 1)
    return error, freedom, sizes_k.min(axis=-1)


def interval(
    metric: str,
    mean: npt.ArrayLike,
    error: npt.ArrayLike,
    freedom: npt.ArrayLike,
    subjects: npt.ArrayLike,
    n_classes: int = 2,
) -> tuple[FloatArray, FloatArray]:
    """Return both ends of the interval, within the range of the metric; NaN where the error is.

    A mean at the end of the range, at which no subject differs, gets the exact bound of as many subjects alike.

    Args:
        metric: a name in `METRICS`.
        mean: (...), over repeats.
        error: (...), standard error.
        freedom: (...), its degrees of freedom.
        subjects: (...), on how many it rests.
        n_classes: K.
    """
    top = 2.0 if metric == "brier" and n_classes > 2 else 1.0
    reach = stats.t.ppf((1 + LEVEL) / 2, freedom) * np.asarray(error) / top
    share = np.asarray(mean, dtype=np.float64) / top
    bound = np.where(np.isfinite(reach), 1 - ((1 - LEVEL) / 2) ** (1 / np.maximum(subjects, 1)), np.nan)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if metric == "log_loss":
            low, high = share * np.exp(-reach / share), share * np.exp(reach / share)
        else:
            odds, slope = share / (1 - share), share * (1 - share)
            low, high = (1 / (1 + np.exp(sign * reach / slope) / odds) for sign in (1, -1))
            low, high = np.where(share >= 1, 1 - bound, low), np.where(share >= 1, bound * 0 + 1, high)
    return top * np.where(share <= 0, bound * 0, low), top * np.where(share <= 0, bound, high)


def probability_columns(predictions: pd.DataFrame) -> list[str]:
    """Return `p_0`, `p_1`, … of a table of predictions, in class order.

    Raises:
        ValueError: if there are fewer than two or one in between is missing.
    """
    names = [name for name in predictions.columns if str(name).startswith("p_") and str(name)[2:].isdecimal()]
    expected = [f"p_{k}" for k in range(len(names))]
    if len(names) < 2 or set(names) != set(expected):
        raise ValueError(f"expected probability columns p_0, p_1, … for two classes or more; found {names}")
    return expected


def _repeats(predictions: pd.DataFrame, thresholds: Mapping[int, float] | float) -> tuple[list[_Repeat], int]:
    """Cut a table of predictions into repeats, and number its subjects in sorted order."""
    columns = probability_columns(predictions)
    predictions = _sorted_rows(predictions)
    subjects, numbers = np.unique(predictions["subject"].astype(str).to_numpy(dtype=object), return_inverse=True)
    repeats = []
    for number, rows in predictions.assign(_subject=numbers).groupby("repeat", sort=True):
        repeat = int(str(number))
        if isinstance(thresholds, Mapping) and repeat not in thresholds:
            raise ValueError(f"repeat {repeat} has no threshold; found thresholds for {sorted(thresholds)}")
        repeats.append(
            _Repeat(
                truth=rows["truth"].to_numpy(),
                probabilities=rows[columns].to_numpy(dtype=np.float64),
                subject=rows["_subject"].to_numpy(dtype=np.int64),
                threshold=thresholds[repeat] if isinstance(thresholds, Mapping) else thresholds,
            )
        )
    return repeats, len(subjects)


def _sorted_rows(predictions: pd.DataFrame) -> pd.DataFrame:
    """Sort by repeat and observation, refusing missing columns and rows given twice."""
    missing = [name for name in ("repeat", "subject", "observation", "truth") if name not in predictions.columns]
    if missing:
        raise ValueError(f"predictions lack the column(s) {', '.join(missing)}; found {list(predictions.columns)}")
    twice = predictions[predictions.duplicated(["repeat", "observation"])]
    if len(twice):
        raise ValueError(
            f"repeat {twice['repeat'].iloc[0]} predicts observation {twice['observation'].iloc[0]!r} twice"
        )
    return predictions.sort_values(["repeat", "observation"], kind="stable", ignore_index=True)


def _check_same_rows(a: pd.DataFrame, b: pd.DataFrame) -> None:
    """Refuse two sorted tables that differ in more than their probabilities."""
    keys_a, keys_b = (list(zip(t["repeat"], t["observation"], strict=True)) for t in (a, b))
    for here, keys_other, names in ((keys_a, set(keys_b), ("a", "b")), (keys_b, set(keys_a), ("b", "a"))):
        alone = next((key for key in here if key not in keys_other), None)
        if alone is not None:
            raise ValueError(
                f"repeat {alone[0]}, observation {alone[1]!r} is predicted by {names[0]} but not by {names[1]}; "
                "a paired difference needs the same test rows in both"
            )
    for column in ("subject", "truth"):
        differs = np.flatnonzero(a[column].to_numpy() != b[column].to_numpy())
        if differs.size:
            key, one, other = keys_a[differs[0]], a[column].iloc[differs[0]], b[column].iloc[differs[0]]
            raise ValueError(f"repeat {key[0]}, observation {key[1]!r}: {column} is {one} in a and {other} in b")


def _influences(repeats: list[_Repeat], n_subjects: int) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return for every metric its value in each repeat (R,), and its derivative by each subject's weight (R, S)."""
    result = {name: (np.full(len(repeats), np.nan), np.zeros((len(repeats), n_subjects))) for name in METRICS}
    for r, repeat in enumerate(repeats):
        subjects = np.unique(repeat.subject)
        step = max(1, _BLOCK_VALUES // repeat.truth.size)
        base = _scores(repeat, np.ones((1, repeat.truth.size)))
        for start in range(0, subjects.size, step):
            block = subjects[start : start + step]
            raised = _scores(repeat, 1 + _STEP * (block[:, np.newaxis] == repeat.subject))
            for name, (values, influence) in result.items():
                values[r] = base[name][0]
                influence[r, block] = (raised[name] - base[name][0]) / _STEP
    return result


def _scores(repeat: _Repeat, weights_bn: FloatArray) -> dict[str, FloatArray]:
    return score_draws(repeat.truth, repeat.probabilities, weights_bn, threshold=repeat.threshold)


def _spread(
    metric: str, values_r: FloatArray, influence_rs: FloatArray, repeats: list[_Repeat]
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return what `error_of_mean` does; NaN where a value is undefined or a repeat has one subject (of a class)."""
    unknown = (np.array(np.nan), np.array(1.0), np.array(0))
    if not repeats or not np.isfinite(values_r).all():
        return unknown
    strata = [repeat.truth if metric in CLASSWISE else np.zeros_like(repeat.truth) for repeat in repeats]
    members_ks = np.zeros((1 + max(int(stratum.max()) for stratum in strata), influence_rs.shape[1]), dtype=bool)
    factor_rs = np.zeros_like(influence_rs)
    for repeat, stratum, factor_s in zip(repeats, strata, factor_rs, strict=True):
        for k in np.unique(stratum):
            subjects = np.unique(repeat.subject[stratum == k])
            if subjects.size < 2:
                return unknown
            members_ks[k, subjects] = True
            factor_s[subjects] = np.maximum(factor_s[subjects], subjects.size / (subjects.size - 1))
    return error_of_mean(values_r, influence_rs * np.sqrt(factor_rs), members_ks[members_ks.any(axis=1)])


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide, giving 0 where the whole is zero."""
    result = np.zeros(np.broadcast(numerator, denominator).shape)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result

"""Intervals and paired tests by resampling subjects.

A subject may be tested in several repeats and give several predictions in one, so rows are not independent. The
bootstrap here draws **subjects** with replacement. A subject sampled twice counts twice in every repeat in which it is
tested, and all its rows go with it. The statistic is the mean over repeats, as in the printed tables. The interval
covers which subjects happened to be tested; how the training runs differ is what `std` over repeats shows.

A table of predictions has the columns `repeat` (int), `subject` (str), `observation` (str), `truth` (int) and one
probability column per class, `p_0` to `p_{K-1}`.

Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), sections 3.8 (clusters) and 5.3.1
(percentile interval).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import pandas as pd

from evaluation.metrics import METRICS, FloatArray, IntArray, score_draws

LEVEL = 0.95  # of every interval
MAX_UNDEFINED = 0.5  # no interval from the rest if more than this share of the draws is undefined
_BLOCK_VALUES = 2_000_000  # weights held at once, 16 MB


class Summary(TypedDict):
    """One metric over repeats: mean, standard deviation (ddof 1), interval, draws that were undefined and dropped."""

    mean: float
    std: float
    low: float
    high: float
    n_undefined: int


class Difference(TypedDict):
    """One metric of a minus that of b: difference, interval, two-sided p, draws that were undefined and dropped."""

    difference: float
    low: float
    high: float
    p: float
    n_undefined: int


@dataclass(frozen=True)
class _Repeat:
    """The test rows of one repeat: truth (n,), probabilities (n, K), index (n,) of each row's subject."""

    truth: IntArray
    probabilities: FloatArray
    subject: IntArray
    threshold: float


def summarise(
    predictions: pd.DataFrame,
    *,
    thresholds: Mapping[int, float] | float = 0.5,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Summary]:
    """Give every metric its mean and standard deviation over repeats and an interval over subjects.

    Args:
        predictions: test predictions of all repeats, columns as above.
        thresholds: decision threshold, one for all repeats or one per repeat; unused with more than two classes.
        draws: number of bootstrap draws.
        seed: of the draws; the same seed and the same subjects give the same draws.

    Returns:
        For every name in `METRICS` a `Summary`. NaN stands for: a mean that is undefined in one of the repeats, the
        standard deviation of a single repeat, an interval of fewer than two subjects or with more than `MAX_UNDEFINED`
        of the draws undefined.

    Raises:
        ValueError: if a column or a threshold is missing, there are two rows for one repeat and observation, or a value
            cannot be scored.
    """
    repeats, n_subjects = _repeats(predictions, thresholds)
    points = [_scores(repeat, np.ones((1, n_subjects))) for repeat in repeats]
    sampled = _draw_means(repeats, n_subjects, draws, seed)
    result: dict[str, Summary] = {}
    for name in METRICS:
        values = np.array([point[name][0] for point in points])
        low, high, n_undefined = _percentile_interval(sampled[name], n_subjects)
        result[name] = Summary(
            mean=float(values.mean()) if values.size else np.nan,
            std=float(values.std(ddof=1)) if values.size > 1 else np.nan,
            low=low,
            high=high,
            n_undefined=n_undefined,
        )
    return result


def paired_difference(a: pd.DataFrame, b: pd.DataFrame, metric: str, *, draws: int = 2000, seed: int = 0) -> Difference:
    """Compare two methods on the same test rows: metric of `a` minus metric of `b`, mean over repeats.

    Of two classes, the positive one is decided at a probability of 0.5.

    Both see the same draws of subjects, so what makes a subject hard for both cancels. The p value is the one at which
    the percentile interval would touch zero: twice the smaller share of draws on either side of zero, at least
    2 / (draws + 1).

    Args:
        a: predictions of one method.
        b: predictions of the other, for the same repeats and observations, in any order.
        metric: a name in `METRICS`.
        draws: number of bootstrap draws.
        seed: of the draws.

    Raises:
        ValueError: if the metric is unknown, or the rows of the two do not match in repeat, observation, subject and
            truth; the message names the first that does not.
    """
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is unknown; expected one of {', '.join(METRICS)}")
    a, b = _sorted_rows(a), _sorted_rows(b)
    _check_same_rows(a, b)
    (repeats_a, n_subjects), (repeats_b, _) = _repeats(a, 0.5), _repeats(b, 0.5)
    whole = np.ones((1, n_subjects))
    points = [_scores(x, whole)[metric] - _scores(y, whole)[metric] for x, y in zip(repeats_a, repeats_b, strict=True)]
    sampled_a, sampled_b = (_draw_means(repeats, n_subjects, draws, seed)[metric] for repeats in (repeats_a, repeats_b))
    sampled = sampled_a - sampled_b
    low, high, n_undefined = _percentile_interval(sampled, n_subjects)
    kept = sampled[np.isfinite(sampled)]
    tail = 1 + min(np.count_nonzero(kept <= 0), np.count_nonzero(kept >= 0))
    return Difference(
        difference=float(np.mean(points)) if points else np.nan,
        low=low,
        high=high,
        p=float(min(1.0, 2 * tail / (kept.size + 1))) if np.isfinite(low) else np.nan,
        n_undefined=n_undefined,
    )


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


def _draw_means(repeats: list[_Repeat], n_subjects: int, draws: int, seed: int) -> dict[str, FloatArray]:
    """Return for every metric its mean over repeats in every bootstrap draw (draws,), NaN where undefined."""
    if draws < 1:
        raise ValueError(f"draws is {draws}; expected 1 or more")
    result = {name: np.full(draws, np.nan) for name in METRICS}
    if not repeats:
        return result
    widest = max(repeat.truth.size for repeat in repeats)
    for block, counts_bs in _subject_counts(n_subjects, draws, seed, step=max(1, _BLOCK_VALUES // widest)):
        scored = [_scores(repeat, counts_bs) for repeat in repeats]
        for name in METRICS:
            result[name][block] = np.mean([values[name] for values in scored], axis=0)
    return result


def _subject_counts(n_subjects: int, draws: int, seed: int, step: int) -> Iterator[tuple[slice, FloatArray]]:
    """Yield, `step` draws at a time, how often each subject is sampled (B, S)."""
    generator = np.random.default_rng(seed)
    for start in range(0, draws, step):
        block = slice(start, min(start + step, draws))
        shares = np.full(n_subjects, 1 / n_subjects)
        yield block, generator.multinomial(n_subjects, shares, size=block.stop - start).astype(np.float64)


def _scores(repeat: _Repeat, counts_bs: FloatArray) -> dict[str, FloatArray]:
    """Score one repeat with every row weighted by how often its subject was sampled."""
    return score_draws(repeat.truth, repeat.probabilities, counts_bs[:, repeat.subject], threshold=repeat.threshold)


def _percentile_interval(values: FloatArray, n_subjects: int) -> tuple[float, float, int]:
    """Return both ends of the interval of the defined draws, and how many were not defined."""
    kept = values[np.isfinite(values)]
    n_undefined = int(values.size - kept.size)
    if n_subjects < 2 or n_undefined > MAX_UNDEFINED * values.size:
        return np.nan, np.nan, n_undefined
    low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high), n_undefined

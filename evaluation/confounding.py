"""What else could explain a result: covariates, which scans were made, scanner and site.

Two questions: what do the images add to methods that see none; and what can be read off the feature maps beside the
class. Whether the model is as good in every group of patients, `evaluation.fairness` asks.

A table of predictions is that of `evaluation.intervals`.
"""

from __future__ import annotations

import itertools
from collections.abc import Container

import numpy as np
import numpy.typing as npt
import pandas as pd

from evaluation.intervals import LEVEL, paired_difference, probability_columns, summarise
from evaluation.metrics import FloatArray, IntArray

PENALTIES = 10.0 ** np.arange(-4, 3)
"""Ridge penalties to choose from, as multiples of the mean squared length of the training rows."""

GAIN_COLUMNS = (
    "n", "covariates_auc", "fused_auc", "difference", "low", "high", "availability_auc", "availability_low",
    "availability_high",
)  # fmt: skip
DRAWS = 2000  # of subjects, for the interval of R²
THE_CLASS = "the class"  # among the probes; all others are covariates


def gain_over_covariates(
    covariates: pd.DataFrame | None,
    fused: pd.DataFrame | None,
    availability: pd.DataFrame | None,
) -> dict[str, float]:
    """Tell what the images add to the covariates, in AUC, and whether availability alone tells the class.

    Args:
        covariates: test predictions from the covariates alone; None if there are none.
        fused: from covariates and images. Compared on the rows that both could take.
        availability: from which scans there are; None if there are none.

    Returns:
        `GAIN_COLUMNS`: `n` rows shared, AUC of both on them, `difference` (fused minus covariates) with its paired
        interval, AUC of availability with its interval; NaN where something is missing.
    """
    result = dict.fromkeys(GAIN_COLUMNS, np.nan)
    if covariates is not None and fused is not None:
        key = ["repeat", "observation"]
        made = fused[~fused[probability_columns(fused)].isna().any(axis=1)]
        shared = covariates[key].merge(made[key], on=key)
        if len(shared):
            one, both = (table.merge(shared, on=key) for table in (covariates, made))
            change = paired_difference(both, one, "auc")
            result |= {"n": float(len(shared)), "difference": change["difference"]}
            result |= {"low": change["low"], "high": change["high"]}
            for name, table in (("covariates_auc", one), ("fused_auc", both)):
                result[name] = summarise(table)["auc"]["mean"]
    if availability is not None:
        auc = summarise(availability)["auc"]
        result |= {"availability_auc": auc["mean"], "availability_low": auc["low"], "availability_high": auc["high"]}
    return result


def probe_category(
    gram: FloatArray,
    values: pd.Series,
    subjects: pd.Series,
    folds: IntArray,
) -> dict[str, float]:
    """Tell how well a linear function of feature maps separates categories, such as sites.

    Ridge regression on the categories as 0 and 1, cross-validated by subject. With more than two categories the AUC is
    that of each against the rest, averaged.

    Args:
        gram: inner products of the rows, (n, n), float64.
        values: category of each row.
        subjects: of each row.
        folds: fold of each row, (R, n): R repetitions of the cross-validation; no subject is in two folds of one.

    Returns:
        `mean`, `low`, `high` of the AUC, over repetitions.
    """
    names = sorted(set(values))
    truth = np.array([names.index(value) for value in values])
    one_hot = (truth[:, np.newaxis] == np.arange(len(names))).astype(np.float64)
    tables = []
    for repeat, assigned in enumerate(folds, 1):
        # Without the share of the category in training, which differs a little from fold to fold and would rank rows.
        above, _ = out_of_fold(gram, one_hot, assigned)
        scores = 1 / (1 + np.exp(-4 * above))  # any rising function into [0, 1]
        table = pd.DataFrame({"repeat": repeat, "subject": subjects.to_numpy(), "truth": truth})
        table["observation"] = [str(i) for i in range(len(truth))]
        tables.append(table.assign(**{f"p_{k}": scores[:, k] for k in range(len(names))}))
    auc = summarise(pd.concat(tables, ignore_index=True))["auc"]
    return {"mean": auc["mean"], "low": auc["low"], "high": auc["high"]}


def probe_number(
    gram: FloatArray,
    values: FloatArray,
    subjects: pd.Series,
    folds: IntArray,
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Tell how well a linear function of feature maps predicts a number, such as age.

    Args:
        gram: as in `probe_category`.
        values: number of each row, (n,), finite.
        subjects: of each row.
        folds: as in `probe_category`.
        seed: of the bootstrap.

    Returns:
        `mean`, `low`, `high` of R², the share of the variance that is predicted, mean over repetitions; below 0 the
        prediction is worse than the mean of all. The interval is a percentile bootstrap over subjects.
    """
    _, owner = np.unique(subjects.to_numpy(dtype=object), return_inverse=True)
    count = int(owner.max()) + 1
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)[:, owner]
    weights = np.vstack([np.ones(len(values)), weights]).astype(np.float64)
    predicted = [np.sum(out_of_fold(gram, values[:, np.newaxis], assigned), axis=0)[:, 0] for assigned in folds]
    total = weights.sum(axis=1)
    variance = weights @ values**2 / total - (weights @ values / total) ** 2
    r2 = np.mean([1 - (weights @ (values - each) ** 2) / total / variance for each in predicted], axis=0)
    low, high = np.quantile(r2[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"mean": float(r2[0]), "low": float(low), "high": float(high)}


def out_of_fold(gram: FloatArray, targets: FloatArray, folds: IntArray) -> tuple[FloatArray, FloatArray]:
    """Predict every row by ridge regression on the rows of the other folds.

    The penalty is chosen by squared error inside of those: each of them is left out in turn.

    Args:
        gram: inner products of the rows, (n, n).
        targets: (n, K).
        folds: (n,), three different values at least.

    Returns:
        How far each prediction is from the mean of the rows that it was learnt from, (n, K), and that mean, (n, K).

    Raises:
        ValueError: fewer than three folds.
    """
    names = np.unique(folds)
    if len(names) < 3:
        raise ValueError(f"{len(names)} folds; three are needed, one to predict, one to choose the penalty by")
    result, means = np.full(targets.shape, np.nan), np.full(targets.shape, np.nan)
    for fold in names:
        errors = np.zeros(len(PENALTIES))
        for inner in names[names != fold]:
            rows, held = (folds != fold) & (folds != inner), folds == inner
            predicted = _ridge(gram, targets, rows, held)
            errors += ((predicted - (targets[held] - targets[rows].mean(axis=0))) ** 2).sum(axis=(1, 2))
        rows, held = folds != fold, folds == fold
        result[held] = _ridge(gram, targets, rows, held)[int(np.argmin(errors))]
        means[held] = targets[rows].mean(axis=0)
    return result, means


def _ridge(
    gram: FloatArray, targets: FloatArray, rows: npt.NDArray[np.bool_], held: npt.NDArray[np.bool_]
) -> FloatArray:
    """Return predictions of the held rows for each penalty, less the mean of the rows, (penalties, held, K)."""
    inner, across = gram[np.ix_(rows, rows)], gram[np.ix_(held, rows)]
    centre = inner.mean(axis=0)
    across = across - across.mean(axis=1, keepdims=True) - centre + inner.mean()
    inner = inner - centre - centre[:, np.newaxis] + inner.mean()
    lengths, basis = np.linalg.eigh(inner)
    mean = targets[rows].mean(axis=0)
    turned, size = basis.T @ (targets[rows] - mean), max(float(np.trace(inner)) / len(inner), np.finfo(float).tiny)
    projected = across @ basis
    penalties = PENALTIES[:, np.newaxis] * size * len(inner)
    shrunk = turned / (np.clip(lengths, 0, None) + penalties)[:, :, np.newaxis]
    return projected @ shrunk


def bands(values: pd.Series, *, learnt_from: Container[str] | None = None, count: int = 3) -> pd.Series:
    """Cut numbers into bands of about equally many observations.

    Args:
        values: observation (index) → number; NaN is in no band.
        learnt_from: observations that the inner edges are quantiles of; None for all.
        count: of bands; fewer where many numbers are alike.

    Returns:
        Observation → an ordered category such as `60 to 68`, `over 68 to 75`; NaN stays NaN.
    """
    known = values.dropna()
    used = known if learnt_from is None else known[[name in learnt_from for name in known.index]]
    edges = np.array([])
    if len(used):
        inner = np.quantile(used, np.linspace(0, 1, count + 1))[1:-1]
        edges = np.unique([known.min(), *inner, known.max()])
    if len(edges) < 3:
        only = [f"{known.min():g} to {known.max():g}"] if len(known) else []
        labels = pd.Series(only[0] if only else np.nan, index=known.index, dtype=object)
        return labels.reindex(values.index).astype(pd.CategoricalDtype(only, ordered=True))
    ends = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(edges)]
    names = [ends[0], *(f"over {name}" for name in ends[1:])]
    return pd.cut(values, edges, labels=names, include_lowest=True)

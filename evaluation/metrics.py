"""Score predicted probabilities against the truth, for one weighting of the rows or for thousands at once.

`evaluation.intervals` asks for the same metrics with each subject left out. Every metric here is therefore written as
sums of weights: `score_draws` takes a matrix of weights, one line per weighting, and has no Python loop over them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

METRICS: dict[str, str] = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "auc": "AUC",
    "auc_rounded": "AUC of rounded scores",
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "brier": "Brier score",
    "log_loss": "Log loss",
}
"""Name → what tables call it. All lie in [0, 1], but `brier` for K > 2 in [0, 2] and `log_loss` from 0 (nats); all but
these two are better when higher."""

THRESHOLD_FREE: tuple[str, ...] = ("auc", "brier", "log_loss")
"""The metrics that do not change with the decision threshold."""

CLASSWISE: tuple[str, ...] = ("balanced_accuracy", "auc", "auc_rounded", "f1", "precision", "recall")
"""The metrics that rest on the subjects of each class, of which there may be few."""

_SMALLEST = 1e-7  # probability in a logarithm: that of a true class may have been rounded to 0


def score(
    truth: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    *,
    threshold: float = 0.5,
    weights: npt.ArrayLike | None = None,
) -> dict[str, float]:
    """Score one set of predictions.

    Args:
        truth: (n,) integers, the true class of every row, 0 to K - 1.
        probabilities: (n, K) floats in [0, 1], one column per class.
        threshold: K = 2 only. Class 1, the positive one, is decided where its probability is `threshold` or more.
        weights: (n,) non-negative floats, how much each row counts; None counts every row once.

    Returns:
        One float per name in `METRICS`; see `score_draws` for their definitions and for when one is NaN.

    Raises:
        ValueError: as `score_draws`.
    """
    rows = np.ones(len(np.asarray(truth))) if weights is None else np.asarray(weights, dtype=np.float64)
    if rows.ndim != 1:
        raise ValueError(f"weights have shape {rows.shape}; expected (n,). For several weightings call score_draws")
    values = score_draws(truth, probabilities, rows[np.newaxis], threshold=threshold)
    return {name: float(value[0]) for name, value in values.items()}


def score_draws(
    truth: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike, *, threshold: float = 0.5
) -> dict[str, FloatArray]:
    """Score the same predictions under B weightings of their rows.

    Two classes: class 1 is positive. `precision`, `recall`, `f1` are those of class 1; `brier` is the mean of
    (p_1 - y)^2. More classes: the decision is the largest probability; `precision`, `recall`, `f1` are macro averages,
    `auc` is the macro average of one-vs-rest AUCs and `brier` the mean of sum_k (p_k - y_k)^2. `log_loss` is the mean
    of -log p of the true class, p not below 1e-7.

    `auc` is computed from the scores, ties counting one half. `auc_rounded` is the AUC of the decisions written as 0
    and 1: what the authors' published code prints as "AUC". With two classes it equals balanced accuracy.

    NaN, never an exception: `balanced_accuracy`, `auc` and `auc_rounded` where a class has no weight in the truth;
    `recall` and `f1` where a class they look at has none; all of them where the weights sum to zero. A class that is
    never decided has precision 0, as scikit-learn with `zero_division=0`.

    Args:
        truth: (n,) integers, 0 to K - 1.
        probabilities: (n, K) floats in [0, 1].
        weights: (B, n) non-negative floats.
        threshold: K = 2 only, see `score`.

    Returns:
        For every name in `METRICS` a float64 array (B,).

    Raises:
        ValueError: if shapes disagree, K < 2, a class is out of range, a probability is not in [0, 1], or a weight is
            negative or not finite.

    Source: HyperMM, section 3, tables 1 and 2 (metrics reported); its published code for `auc_rounded`.
    """
    truth_n, probabilities_nk, weights_bn = _checked(truth, probabilities, weights)
    n_draws, n_rows = weights_bn.shape
    n_classes = probabilities_nk.shape[1]
    if n_rows == 0:
        return {name: np.full(n_draws, np.nan) for name in METRICS}

    true_nk = truth_n[:, np.newaxis] == np.arange(n_classes)
    decided_nk = decide(probabilities_nk, threshold=threshold)[:, np.newaxis] == np.arange(n_classes)
    total_b = weights_bn.sum(axis=1)
    actual_bk = weights_bn @ true_nk.astype(np.float64)
    decided_bk = weights_bn @ decided_nk.astype(np.float64)
    hits_bk = weights_bn @ (true_nk & decided_nk).astype(np.float64)
    rejected_bk = weights_bn @ (~true_nk & ~decided_nk).astype(np.float64)
    others_bk = weights_bn @ (~true_nk).astype(np.float64)

    recall_bk = _ratio(hits_bk, actual_bk)
    specificity_bk = _ratio(rejected_bk, others_bk)
    precision_bk = np.where(total_b[:, np.newaxis] > 0, _ratio(hits_bk, decided_bk, empty=0.0), np.nan)
    f1_bk = np.where(actual_bk > 0, _ratio(2 * hits_bk, actual_bk + decided_bk), np.nan)

    looked_at = [1] if n_classes == 2 else list(range(n_classes))  # the positive class, or every class in turn
    columns = looked_at if n_classes == 2 else slice(None)
    auc_bk = np.stack([_auc(true_nk[:, k], probabilities_nk[:, k], weights_bn) for k in looked_at], axis=1)
    squared_n = ((probabilities_nk - true_nk) ** 2)[:, columns].sum(axis=1)
    surprise_n = -np.log(np.maximum(probabilities_nk[np.arange(n_rows), truth_n], _SMALLEST))
    return {
        "accuracy": _ratio(hits_bk.sum(axis=1), total_b),
        "balanced_accuracy": recall_bk.mean(axis=1),
        "auc": auc_bk.mean(axis=1),
        "auc_rounded": ((recall_bk + specificity_bk) / 2)[:, columns].mean(axis=1),
        "f1": f1_bk[:, columns].mean(axis=1),
        "precision": precision_bk[:, columns].mean(axis=1),
        "recall": recall_bk[:, columns].mean(axis=1),
        "brier": _ratio(weights_bn @ squared_n, total_b),
        "log_loss": _ratio(weights_bn @ surprise_n, total_b),
    }


def decide(probabilities: npt.ArrayLike, *, threshold: float = 0.5) -> IntArray:
    """Return the decided class of every row (n,): `p_1 >= threshold` for two classes, the largest for more."""
    probabilities_nk = np.asarray(probabilities, dtype=np.float64)
    if probabilities_nk.shape[1] == 2:
        return (probabilities_nk[:, 1] >= threshold).astype(np.int64)
    return np.asarray(probabilities_nk.argmax(axis=1), dtype=np.int64)


def best_threshold(truth: npt.ArrayLike, positive: npt.ArrayLike) -> tuple[float, str]:
    """Find the threshold with the best balanced accuracy; meant for validation rows, never for test rows.

    Candidates are 0.5 and the midpoints between neighbouring scores. Of equally good ones the nearest to 0.5 is taken,
    so 0.5 is left only for a gain.

    Args:
        truth: (n,) integers, 0 or 1.
        positive: (n,) floats, the probability of class 1.

    Returns:
        The threshold, and why it is the default of 0.5, or an empty string if it was chosen on the rows.

    Raises:
        ValueError: if the shapes disagree, a truth is not 0 or 1, or a score is not in [0, 1].
    """
    scores_n = np.asarray(positive, dtype=np.float64)
    if scores_n.ndim != 1:
        raise ValueError(f"scores have shape {scores_n.shape}; expected (n,), the probability of class 1")
    truth_n, _, _ = _checked(truth, np.stack([1 - scores_n, scores_n], axis=1), np.ones((1, scores_n.size)))
    if truth_n.size == 0:
        return 0.5, "there is no validation prediction, so the threshold stays at 0.5"
    if np.all(truth_n == truth_n[0]):
        return 0.5, f"every validation subject is of class {truth_n[0]}, so the threshold stays at 0.5"
    levels = np.unique(scores_n)
    candidates = np.append((levels[:-1] + levels[1:]) / 2, 0.5)
    positives, negatives = np.sort(scores_n[truth_n == 1]), np.sort(scores_n[truth_n == 0])
    true_positives = positives.size - np.searchsorted(positives, candidates)
    true_negatives = np.searchsorted(negatives, candidates)
    gain = true_positives * negatives.size + true_negatives * positives.size  # balanced accuracy, in whole numbers
    best = candidates[gain == gain.max()]
    return float(best[np.abs(best - 0.5).argmin()]), ""


def _auc(positive_n: npt.NDArray[np.bool_], scores_n: FloatArray, weights_bn: FloatArray) -> FloatArray:
    """Weighted area under the ROC curve (B,): the chance that a positive outscores a negative, ties one half."""
    order = np.argsort(scores_n, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(scores_n[order]) > 0))  # where a new score begins
    weights_bn, positive_n = weights_bn[:, order], positive_n[order]
    positive_bg = np.add.reduceat(weights_bn * positive_n, starts, axis=1)
    negative_bg = np.add.reduceat(weights_bn * ~positive_n, starts, axis=1)
    below_bg = np.cumsum(negative_bg, axis=1) - negative_bg
    won_b = (positive_bg * (below_bg + negative_bg / 2)).sum(axis=1)
    return _ratio(won_b, positive_bg.sum(axis=1) * negative_bg.sum(axis=1))


def _ratio(numerator: FloatArray, denominator: FloatArray, empty: float = np.nan) -> FloatArray:
    """Divide, giving `empty` where the whole is zero."""
    result = np.full(numerator.shape, empty)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def _checked(truth: Any, probabilities: Any, weights: Any) -> tuple[IntArray, FloatArray, FloatArray]:
    """Turn the arguments of `score_draws` into arrays, refusing what cannot be scored."""
    truth_n = np.asarray(truth)
    probabilities_nk = np.asarray(probabilities, dtype=np.float64)
    weights_bn = np.asarray(weights, dtype=np.float64)
    if truth_n.ndim != 1 or probabilities_nk.ndim != 2 or len(truth_n) != len(probabilities_nk):
        raise ValueError(
            f"expected truth (n,) and probabilities (n, K); found {truth_n.shape}, {probabilities_nk.shape}"
        )
    if weights_bn.ndim != 2 or weights_bn.shape[1] != len(truth_n):
        raise ValueError(f"expected weights (B, n) with n = {len(truth_n)}; found {weights_bn.shape}")
    n_classes = probabilities_nk.shape[1]
    if n_classes < 2:
        raise ValueError(f"probabilities have {n_classes} column(s); expected one per class, two at least")
    if truth_n.size and not (
        np.issubdtype(truth_n.dtype, np.integer) and 0 <= truth_n.min() <= truth_n.max() < n_classes
    ):
        raise ValueError(f"truth holds {np.unique(truth_n)[:10].tolist()}; expected integers from 0 to {n_classes - 1}")
    wrong = np.flatnonzero(~((probabilities_nk >= 0) & (probabilities_nk <= 1 + 1e-6)).all(axis=1))
    if wrong.size:
        raise ValueError(
            f"row {wrong[0]}: probabilities {probabilities_nk[wrong[0]].tolist()}; expected values from 0 to 1"
        )
    if not (np.isfinite(weights_bn) & (weights_bn >= 0)).all():
        raise ValueError("a weight is negative or not finite; expected how often each row counts, 0 or more")
    return truth_n.astype(np.int64), probabilities_nk, weights_bn

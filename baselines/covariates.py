"""Classifiers that see no image: a logistic regression of covariates, of which scans there are, or of both.

A method that looks at scans has to beat them: in some cohorts age and sex tell the class better than most image models.
The fourth row puts the images on top: late fusion of the covariates' probabilities with those of HyperMM.

Source: an addition to the paper's baselines. Late fusion as a product of experts, Hinton 2002, Neural Comput. 14:1771.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from baselines.sample import CannotFit
from cohort.covariates import Encoder, Kind, fit_encoder, folds_of, kinds_of

Array = NDArray[np.float64]

INVERSE_PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""scikit-learn's C, the larger penalty first."""

UNCHOSEN = 0.1  # without an inner fold that leaves two classes
FOLDS = 5  # of the training subjects, to choose the penalty
WEIGHTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
"""Weights of the images in late fusion; 0 leaves them out, 1 takes both as independent."""

WEIGHT = 0.5  # without validation rows of two classes
SMALLEST = 1e-6  # probability, so that its logarithm is finite


@dataclass(frozen=True)
class TableClassifier:
    """A fitted logistic regression of the columns of a table.

    Attributes:
        encoder: from text to numbers.
        kinds: columns that it was given.
        model: None where no column tells training rows apart; then everybody gets `prior`.
        prior: share of each class among the training rows, (K,).
        inverse_penalty: that was chosen; NaN without a model.
        parameters: trained numbers.
    """

    encoder: Encoder
    kinds: Mapping[str, Kind]
    model: LogisticRegression | None
    prior: Array
    inverse_penalty: float
    parameters: int

    def probabilities(self, table: pd.DataFrame) -> Array:
        """Return class probabilities of the rows of a table, (n, K)."""
        return _probabilities(self.model, self.encoder(table), self.prior)


def fit_table(
    table: pd.DataFrame, target: NDArray[np.int64], subjects: pd.Series, train: NDArray[np.bool_], *, classes: int
) -> TableClassifier:
    """Fit a logistic regression with an L2 penalty, chosen by the log loss in inner folds of the training subjects.

    Args:
        table: text columns, one row an observation; of rows that are not trained on, nothing but the kind of their
            columns is looked at.
        target: class of each row, (n,).
        subjects: of each row.
        train: rows to learn from, (n,).
        classes: K.

    Raises:
        CannotFit: training rows of one class only.
    """
    rows, wanted, kinds = table[train], target[train], kinds_of(table)
    counts = np.bincount(wanted, minlength=classes)
    if (counts > 0).sum() < 2:
        raise CannotFit("the training subjects are of one class")
    prior = counts / counts.sum()
    encoder = fit_encoder(rows, kinds)
    inputs = encoder(rows)
    if inputs.shape[1] == 0:
        return TableClassifier(encoder, kinds, None, prior, np.nan, 0)
    chosen = _inverse_penalty(rows, wanted, subjects[train], kinds, classes)
    model = _regression(inputs, wanted, chosen)
    return TableClassifier(encoder, kinds, model, prior, chosen, model.coef_.size + model.intercept_.size)


def fusion_weight(covariates: Array, images: Array, target: NDArray[np.int64], prior: Array) -> tuple[float, str]:
    """Choose how much the images count, by the log loss of `fused` on validation rows.

    Args:
        covariates: probabilities of validation rows, (n, K); trained on other rows.
        images: the same of the images.
        target: their classes, (n,).
        prior: share of each class that the images have learnt from, (K,); equal ones where they count alike.

    Returns:
        One of `WEIGHTS`, the smaller one in a tie, and why it is `WEIGHT` without a choice, or "".
    """
    if len(set(target.tolist())) < 2:
        return WEIGHT, f"the validation subjects are not of two classes; the images count {WEIGHT:g}, unchosen"
    loss = [_log_loss(fused(covariates, images, prior, weight), target) for weight in WEIGHTS]
    return WEIGHTS[int(np.argmin(loss))], ""


def fused(covariates: Array, images: Array, prior: Array, weight: float) -> Array:
    """Return probabilities proportional to covariates · (images / prior)^weight, (n, K); rows of NaN stay NaN."""
    logs = [np.log(np.clip(values, SMALLEST, 1)) for values in (covariates, images, prior)]
    scores = logs[0] + weight * (logs[1] - logs[2])
    return np.exp(scores - logsumexp(scores, axis=1, keepdims=True))


def _inverse_penalty(
    rows: pd.DataFrame, target: NDArray[np.int64], subjects: pd.Series, kinds: Mapping[str, Kind], classes: int
) -> float:
    """Return the C with the lowest log loss over inner folds by subject; the encoder is learnt anew in each."""
    folds = folds_of(subjects, pd.Series(target), FOLDS, "penalty")
    losses = np.zeros(len(INVERSE_PENALTIES))
    for fold in np.unique(folds):
        inner, held = folds != fold, folds == fold
        if len(set(target[inner])) < 2:
            continue
        encoder = fit_encoder(rows[inner], kinds)
        prior = np.bincount(target[inner], minlength=classes) / inner.sum()
        inputs = encoder(rows[inner])
        if inputs.shape[1] == 0:
            continue
        for i, inverse_penalty in enumerate(INVERSE_PENALTIES):
            model = _regression(inputs, target[inner], inverse_penalty)
            predicted = _probabilities(model, encoder(rows[held]), prior)
            losses[i] += _log_loss(predicted, target[held]) * held.sum()
    return INVERSE_PENALTIES[int(np.argmin(losses))] if losses.any() else UNCHOSEN


def _regression(inputs: Array, target: NDArray[np.int64], inverse_penalty: float) -> LogisticRegression:
    return LogisticRegression(C=inverse_penalty, max_iter=2000).fit(inputs, target)


def _probabilities(model: LogisticRegression | None, inputs: Array, prior: Array) -> Array:
    """Return (n, K); a class that no training row has gets 0."""
    if model is None:
        return np.tile(prior, (len(inputs), 1))
    out = np.zeros((len(inputs), len(prior)))
    if len(inputs):
        out[:, model.classes_] = model.predict_proba(inputs)
    return out


def _log_loss(probabilities: Array, target: NDArray[np.int64]) -> float:
    return float(-np.log(np.clip(probabilities[np.arange(len(target)), target], SMALLEST, 1)).mean())

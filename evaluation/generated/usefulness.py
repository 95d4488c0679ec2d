"""What generated rows are good for: can they be told from real ones, and can a classifier learn from them?

Source: Esteban et al., Real-valued Medical Time Series Generation (2017), section 3, for training on generated rows and
testing on real ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from evaluation.confounding import probe_category
from evaluation.generated.distributions import FloatArray, check_rows
from evaluation.generated.patients import owners, patients
from evaluation.intervals import paired_difference, summarise

IntArray = npt.NDArray[np.int64]

FOLDS, REPETITIONS = 5, 3
STRENGTH = 0.01  # C of the logistic regression for columns of unit variance; many columns and few patients


@dataclass(frozen=True)
class Probe:
    """AUC of a linear classifier that tells real from generated rows: .5 if it cannot, 1 if it always can."""

    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class Transfer:
    """AUC on real held-out rows of a classifier trained on real, and of one trained on generated rows.

    Attributes:
        n: held-out patients.
        real_auc: trained on real rows.
        generated_auc: trained on generated rows.
        difference: generated minus real.
        low: lower end of the paired 95 % interval over real held-out patients.
        high: upper end.
        coherence: AUC of the classifier trained on real rows for the labels of the generated ones.
    """

    n: int
    real_auc: float
    generated_auc: float
    difference: float
    low: float
    high: float
    coherence: float


def real_or_generated(
    real: FloatArray, generated: FloatArray, *, subjects: Sequence[str] | None = None, seed: int = 0
) -> Probe:
    """Tell real from generated rows by ridge regression, cross-validated by patient.

    As many generated patients are used as there are real ones, drawn at random, or the other way round, each with all
    its rows.

    Args:
        real: (n, d), in comparable units.
        generated: (m, d), one row a patient.
        subjects: of the real rows; None if each is of another patient.
        seed: of the draw and the folds.

    Returns:
        NaN with fewer than twice as many patients a side as folds. The interval is over patients.

    Raises:
        ValueError: other columns, or values that are not finite.
    """
    check_rows(real, generated, fewest=1)
    owner = owners(subjects, len(real))
    count = min(patients(owner), len(generated))
    if count < 2 * FOLDS:
        return Probe(np.nan, np.nan, np.nan)
    random = np.random.default_rng(seed)
    chosen = random.permutation(patients(owner))[:count]
    of_chosen = [np.flatnonzero(owner == patient) for patient in chosen]
    rows = np.vstack([real[np.concatenate(of_chosen)], generated[random.permutation(len(generated))[:count]]])
    patient = np.concatenate([np.repeat(np.arange(count), [len(some) for some in of_chosen]), np.arange(count) + count])
    made = (np.arange(2 * count) >= count).astype(np.int64)  # of patients
    centred = rows - rows.mean(axis=0)
    folds = np.zeros((REPETITIONS, len(rows)), dtype=np.int64)
    for repetition in range(REPETITIONS):
        parts = StratifiedKFold(FOLDS, shuffle=True, random_state=seed + repetition).split(made, made)
        for number, (_, held) in enumerate(parts):
            folds[repetition, np.isin(patient, held)] = number
    named = pd.Series([f"patient {i}" for i in patient])
    found = probe_category(centred @ centred.T, pd.Series(made[patient].astype(str)), named, folds)
    return Probe(found["mean"], found["low"], found["high"])


def train_on_generated(
    train: tuple[FloatArray, IntArray],
    generated: tuple[FloatArray, IntArray],
    held_out: tuple[FloatArray, IntArray],
    *,
    classes: int,
    subjects: Sequence[str] | None = None,
) -> tuple[Transfer, dict[str, pd.DataFrame]]:
    """Train a classifier on generated rows, another on real ones, and test both on the same real held-out rows.

    The classifier is a logistic regression on standardised columns. Generated rows are never tested on, but for
    `coherence`, and count in no interval.

    Args:
        train: real rows (n, d) and their classes (n,), 0 to classes - 1.
        generated: the same of generated rows.
        held_out: the same of real rows that neither saw.
        classes: K ≥ 2.
        subjects: of the held-out rows; None if each is of another patient.

    Returns:
        The scores, and the predictions for held-out rows of both, `real` and `generated`; NaN and no table where a
        class is missing in training, generated or held-out rows.

    Raises:
        ValueError: other columns, or values that are not finite.
    """
    check_rows(train[0], generated[0], held_out[0], fewest=1)
    count = len(held_out[1]) if subjects is None else len(set(subjects))
    if any(len(np.unique(side[1])) < classes for side in (train, generated, held_out)):
        return Transfer(count, *[np.nan] * 6), {}
    tables = {}
    for name, (rows, target) in {"real": train, "generated": generated}.items():
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=2000)).fit(rows, target)
        tables[name] = _table(classifier.predict_proba(held_out[0]), held_out[1], subjects)
        if name == "real":
            coherent = _table(classifier.predict_proba(generated[0]), generated[1])
    scores = {name: summarise(table)["auc"]["mean"] for name, table in tables.items()}
    change = paired_difference(tables["generated"], tables["real"], "auc")
    found = Transfer(
        n=count,
        real_auc=scores["real"],
        generated_auc=scores["generated"],
        difference=change["difference"],
        low=change["low"],
        high=change["high"],
        coherence=summarise(coherent)["auc"]["mean"],
    )
    return found, tables


def _table(probabilities: FloatArray, truth: IntArray, subjects: Sequence[str] | None = None) -> pd.DataFrame:
    """Return a table of predictions as in `evaluation.intervals`; without subjects each row is one of its own."""
    names = [f"row {i}" for i in range(len(truth))]
    given = names if subjects is None else list(subjects)
    table = pd.DataFrame({"repeat": 1, "subject": given, "observation": names, "truth": truth})
    return table.assign(**{f"p_{k}": probabilities[:, k] for k in range(probabilities.shape[1])})

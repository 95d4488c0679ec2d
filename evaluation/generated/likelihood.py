"""How likely real rows are under a mixture around generated rows: held-out ones beside training ones.

A Gaussian is put on each generated row, and its width is fitted to the training rows. A copy of a training row gets a
small width, and makes that row likely and no held-out one. So the gap between training and held-out rows grows with
copying; a generator that is merely narrow is as unlikely for both.

Source: Jiralerspong et al., Feature Likelihood Divergence (2023), equations 2 to 5, without the constant that they
subtract; widths by expectation maximisation in place of gradient steps, and bounded below.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from evaluation.generated.distributions import FloatArray, Subjects, check_rows
from evaluation.generated.patients import nearest_of_each, owners, patients

STEPS = 8  # of expectation maximisation; rows of many columns choose their Gaussian at once
NARROWEST = 0.05  # width of a copy, of the root mean square distance per column between a training row and the nearest
PERMUTATIONS = 49


@dataclass(frozen=True)
class FeatureLikelihood:
    """Feature likelihoods, per column and times 100, small is good.

    Attributes:
        training: of training rows.
        held_out: of held-out rows.
        gap: held out minus training; about 0 if training rows are no nearer to generated ones than others.
        p: share of random divisions of all real patients whose gap is at least as large, in (0, 1].
    """

    training: float
    held_out: float
    gap: float
    p: float


def feature_likelihood(
    train: FloatArray,
    held_out: FloatArray,
    generated: FloatArray,
    *,
    subjects: Subjects = (None, None),
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> FeatureLikelihood:
    """Return the feature likelihood of training and held-out rows, their gap, and how often chance gives as much.

    Each division takes other real rows for training rows and fits the widths to them. A generator that was fitted to
    the training rows, honestly, is somewhat nearer to them than chance would be: look at the gap too.

    Args:
        train: (n, d), what the generator was fitted to; in comparable units.
        held_out: (m, d), real rows that it never saw.
        generated: (g, d).
        subjects: of training and of held-out rows; None if each row is of another patient. No patient is in both.
        permutations: random divisions of the patients, with all their rows.
        seed: of the divisions.

    Raises:
        ValueError: fewer than two rows, other columns, or values that are not finite.
    """
    check_rows(train, held_out, generated, fewest=2)
    real = np.vstack([train, held_out])
    columns = real.shape[1]
    squares = cdist(real, generated, "sqeuclidean") / columns  # (n + m, g)
    whose = [owners(names, len(rows)) for names, rows in zip(subjects, (train, held_out), strict=True)]
    own_patients = patients(whose[0])
    owner = np.concatenate([whose[0], own_patients + whose[1]])
    among = nearest_of_each(cdist(real, real, "sqeuclidean") / columns, owner)
    among[np.arange(len(real)), owner] = np.inf  # another session is no neighbour
    floor = max(NARROWEST**2 * float(among.min(axis=1).mean()), np.finfo(np.float64).tiny)
    first = np.arange(patients(owner)) < own_patients  # of patients
    training, other = _costs(squares, first[owner], columns, floor)
    random, as_large = np.random.default_rng([seed, 6]), 0
    for _ in range(permutations):
        own, rest = _costs(squares, random.permutation(first)[owner], columns, floor)
        as_large += rest - own >= other - training - 1e-9
    return FeatureLikelihood(training, other, other - training, (1 + as_large) / (1 + permutations))


def _costs(squares: FloatArray, first: np.ndarray, columns: int, floor: float) -> tuple[float, float]:
    """Return −100 / d · log p of the first and of the other rows, widths fitted to the first.

    Args:
        squares: mean squared difference per column between real and generated rows, (n, g).
        first: rows that widths are fitted to, (n,).
        columns: d.
        floor: smallest variance.
    """
    own = squares[first]
    variance = np.maximum(np.full(own.shape[1], own.min(axis=1).mean()), floor)
    for _ in range(STEPS):
        share = _log_parts(own, variance, columns)
        share = np.exp(share - share.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        weight = share.sum(axis=0)
        fitted = np.divide((share * own).sum(axis=0), weight, out=variance.copy(), where=weight > 1e-9)
        variance = np.maximum(fitted, floor)
    every = logsumexp(_log_parts(squares, variance, columns), axis=1) - np.log(squares.shape[1])
    costs = -100 / columns * every
    return float(costs[first].mean()), float(costs[~first].mean())


def _log_parts(squares: FloatArray, variance: FloatArray, columns: int) -> FloatArray:
    """Return the log density of each real row under each generated row's Gaussian, (n, g)."""
    parts: FloatArray = -0.5 * columns * (squares / variance + np.log(2 * np.pi * variance))
    return parts

"""What is not known of the parameters: draws from their posterior, made from the sums alone; and draws of scores.

With the prior Σ ~ IW(κ + d + 1, κ T), whose mean is T, and flat means, the posterior mean of Σ under complete data is
the estimate of `models.joint.gaussian`. Where the patients outweigh T, regressions between blocks are fitted to them
and leave too little; so a quarter of (1 − λ) d degrees of freedom is taken off, which brings intervals to their promise
(docs/synthesis.md). T is drawn too, block by block, so that its own uncertainty counts.

Missing blocks and parameters are drawn in turn (data augmentation). What a step needs of the missing scores is their
sums only, and those are drawn directly: for residuals E, (n, m), of patients whose observed scores Z = [1, s] are known
by G = ZᵀZ of rank r, EᵀZ is Gaussian and EᵀE a Gaussian square plus a Wishart matrix of n − r degrees of freedom.

Source: Tanner and Wong 1987; Schafer 1997, chapters 5 and 6.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from models.joint.blocks import FloatArray
from models.joint.gaussian import (
    JointGaussian,
    Parameters,
    Prior,
    by_pattern,
    centred,
    class_probabilities,
    fit_estimate,
    regression,
    split_columns,
)
from models.joint.sums import Sums

DRAWS = 30  # of the parameters
BURN_IN, APART = 10, 3  # steps of the chain before the first draw and between two; with nothing missing 0 and 1


def fit(sums: Sums, *, draws: int = DRAWS, seed: int = 0) -> JointGaussian:
    """Fit the joint Gaussian, with draws of its parameters.

    Args:
        sums: of training patients only.
        draws: of the parameters; 0 for none.
        seed: of the draws.

    Raises:
        TooFewPatientsError: as `fit_estimate`.
        ValueError: draws are asked for, and not every patient counts as one.
    """
    if draws and not sums.whole:
        raise ValueError("some patients count less than one; draws of the parameters need whole patients")
    model, prior = fit_estimate(sums)
    random = np.random.default_rng([seed, 14])
    whole = all(all(pattern) for _, pattern in sums.cells)
    mean, covariance = model.estimate.mean, model.estimate.covariance
    kept: list[Parameters] = []
    step = 0
    while len(kept) < draws:
        mean, covariance = _step(sums, prior, mean, covariance, random)
        step += 1
        if whole or (step > BURN_IN and (step - BURN_IN) % APART == 0):
            share = random.dirichlet(np.maximum(sums.per_class(), 1e-9))
            kept.append(Parameters(share, mean, covariance))
    return JointGaussian(model.blocks, model.estimate, tuple(kept), model.shrinkage, model.notes, model.iterations)


def draw(
    model: JointGaussian,
    rows: FloatArray,
    count: int,
    random: np.random.Generator,
    labels: NDArray[np.int64] | None = None,
    *,
    plug_in: bool = False,
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Draw the missing scores of patients, and their classes, from the model.

    New patients are drawn with rows of NaN. Each draw takes other parameters from the posterior, in turn.

    Args:
        model: fitted.
        rows: (n, d), NaN where a block is missing.
        count: of draws, S.
        random: source of chance.
        labels: the class of each patient, (n,), if it may be used; otherwise drawn from p(y | s_obs).
        plug_in: use the single best parameters as if they were known.

    Returns:
        Scores (S, n, d), observed ones as they are, and classes (S, n).
    """
    every = model.draws if model.draws and not plug_in else (model.estimate,)
    n = len(rows)
    out = np.repeat(rows[None], count, axis=0)
    classes = np.empty((count, n), dtype=np.int64)
    turn = (int(random.integers(len(every))) + np.arange(count)) % len(every)
    groups = list(by_pattern(model.blocks, rows))
    for number in dict.fromkeys(turn.tolist()):
        parameters, here = every[number], np.flatnonzero(turn == number)
        if labels is None:
            chance = class_probabilities(model, parameters, rows).cumsum(axis=1)
            classes[here] = (random.random((len(here), n, 1)) * chance[:, -1:] >= chance).sum(axis=2)
        else:
            classes[here] = labels
        for members, pattern in groups:
            seen, missing = split_columns(model.blocks, pattern)
            if len(missing) == 0:
                continue
            slope, left = regression(parameters.covariance, seen, missing)
            centre = parameters.mean[classes[np.ix_(here, members)]]  # (s, m, d)
            off = rows[np.ix_(members, seen)] - centre[:, :, seen]
            noise = random.standard_normal((len(here), len(members), len(missing))) @ np.linalg.cholesky(left).T
            out[here[:, None, None], members[:, None], missing] = centre[:, :, missing] + off @ slope.T + noise
    return out, classes


def _step(
    sums: Sums, prior: Prior, mean: FloatArray, covariance: FloatArray, random: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Draw the sums of the missing scores, then the parameters."""
    total, scatter = _completed(sums, mean, covariance, random)
    counts = sums.per_class()
    seen_classes = int((counts > 0).sum())
    step = total / np.maximum(counts, 1)[:, None]
    scatter = scatter - (step.T * counts) @ step
    target = np.zeros_like(covariance)
    for b, (inner, freedom) in enumerate(zip(prior.scatter, prior.freedom, strict=True)):
        part = np.ix_(sums.blocks.owner == b, sums.blocks.owner == b)
        target[part] = inverse_wishart(freedom + len(inner) - 1, inner, random)
    width = len(covariance)
    degrees = prior.weight + width + 1 + counts.sum() - seen_classes - (1 - prior.shrinkage) * width / 4
    degrees = max(float(degrees), width + 2)
    drawn = inverse_wishart(degrees, scatter + prior.weight * target, random)
    noise = random.standard_normal(mean.shape) @ np.linalg.cholesky(drawn).T
    return mean + step + noise / np.sqrt(np.maximum(counts, 1))[:, None], drawn


def _completed(
    sums: Sums, mean: FloatArray, covariance: FloatArray, random: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """As `gaussian.complete`, with the sums of the missing scores drawn and not in expectation."""
    total, scatter = np.zeros_like(mean), np.zeros_like(covariance)
    for (label, pattern), cell in sums.cells.items():
        seen, missing = split_columns(sums.blocks, pattern)
        first, second = centred(cell, mean[label, seen])
        total[label, seen] += first
        scatter[np.ix_(seen, seen)] += second
        if len(missing) == 0:
            continue
        slope, left = regression(covariance, seen, missing)
        gram = np.block([[np.full((1, 1), float(cell.count)), first[None]], [first[:, None], second]])
        values, vectors = np.linalg.eigh(gram)
        signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(values))])
        vectors = vectors * signs  # which rounding decides otherwise, and with them what the same seed draws
        rank = min(int(cell.count), int((values > 1e-10 * values[-1]).sum()))
        root = vectors[:, -rank:] * np.sqrt(values[-rank:])  # G = root rootᵀ
        spread = np.linalg.cholesky(left)
        known = random.standard_normal((len(missing), rank))
        free = random.standard_normal((len(missing), int(cell.count) - rank))
        with_seen = spread @ known @ root.T  # EᵀZ
        cross = slope @ second + with_seen[:, 1:]
        own = slope @ second @ slope.T + spread @ (known @ known.T + free @ free.T) @ spread.T
        mixed = with_seen[:, 1:] @ slope.T  # Eᵀ times the predicted part
        total[label, missing] += slope @ first + with_seen[:, 0]
        scatter[np.ix_(missing, seen)] += cross
        scatter[np.ix_(seen, missing)] += cross.T
        scatter[np.ix_(missing, missing)] += own + mixed + mixed.T
    return total, scatter


def inverse_wishart(degrees: float, scale: FloatArray, random: np.random.Generator) -> FloatArray:
    """Draw from the inverse Wishart distribution, mean scale / (degrees − d − 1).

    Args:
        degrees: of freedom, more than d − 1.
        scale: (d, d), positive definite.
        random: source of chance.

    Source: Bartlett's decomposition: for A lower triangular, A_ii² ~ χ²(degrees − i), A Aᵀ is Wishart.
    """
    d = len(scale)
    factor = np.tril(random.standard_normal((d, d)), -1)
    np.fill_diagonal(factor, np.sqrt(random.chisquare(degrees - np.arange(d))))
    root = solve_triangular(factor, np.linalg.cholesky(scale).T, lower=True)  # (d, d): rootᵀ root is the draw
    return root.T @ root

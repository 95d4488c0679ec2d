"""The joint Gaussian where a block is missing for what it would have shown, by a stated reason.

    P(lost | x, z) = 1 − exp(−exp(γ · z + slope · x)),

x the score of the lost block along one direction, in standard deviations over all patients, z what was seen: 1, the
class, and x as the other blocks foretell it. This is what the probability of being lost becomes when patients are drawn
one after the other in proportion to exp(slope · x), as `cohort.missingness.hide_scans` draws them. γ is learnt. **The
slope is stated, never learnt**: the scores that would tell it are the ones that nobody saw.

EM as in `models.joint.gaussian`, with another expectation for patients who lack the block: their Gaussian along the
direction is weighted with P(lost | x, z), on a quadrature grid, and the rest of the block follows by regression. The
scale of x is that of the parameters at the time, so a step is a fixed point's and not exactly EM's. It needs every
patient's scores, not sums: nothing can be merged with it or taken out of it.

A slope that is stated wrongly harms, and what was seen does not tell which is wrong (docs/results/missingness.md).

Source: Heckman 1979, Econometrica 47:153 (a selection equation beside the outcome's); Little and Rubin 2020,
"Statistical analysis with missing data", chapter 15 (a stated slope as sensitivity analysis).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.joint.blocks import Blocks, FloatArray
from models.joint.gaussian import (
    JointGaussian,
    Parameters,
    by_pattern,
    condition,
    fit_estimate,
    regression,
    split_columns,
)
from models.joint.sums import sums_of

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / WEIGHTS.sum()  # of a standard normal at NODES
ITERATIONS = 400
TOLERANCE = 1e-4  # largest change of a mean or covariance, in standard deviations, at which the steps have converged
LARGEST_LOG = 60.0  # of a rate, either way
PRIOR_SD = 2.0  # of γ but for its first number, so that a class all of whom lack the block has a finite one
NEWTON_STEPS = 25


@dataclass(frozen=True)
class Reason:
    """Why a block is missing, as stated.

    Attributes:
        block: that is lost.
        direction: in the scores of the block, (d_b,).
        slope: log of how much likelier a patient is the next to lose it, a standard deviation along the direction.
    """

    block: str
    direction: FloatArray
    slope: float

    def along(self, blocks: Blocks) -> FloatArray:
        """Return the direction in all scores, (d,), of length 1.

        Raises:
            ValueError: its length is not that of the block, or all its numbers are 0.
        """
        part = blocks.slice_of(self.block)
        length = float(np.linalg.norm(self.direction))
        if len(self.direction) != part.stop - part.start or not length > 0:
            raise ValueError(
                f"a direction of {len(self.direction)} numbers and length {length:g} for {self.block}, which has "
                f"{part.stop - part.start}; expected as many, not all 0"
            )
        along = np.zeros(blocks.width)
        along[part] = self.direction / length
        return along


@dataclass(frozen=True)
class Selected:
    """The parameters under a stated reason.

    Attributes:
        parameters: of the Gaussian of all patients.
        lost: expected score along the direction of each patient who lacks the block, (m,), in the order of the rows.
        spread: standard deviation of that score over all patients.
        iterations: taken.
        converged: whether the steps had come to rest.
    """

    parameters: Parameters
    lost: FloatArray
    spread: float
    iterations: int
    converged: bool


@dataclass(frozen=True)
class _Group:
    """Patients of one class and pattern."""

    label: int
    rows: NDArray[np.int64]
    seen: NDArray[np.int64]
    missing: NDArray[np.int64]


@dataclass(frozen=True)
class _Expected:
    """What a step needs, in expectation.

    Attributes:
        total: Σ (s − μ_k) of each class, (K, d).
        scatter: Σ (s − μ_k)(s − μ_k)ᵀ, (d, d).
        present: x of patients who have the block, (p,).
        had: row of each of them, (p,).
        grid: x of those who lack it, (m, q).
        chance: of each point of the grid, (m, q), sums of 1.
        lost: expected score along the direction, (m,).
        order: row of each of them, (m,).
    """

    total: FloatArray
    scatter: FloatArray
    present: FloatArray
    had: NDArray[np.int64]
    grid: FloatArray
    chance: FloatArray
    lost: FloatArray
    order: NDArray[np.int64]


def fit_selected(rows: FloatArray, labels: NDArray[np.int64], blocks: Blocks, classes: int, reason: Reason) -> Selected:
    """Fit mean and covariance under a stated reason; a slope of 0 gives what `fit_estimate` gives.

    Args:
        rows: scores of training patients, (n, d), NaN where a block is missing.
        labels: (n,), in [0, K).
        blocks: layout of the scores.
        classes: K.
        reason: stated.

    Raises:
        TooFewPatientsError: as `fit_estimate`.
        ValueError: nobody lacks the block, or the direction does not fit it.
    """
    along = reason.along(blocks)
    there = ~np.isnan(rows).all(axis=1)
    rows, labels = rows[there], np.asarray(labels, dtype=np.int64)[there]
    if not np.isnan(rows[:, blocks.slice_of(reason.block).start]).any():
        raise ValueError(f"nobody lacks {reason.block}; there is nothing to state a reason for")
    model, prior = fit_estimate(sums_of(rows, labels, blocks, classes))
    groups = _groups(rows, labels, blocks)
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    share, mean, covariance = model.estimate.share, model.estimate.mean, model.estimate.covariance
    known = _foretold(rows, labels, blocks, model.estimate, reason, along)
    gamma, steps, converged = np.zeros(known.shape[1]), 0, False
    while not converged and steps < ITERATIONS:
        steps += 1
        found = _expect(rows, groups, Parameters(share, mean, covariance), along, reason.slope, known @ gamma)
        gamma = _learn(gamma, known, reason.slope, found)
        step = found.total / np.maximum(counts, 1)[:, None]
        scatter = found.scatter - (step.T * counts) @ step
        new = (scatter + prior.weight * prior.target) / (counts.sum() - (counts > 0).sum() + prior.weight)
        sd = np.sqrt(np.diag(new))
        change = max(np.abs(step / sd).max(), np.abs((new - covariance) / np.outer(sd, sd)).max())
        mean, covariance = mean + step, (new + new.T) / 2
        converged = bool(change < TOLERANCE)
    parameters = Parameters(share, mean, covariance)
    found = _expect(rows, groups, parameters, along, reason.slope, known @ gamma)
    lost = found.lost[np.argsort(found.order)]
    return Selected(parameters, lost, _of_everybody(parameters, along)[1], steps, converged)


def _groups(rows: FloatArray, labels: NDArray[np.int64], blocks: Blocks) -> list[_Group]:
    """Return the patients of each class and pattern."""
    found = []
    for members, pattern in by_pattern(blocks, rows):
        columns = split_columns(blocks, pattern)
        found += [_Group(int(k), members[labels[members] == k], *columns) for k in np.unique(labels[members])]
    return found


def _foretold(
    rows: FloatArray,
    labels: NDArray[np.int64],
    blocks: Blocks,
    at_random: Parameters,
    reason: Reason,
    along: FloatArray,
) -> FloatArray:
    """Return z, (n, 1 + K − 1 + 1): 1, the class, and x as class and other blocks foretell it, standardised."""
    hidden = rows.copy()
    hidden[:, blocks.slice_of(reason.block)] = np.nan
    x = condition(JointGaussian(blocks, at_random), hidden, labels).mean @ along
    x = (x - x.mean()) / (x.std() or 1.0)
    kinds = [labels == k for k in np.unique(labels)[1:]]
    return np.stack([np.ones(len(rows)), *kinds, x], axis=1).astype(np.float64)


def _expect(
    rows: FloatArray,
    groups: Sequence[_Group],
    parameters: Parameters,
    along: FloatArray,
    slope: float,
    base: FloatArray,
) -> _Expected:
    """Complete the scores in expectation, given that who lacks the block has lost it by the stated reason.

    Args:
        rows: scores, (n, d).
        groups: of them.
        parameters: at the time.
        along: the direction, (d,).
        slope: stated.
        base: γ · z of each patient, (n,).
    """
    centre, spread = _of_everybody(parameters, along)
    total, scatter = np.zeros_like(parameters.mean), np.zeros_like(parameters.covariance)
    present: list[tuple[FloatArray, NDArray[np.int64]]] = []
    parts: list[tuple[FloatArray, FloatArray, FloatArray, NDArray[np.int64]]] = []
    for group in groups:
        middle, missing = parameters.mean[group.label], group.missing
        off = np.zeros((len(group.rows), len(middle)))
        off[:, group.seen] = rows[np.ix_(group.rows, group.seen)] - middle[group.seen]
        regressed, left = regression(parameters.covariance, group.seen, missing)
        off[:, missing] = off[:, group.seen] @ regressed.T
        if along[missing].any():
            pull = left @ along[missing]
            variance = float(along[missing] @ pull)
            before = (off + middle) @ along
            u = before[:, None] + np.sqrt(variance) * NODES
            x = (u - centre) / spread
            weighted = WEIGHTS * -np.expm1(-_rate(base[group.rows, None] + slope * x))
            chance = weighted / np.maximum(weighted.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
            after = (chance * u).sum(axis=1)
            inner = float((chance * (u - after[:, None]) ** 2).sum(axis=1).mean())
            off[:, missing] += np.outer(after - before, pull / variance)
            left = left - np.outer(pull, pull) * (variance - inner) / variance**2
            parts.append((x, chance, after, group.rows))
        else:
            present.append((((off + middle) @ along - centre) / spread, group.rows))
        total[group.label] += off.sum(axis=0)
        scatter += off.T @ off
        scatter[np.ix_(missing, missing)] += len(group.rows) * left
    grid, chance, lost, order = (np.concatenate(each) for each in zip(*parts, strict=True))
    there = np.concatenate([x for x, _ in present]) if present else np.zeros(0)
    had = np.concatenate([members for _, members in present]) if present else np.zeros(0, dtype=np.int64)
    return _Expected(total, scatter, there, had, grid, chance, lost, order)


def _of_everybody(parameters: Parameters, along: FloatArray) -> tuple[float, float]:
    """Return mean and standard deviation of the score along a direction over all classes."""
    mean, covariance = parameters.total()
    return float(along @ mean), float(np.sqrt(along @ covariance @ along))


def _rate(log_rate: FloatArray) -> FloatArray:
    """Return exp(γ · z + slope · x); P(lost) is 1 − exp of minus that."""
    return np.asarray(np.exp(np.clip(log_rate, -LARGEST_LOG, LARGEST_LOG)))


def _learn(gamma: FloatArray, known: FloatArray, slope: float, found: _Expected) -> FloatArray:
    """Return γ of the largest expected likelihood, by Newton's method; the likelihood is concave.

    Args:
        gamma: where to start, (q,).
        known: z, (n, q).
        slope: stated.
        found: what is expected of x.
    """
    penalty = np.full(len(gamma), 1 / PRIOR_SD**2)
    penalty[0] = 0.0
    with_it, without = known[found.had], known[found.order]
    for _ in range(NEWTON_STEPS):
        there = _rate(with_it @ gamma + slope * found.present)
        rate = _rate((without @ gamma)[:, None] + slope * found.grid)
        odds_lost = rate / np.expm1(np.minimum(rate, 700.0))
        curved = np.maximum(
            odds_lost * (rate + odds_lost - 1), 0.0
        )  # minus the second derivative of log(1 − exp(−rate))
        gradient = without.T @ (found.chance * odds_lost).sum(axis=1) - with_it.T @ there - penalty * gamma
        hessian = (without.T * (found.chance * curved).sum(axis=1)) @ without + (with_it.T * there) @ with_it
        move = np.linalg.solve(hessian + np.diag(penalty + 1e-9), gradient)
        gamma = gamma + move * min(1.0, 2.0 / max(float(np.abs(move).max()), 1e-12))
        if np.abs(move).max() < 1e-8:
            break
    return gamma

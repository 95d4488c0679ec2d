"""A joint Gaussian of all blocks of scores: one mean a class, one covariance for all, learnt from sums.

s | y = k  ~  N(μ_k, Σ),  y ~ π. Blocks may be missing at random; EM completes the sums in expectation. With n patients
of K classes and the completed scatter S about the class means,

    Σ = (S + κ T) / (n − K + κ),   κ = (p − K) λ / (1 − λ),

with p the patients who have two blocks together (n if nothing is missing). T is the block-diagonal matrix of what
patients with each block say of it, its blocks shrunk to their diagonals in turn. λ, like Ledoit and Wolf's, is the
share of the squared covariances between blocks that is noise, with the Gaussian variance of a covariance in place of
fourth moments, which sums do not hold.

Source: Dempster, Laird and Rubin 1977 (EM); Schäfer and Strimmer 2005, equation 7 (λ towards a target that keeps some
entries); Schafer 1997, "Analysis of incomplete multivariate data" (EM on sums).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import logsumexp

from models.joint.blocks import Blocks, FloatArray, Pattern
from models.joint.sums import Cell, Sums

LARGEST_LAMBDA = 0.98  # beyond, the target outweighs the patients 49 to 1 and nothing changes any more
SMALLEST_VARIANCE = 1e-8  # of the mean variance of all scores; a score that is constant has it
ITERATIONS = 300  # of EM at most
TOLERANCE = 1e-7  # largest change of a parameter, in standard deviations, at which EM has converged
SPARE = 2  # patients that a block needs beyond one a class


class TooFewPatientsError(ValueError):
    """A block has too few training patients for a mean a class and a covariance; the message says which."""


@dataclass(frozen=True)
class Parameters:
    """Of the Gaussian.

    Attributes:
        share: of each class, π, (K,).
        mean: of each class, μ, (K, d).
        covariance: Σ within classes, (d, d).
    """

    share: FloatArray
    mean: FloatArray
    covariance: FloatArray

    def total(self) -> tuple[FloatArray, FloatArray]:
        """Return the mean (d,) and covariance (d, d) over all classes, differences of class means included."""
        mean = self.share @ self.mean
        centred = self.mean - mean
        return mean, self.covariance + (centred.T * self.share) @ centred


@dataclass(frozen=True)
class JointGaussian:
    """The fitted model.

    Attributes:
        blocks: layout of the scores.
        estimate: the best single parameters.
        draws: parameters from their posterior, for intervals that include what is not known of them; may be empty.
        shrinkage: λ between blocks.
        notes: sentences on what could not be learnt.
        iterations: EM took.
    """

    blocks: Blocks
    estimate: Parameters
    draws: tuple[Parameters, ...] = ()
    shrinkage: float = 0.0
    notes: tuple[str, ...] = field(default=())
    iterations: int = 0

    @property
    def classes(self) -> int:
        """K."""
        return len(self.estimate.share)


@dataclass(frozen=True)
class Prior:
    """What shrinks the covariance.

    Attributes:
        target: T, block-diagonal, (d, d).
        weight: κ, in patients.
        shrinkage: λ.
        scatter: of each block about the class means of those who have it, (d_b, d_b).
        freedom: patients with the block less classes among them, per block.
    """

    target: FloatArray
    weight: float
    shrinkage: float
    scatter: tuple[FloatArray, ...]
    freedom: tuple[int, ...]


def fit_estimate(sums: Sums, *, tolerance: float = TOLERANCE) -> tuple[JointGaussian, Prior]:
    """Fit the single best parameters by EM; see `models.joint.posterior.fit` for the model with its uncertainty.

    Args:
        sums: of training patients.
        tolerance: largest change of a parameter, in standard deviations, at which EM stops.

    Raises:
        TooFewPatientsError: a block has fewer than one patient a class (of those that have it) and two more.
    """
    mean, notes = _class_means(sums)
    prior = _prior(sums, mean)
    counts = sums.per_class()
    share = counts / counts.sum()
    covariance = prior.target.copy()
    converged, steps = False, 0
    while not converged and steps < ITERATIONS:
        steps += 1
        total, scatter = complete(sums, mean, covariance)
        step = total / np.maximum(counts, 1)[:, None]
        scatter = scatter - (step.T * counts) @ step
        new = (scatter + prior.weight * prior.target) / (counts.sum() - (counts > 0).sum() + prior.weight)
        spread = np.sqrt(np.diag(new))
        change = max(np.abs(step / spread).max(), np.abs((new - covariance) / np.outer(spread, spread)).max())
        mean, covariance = mean + step, new
        converged = bool(change < tolerance)
    if not converged:
        notes.append(
            f"EM had not converged after {ITERATIONS} steps: too many scans are missing for the links between them"
        )
    estimate = Parameters(share, mean, covariance)
    return JointGaussian(sums.blocks, estimate, (), prior.shrinkage, (*notes, *_unlinked(sums)), steps), prior


def complete(sums: Sums, mean: FloatArray, covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Complete sums in expectation, about the given class means.

    Returns:
        Σ (s − μ_k) for each class, (K, d), and Σ (s − μ_k)(s − μ_k)ᵀ over all, (d, d).
    """
    total, scatter = np.zeros_like(mean), np.zeros_like(covariance)
    for (label, pattern), cell in sums.cells.items():
        seen, missing = split_columns(sums.blocks, pattern)
        first, second = centred(cell, mean[label, seen])
        slope, left = regression(covariance, seen, missing)
        total[label, seen] += first
        scatter[np.ix_(seen, seen)] += second
        if len(missing):
            cross = slope @ second
            total[label, missing] += slope @ first
            scatter[np.ix_(missing, seen)] += cross
            scatter[np.ix_(seen, missing)] += cross.T
            scatter[np.ix_(missing, missing)] += cross @ slope.T + cell.count * left
    return total, scatter


def centred(cell: Cell, mean: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return Σ (s − m), (o,), and Σ (s − m)(s − m)ᵀ, (o, o), of a cell about a mean (o,)."""
    first = cell.total - cell.count * mean
    cross = np.outer(cell.total, mean)
    return first, cell.outer - cross - cross.T + cell.count * np.outer(mean, mean)


def split_columns(blocks: Blocks, pattern: Pattern) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of the numbers that a pattern has, and of those it lacks."""
    return blocks.columns(pattern), blocks.columns(tuple(not there for there in pattern))


def regression(
    covariance: FloatArray, seen: NDArray[np.int64], missing: NDArray[np.int64]
) -> tuple[FloatArray, FloatArray]:
    """Return the regression of missing on seen numbers, Σ_mo Σ_oo⁻¹ (m, o), and what it leaves, (m, m)."""
    if len(seen) == 0:
        return np.zeros((len(missing), 0)), covariance[np.ix_(missing, missing)]
    cross = covariance[np.ix_(missing, seen)]
    slope = cho_solve(cho_factor(covariance[np.ix_(seen, seen)]), cross.T).T
    left = covariance[np.ix_(missing, missing)] - slope @ cross.T
    return slope, (left + left.T) / 2


# --- answers ---


@dataclass(frozen=True)
class Conditional:
    """What the model says of patients whose missing blocks are not known.

    Attributes:
        mean: of all scores, (n, d); observed ones as they are.
        covariance: (n, d, d); 0 for observed scores.
        classes: probabilities of the classes, (n, K); one-hot where the class was given.
    """

    mean: FloatArray
    covariance: FloatArray
    classes: FloatArray


def condition(
    model: JointGaussian, rows: FloatArray, labels: NDArray[np.int64] | None = None, *, plug_in: bool = False
) -> Conditional:
    """Return mean and covariance of every score given those that are there.

    Args:
        model: fitted.
        rows: (n, d), NaN where a block is missing.
        labels: the class of each patient, (n,), if it may be used; otherwise it is averaged over, with p(y | s_obs).
            Never give the labels of patients who are to be tested.
        plug_in: use the single best parameters as if they were known; otherwise posterior draws are averaged, if any.
    """
    draws = model.draws if model.draws and not plug_in else (model.estimate,)
    n, d = rows.shape
    mean, second = np.zeros((n, d)), np.zeros((n, d, d))
    classes = np.zeros((n, model.classes))
    for parameters in draws:
        shares, means, left = _conditional(model, parameters, rows, labels)
        centre = np.einsum("nk,nkd->nd", shares, means)
        off = means - centre[:, None]
        mean += centre
        second += left + np.einsum("nk,nki,nkj->nij", shares, off, off) + centre[:, :, None] * centre[:, None, :]
        classes += shares
    mean /= len(draws)
    covariance = second / len(draws) - mean[:, :, None] * mean[:, None, :]
    known = ~np.isnan(rows)
    mean[known] = rows[known]
    covariance[known[:, :, None] | known[:, None, :]] = 0.0
    return Conditional(mean, covariance, classes / len(draws))


def class_probabilities(model: JointGaussian, parameters: Parameters, rows: FloatArray) -> FloatArray:
    """Return p(y | s_obs) for given parameters, (n, K); the shares of the classes where nothing is observed."""
    joint = _log_joint(model.blocks, parameters, rows)
    return np.exp(joint - logsumexp(joint, axis=1, keepdims=True))


def log_density(
    model: JointGaussian, rows: FloatArray, labels: NDArray[np.int64] | None = None, *, plug_in: bool = False
) -> FloatArray:
    """Return log p(s_obs), or log p(s_obs | y) where labels are given, (n,); averaged over posterior draws, if any."""
    draws = model.draws if model.draws and not plug_in else (model.estimate,)
    values = []
    for parameters in draws:
        joint = _log_joint(model.blocks, parameters, rows)
        if labels is None:
            values.append(logsumexp(joint, axis=1))
        else:
            with np.errstate(divide="ignore"):
                values.append(joint[np.arange(len(rows)), labels] - np.log(parameters.share)[labels])
    return logsumexp(np.stack(values), axis=0) - np.log(len(draws))


def by_pattern(blocks: Blocks, rows: FloatArray) -> Iterator[tuple[NDArray[np.int64], Pattern]]:
    """Yield the rows of each pattern."""
    patterns = blocks.patterns(rows)
    for pattern in sorted(set(patterns)):
        yield np.array([i for i, each in enumerate(patterns) if each == pattern], dtype=np.int64), pattern


def _conditional(
    model: JointGaussian, parameters: Parameters, rows: FloatArray, labels: NDArray[np.int64] | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return class shares (n, K), means given each class (n, K, d) and the covariance given a class (n, d, d)."""
    n, d = rows.shape
    if labels is None:
        shares = class_probabilities(model, parameters, rows)
    else:
        shares = np.eye(model.classes)[np.asarray(labels, dtype=np.int64)]
    means, left = np.zeros((n, model.classes, d)), np.zeros((n, d, d))
    for members, pattern in by_pattern(model.blocks, rows):
        seen, missing = split_columns(model.blocks, pattern)
        slope, rest = regression(parameters.covariance, seen, missing)
        given = rows[np.ix_(members, seen)]
        for k, centre in enumerate(parameters.mean):
            means[members[:, None], k, seen] = given
            means[members[:, None], k, missing] = centre[missing] + (given - centre[seen]) @ slope.T
        left[np.ix_(members, missing, missing)] = rest
    return shares, means, left


def _log_joint(blocks: Blocks, parameters: Parameters, rows: FloatArray) -> FloatArray:
    """Return log π_k + log N(s_obs; μ_k, Σ), (n, K)."""
    with np.errstate(divide="ignore"):  # a class without training patients has no share
        out = np.repeat(np.log(parameters.share)[None], len(rows), axis=0)
    for members, pattern in by_pattern(blocks, rows):
        seen = blocks.columns(pattern)
        if len(seen) == 0:
            continue
        factor = cho_factor(parameters.covariance[np.ix_(seen, seen)], lower=True)
        log_root = np.log(np.diag(factor[0])).sum()
        for k, centre in enumerate(parameters.mean):
            off = rows[np.ix_(members, seen)] - centre[seen]
            squares = np.einsum("nd,nd->n", off, cho_solve(factor, off.T).T)
            out[members, k] += -0.5 * (squares + len(seen) * np.log(2 * np.pi)) - log_root
    return out


# --- where EM starts ---


def _class_means(sums: Sums) -> tuple[FloatArray, list[str]]:
    """Return the mean of each class over those who have each block, (K, d), and notes.

    Where no patient of a class has a block, its mean is that over the other classes; EM moves it by what the other
    blocks say.
    """
    blocks, has = sums.blocks, sums.with_block()
    total = np.zeros((sums.classes, blocks.width))
    for (label, pattern), cell in sums.cells.items():
        total[label, blocks.columns(pattern)] += cell.total
    for name, patients in zip(blocks.names, has.T, strict=True):
        needed = int((patients > 0).sum()) + SPARE
        needed = max(needed, SPARE + 1)
        if patients.sum() < needed:
            raise TooFewPatientsError(
                f"{name}: {patients.sum()} training patients have it; a joint model needs {needed} or more. Leave it "
                "out, or add patients"
            )
    count = has[:, blocks.owner]
    mean = np.where(count > 0, total / np.maximum(count, 1), total.sum(axis=0) / count.sum(axis=0))
    notes = [
        f"{blocks.names[b]}: no training patient of class {k} has it; its mean there is that of the other classes, "
        "moved by what the other scans say"
        for k, b in np.argwhere((has == 0) & (sums.per_class()[:, None] > 0)).tolist()
    ]
    return mean, notes


def _prior(sums: Sums, mean: FloatArray) -> Prior:
    """Return the target of the shrinkage and its weight.

    The scatter of two blocks is taken over the patients that have both.
    """
    blocks, owner = sums.blocks, sums.blocks.owner
    scatter = np.zeros((blocks.width,) * 2)
    for (label, pattern), cell in sums.cells.items():
        seen = blocks.columns(pattern)
        scatter[np.ix_(seen, seen)] += centred(cell, mean[label, seen])[1]
    has, pairs = sums.with_block(), sums.pairs()
    freedom = pairs.diagonal() - (has > 0).sum(axis=0)
    both = np.maximum(pairs - (sums.per_class() > 0).sum(), 1)[np.ix_(owner, owner)].astype(np.float64)
    covariance = scatter / both
    variance = np.diag(scatter) / freedom[owner]
    floor = SMALLEST_VARIANCE * max(float(variance.mean()), np.finfo(np.float64).tiny)
    variance = np.maximum(variance, floor)
    same = owner[:, None] == owner
    target, inner = np.zeros_like(scatter), []
    for b in range(len(blocks.names)):
        part = np.ix_(owner == b, owner == b)
        own = scatter[part] / freedom[b]
        np.fill_diagonal(own, variance[owner == b])
        noise = _noise_share(own, np.full_like(own, freedom[b]), ~np.eye(len(own), dtype=bool))
        own = (1 - noise) * own + noise * np.diag(np.diag(own))
        target[part] = own
        inner.append(own * freedom[b])
    between = ~same & (pairs > len(has))[np.ix_(owner, owner)]
    np.fill_diagonal(covariance, variance)
    shrinkage = min(_noise_share(covariance, both, between), LARGEST_LAMBDA) if between.any() else LARGEST_LAMBDA
    # κ is weighed against the patients who have both blocks; EM completes the others by what it already believes.
    linked = both[between] if between.any() else both[same]
    weight = float(shrinkage / (1 - shrinkage) / (1 / linked).mean())
    return Prior(target, weight, shrinkage, tuple(inner), tuple(int(f) for f in freedom))


def _noise_share(covariance: FloatArray, freedom: FloatArray, entries: NDArray[np.bool_]) -> float:
    """Return the share of the squared correlations at some entries that is noise, from 0 to 1.

    The variance of a correlation is about (1 + r²) / freedom before any other is known.
    """
    spread = np.sqrt(np.diag(covariance))
    squares = (covariance / np.outer(spread, spread))[entries] ** 2
    if squares.sum() == 0:
        return 1.0
    return float(min(1.0, ((1 + squares) / freedom[entries]).sum() / squares.sum()))


def _unlinked(sums: Sums) -> list[str]:
    """Say which blocks no patient has together: what links them is the class, and blocks that both are linked to."""
    pairs, names = sums.pairs(), sums.blocks.names
    return [
        f"no training patient has both {names[a]} and {names[b]}: conditional independence assumed, so they are linked "
        "through the class and through what each shares with the others alone"
        for a in range(len(names))
        for b in range(a + 1, len(names))
        if pairs[a, b] == 0
    ]

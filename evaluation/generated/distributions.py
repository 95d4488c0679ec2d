"""Distances between two distributions, each with what it comes to where there is no difference.

Source: Bińkowski et al., Demystifying MMD GANs (2018), section 3, for the kernel distance; Gretton et al., A Kernel
Two-Sample Test (2012), equation 3 and section 5, for its estimate and the test by permutation; Heusel et al. (2017) for
the Fréchet distance; Chong and Forsyth, Effectively Unbiased FID (2020), section 4, for its extrapolation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluation.generated.patients import mean_over, one_each, owners, patients

FloatArray = npt.NDArray[np.float64]
Subjects = tuple[Sequence[str] | None, Sequence[str] | None]

FEWEST_FOR_FRECHET = 8  # real rows; halves of fewer have hardly a covariance
EXTRAPOLATED_FROM = (0.5, 0.6, 0.75, 0.9, 1.0)  # shares of the rows
_PERMUTATIONS_AT_ONCE = 512


@dataclass(frozen=True)
class KernelDistance:
    """Unbiased squared kernel distance and its test.

    Attributes:
        value: 0 on average where there is no difference, so it may be negative.
        p: share of random divisions of all patients whose value is at least as large, in (0, 1].
    """

    value: float
    p: float


@dataclass(frozen=True)
class FrechetDistance:
    """Fréchet distance of generated from real rows, beside that of real from real ones, at the same numbers of rows.

    All in units of the real rows' total variance. NaN where there are too few rows.

    Attributes:
        rows: on either side.
        value: mean over random subsets of both.
        null: mean over random halves of the real rows.
        null_high: 95 % of halves are below it.
        extrapolated: value for endlessly many rows, by a line in 1 / rows; it may come below 0.
        null_extrapolated: the same of halves of the real rows, which are alike: how far off the extrapolation is.
    """

    rows: int
    value: float
    null: float
    null_high: float
    extrapolated: float
    null_extrapolated: float


def polynomial_kernel(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return (x·y / d + 1)³ for rows of a (n, d) and b (m, d), (n, m)."""
    kernel: FloatArray = (a @ b.T / a.shape[1] + 1) ** 3
    return kernel


def kernel_distance(a: FloatArray, b: FloatArray) -> float:
    """Return the unbiased squared kernel distance of two samples with the polynomial kernel.

    Args:
        a: (n, d), two rows at least.
        b: (m, d), two rows at least.

    Raises:
        ValueError: fewer rows, another number of columns, or values that are not finite.
    """
    check_rows(a, b, fewest=2)
    kernel = polynomial_kernel(*_joined(a, b))
    return float(_distances(kernel, _membership(len(a), len(a) + len(b))[np.newaxis])[0])


def kernel_test(
    a: FloatArray, b: FloatArray, *, subjects: Subjects = (None, None), permutations: int = 1000, seed: int = 0
) -> KernelDistance:
    """Return the kernel distance of two samples, and how often chance alone gives as much.

    With several rows of a patient each patient counts once, by the mean kernel over its rows, and rows of one patient
    are not compared with each other: that is the mean distance over all choices of one row of each. Patients are
    divided with all their rows.

    Args:
        a: (n, d).
        b: (m, d).
        subjects: of the rows of both; None if each row is of another patient. No patient is in both samples.
        permutations: random divisions of all patients into as many as each sample has.
        seed: of the divisions.

    Raises:
        ValueError: as `kernel_distance`, or fewer than two patients in a sample.
    """
    check_rows(a, b, fewest=2)
    owner = [owners(names, len(rows)) for names, rows in zip(subjects, (a, b), strict=True)]
    count = [patients(each) for each in owner]
    if min(count) < 2:
        raise ValueError("rows of 1 patient, at least 2 patients needed")
    kernel = polynomial_kernel(*_joined(a, b))
    if sum(count) < len(kernel):
        weights = mean_over(np.concatenate([owner[0], count[0] + owner[1]]))
        kernel = weights @ kernel @ weights.T
    first = _membership(count[0], sum(count))
    value = float(_distances(kernel, first[np.newaxis])[0])
    random = np.random.default_rng(seed)
    as_large = 0
    for start in range(0, permutations, _PERMUTATIONS_AT_ONCE):
        some = min(_PERMUTATIONS_AT_ONCE, permutations - start)
        divided = random.permuted(np.repeat(first[np.newaxis], some, axis=0), axis=1)
        as_large += int((_distances(kernel, divided) >= value - 1e-12 * max(1.0, abs(value))).sum())
    return KernelDistance(value, (1 + as_large) / (1 + permutations))


def frechet_distance(a: FloatArray, b: FloatArray) -> float:
    """Return |μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½), covariances with n - 1.

    The trace of the root is the sum of the singular values of A Bᵀ, with Σ_a = Aᵀ A and Σ_b = Bᵀ B from centred rows,
    so that no root of a singular matrix is needed, nor a d × d one where there are fewer rows.

    Args:
        a: (n, d), two rows at least.
        b: (m, d), two rows at least.

    Raises:
        ValueError: as `kernel_distance`.
    """
    check_rows(a, b, fewest=2)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    root_a, root_b = (a - mean_a) / np.sqrt(len(a) - 1), (b - mean_b) / np.sqrt(len(b) - 1)
    shared = np.linalg.svd(_short(root_a) @ _short(root_b).T, compute_uv=False).sum()
    return float(((mean_a - mean_b) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * shared)


def frechet_with_null(
    real: FloatArray,
    generated: FloatArray,
    *,
    subjects: Sequence[str] | None = None,
    draws: int = 50,
    seed: int = 0,
) -> FrechetDistance:
    """Return the Fréchet distance with that of random halves of the real rows, and both for endlessly many rows.

    The estimate grows with columns and falls with rows: with 512 columns and 27 rows, a distribution is as far from
    itself as its own variance. So both sides, and both distances, have the same numbers of rows. Sessions of one
    patient are alike and would make the halves so; each draw takes one row of each patient.

    Args:
        real: (n, d).
        generated: (m, d).
        subjects: of the real rows; None if each is of another patient.
        draws: random halves and subsets.
        seed: of the draws.

    Returns:
        All NaN, `rows` 0, with fewer than `FEWEST_FOR_FRECHET` real patients or half as many generated ones, or where
        all real rows are alike.

    Raises:
        ValueError: as `kernel_distance`.
    """
    check_rows(real, generated, fewest=1)
    owner = owners(subjects, len(real))
    count = patients(owner)
    rows = min(count // 2, len(generated))
    unit = float(real.var(axis=0).sum())
    if count < FEWEST_FOR_FRECHET or rows < FEWEST_FOR_FRECHET // 2 or not unit > 0:
        return FrechetDistance(0, *[np.nan] * 5)
    random, chosen = np.random.default_rng(seed), np.random.default_rng([seed, 7])
    sizes = np.unique([max(2, round(share * rows)) for share in EXTRAPOLATED_FROM])
    values, nulls = np.empty((draws, len(sizes))), np.empty((draws, len(sizes)))
    for draw in range(draws):
        order = one_each(owner, chosen)[random.permutation(count)]
        one, other = real[order[:rows]], real[order[rows : 2 * rows]]
        made = generated[random.permutation(len(generated))[:rows]]
        for column, size in enumerate(sizes):
            values[draw, column] = frechet_distance(one[:size], made[:size]) / unit
            nulls[draw, column] = frechet_distance(one[:size], other[:size]) / unit
    return FrechetDistance(
        rows=rows,
        value=float(values[:, -1].mean()),
        null=float(nulls[:, -1].mean()),
        null_high=float(np.quantile(nulls[:, -1], 0.95)),
        extrapolated=_at_infinity(sizes, values.mean(axis=0)),
        null_extrapolated=_at_infinity(sizes, nulls.mean(axis=0)),
    )


def variance_ratio(
    real: FloatArray,
    generated: FloatArray,
    *,
    subjects: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return the generated rows' total variance as a share of the real ones', with a 95 % bootstrap interval.

    Args:
        real: (n, d).
        generated: (m, d).
        subjects: of the real rows; None if each is of another patient.
        draws: bootstrap samples of the patients of both, with all their rows.
        seed: of the draws.

    Returns:
        Ratio, low, high; NaN where a side has fewer than three patients, or all real rows are alike.

    Raises:
        ValueError: as `kernel_distance`.
    """
    check_rows(real, generated, fewest=1)
    owner = owners(subjects, len(real))
    if min(patients(owner), len(generated)) < 3 or not real.var(axis=0).sum() > 0:
        return np.nan, np.nan, np.nan
    random = np.random.default_rng(seed)
    totals = []
    for rows, whose in ((real, owner), (generated, owners(None, len(generated)))):
        count = patients(whose)
        counts = random.multinomial(count, np.full(count, 1 / count), size=draws)[:, whose]
        totals.append(_total_variances(rows, np.vstack([np.ones(len(rows)), counts])))
    with np.errstate(divide="ignore"):
        ratios = totals[1] / totals[0]
    low, high = np.quantile(ratios[1:], [0.025, 0.975])
    return float(ratios[0]), float(low), float(high)


def check_rows(*samples: FloatArray, fewest: int) -> None:
    """Check that samples are finite, have the same columns, and rows enough.

    Raises:
        ValueError: they are not; the message says what was found.
    """
    for rows in samples:
        if rows.ndim != 2 or rows.shape[1] != samples[0].shape[1] or rows.shape[1] == 0:
            shapes = ", ".join(str(each.shape) for each in samples)
            raise ValueError(f"samples {shapes}: expected rows with the same features")
        if len(rows) < fewest:
            raise ValueError(f"{len(rows)} rows, at least {fewest} needed")
        if not np.isfinite(rows).all():
            raise ValueError("a feature is not finite")


def _short(root: FloatArray) -> FloatArray:
    """Return at most as many rows as columns, with the same product rootᵀ root."""
    return np.asarray(np.linalg.qr(root, mode="r")) if len(root) > root.shape[1] else root


def _joined(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    rows = np.vstack([a, b])
    return rows, rows


def _membership(first: int, total: int) -> FloatArray:
    return (np.arange(total) < first).astype(np.float64)


def _distances(kernel: FloatArray, first: FloatArray) -> FloatArray:
    """Return the unbiased squared distance for each division; first (B, N) is 1 for rows of the first sample."""
    other = 1 - first
    n, m = first[0].sum(), other[0].sum()
    own = np.diag(kernel)
    across = first @ kernel
    within_first = (across * first).sum(axis=1) - first @ own
    between = (across * other).sum(axis=1)
    within_other = ((other @ kernel) * other).sum(axis=1) - other @ own
    result: FloatArray = within_first / (n * (n - 1)) + within_other / (m * (m - 1)) - 2 * between / (n * m)
    return result


def _at_infinity(sizes: npt.NDArray[np.int_], values: FloatArray) -> float:
    """Return the intercept of a least-squares line through the values over 1 / size; NaN from one size."""
    return float(np.polyfit(1 / sizes, values, 1)[1]) if len(sizes) > 1 else np.nan


def _total_variances(rows: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the sum of all variances (n - 1) for each weighting; rows (n, d), weights (B, n) of sums above 1."""
    centred, count = rows - rows.mean(axis=0), weights.sum(axis=1)
    means = weights @ centred / count[:, np.newaxis]
    squares = weights @ (centred**2).sum(axis=1) / count - (means**2).sum(axis=1)
    totals: FloatArray = squares * (count / (count - 1))
    return totals

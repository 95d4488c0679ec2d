"""Differential privacy of sums: a bound on what one patient can change, and Gaussian noise of a size to hide it.

Two cohorts are neighbours if one has a patient more. A patient with scores s, |s| ≤ C, is in one cell and changes its
count by 1, Σ s / C and the upper triangle of Σ s sᵀ / C² by at most 1 each: √3 together. Where quotas say who trains,
others move up or down too: see `quota_sensitivity`. Every cell that could exist is released, the empty ones too.

Source: Balle and Wang 2018, theorem 8 (the exact size of Gaussian noise for ε and δ); Dwork and Roth 2014, theorem 3.16
(ε and δ of several releases add up).
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtri

from models.joint.blocks import FloatArray
from models.joint.dense import cell_keys, cell_length, cell_vector
from models.joint.sums import Cell, Sums

ONE_ROW = float(np.sqrt(3.0))  # what a patient moves whose split depends on nobody else


@dataclass(frozen=True)
class Noise:
    """The noise of a release.

    Attributes:
        epsilon: ε.
        delta: δ.
        clip: C, largest length of a patient's scores.
        sd: σ, of a count; of a sum it is σ C, of a sum of products σ C².
    """

    epsilon: float
    delta: float
    clip: float
    sd: float


def quota_sensitivity(classes: int) -> float:
    """Return what a patient more moves at most where `cohort.splits.make_splits` decides who trains, in units of C.

    Of the patient's own class the training part takes the first of an order, one more or less than before: at most one
    row comes and two leave, √(3 + 12), or two come, √12. Of each other class rounding adds or takes one row, √3, in
    cells of its own.
    """
    return float(np.sqrt(15.0 + 3.0 * (classes - 1)))


def noise_for(epsilon: float, delta: float, clip: float, sensitivity: float = ONE_ROW) -> Noise:
    """Return the smallest Gaussian noise that keeps (ε, δ) where a neighbour's sums are at most `sensitivity` apart."""

    def excess(log_sd: float) -> float:
        ratio = sensitivity / np.exp(log_sd)
        first = log_ndtr(ratio / 2 - epsilon / ratio)
        second = epsilon + log_ndtr(-ratio / 2 - epsilon / ratio)
        return float(np.exp(first) - np.exp(second) - delta)

    return Noise(epsilon, delta, clip, float(np.exp(brentq(excess, np.log(1e-3), np.log(1e9)))))


def clipped(rows: FloatArray, most: float) -> tuple[FloatArray, float]:
    """Shorten scores (n, d; NaN where missing) to a length of at most `most`; return the share that was shortened."""
    length = np.sqrt(np.nansum(rows**2, axis=1))
    factor = np.minimum(1.0, most / np.maximum(length, np.finfo(np.float64).tiny))
    return rows * factor[:, None], float((length > most).mean()) if len(rows) else 0.0


def system_normals(count: int) -> FloatArray:
    """Return standard normal numbers of the operating system's randomness, (count,).

    Cells without a patient are published as they were drawn; from a generator such as PCG64 its state, and with it the
    noise of all other cells, could be found.
    """
    whole = np.frombuffer(secrets.token_bytes(8 * count), dtype=np.uint64) >> np.uint64(12)
    normals: FloatArray = ndtri((whole + 0.5) / 2.0**52)  # odd multiples of 2**-53, never 0 or 1
    return normals


def noisy(sums: Sums, noise: Noise, normals: Callable[[int], FloatArray] = system_normals) -> FloatArray:
    """Return every possible cell with noise, as `models.joint.dense.to_vector` without sums outside of the basis.

    Args:
        sums: of scores that were clipped at `noise.clip`.
        noise: of `noise_for`.
        normals: number → so many standard normal numbers; another than the default for tests and simulations alone.
    """
    parts = []
    for key in cell_keys(sums.blocks, sums.classes):
        size, cell = len(sums.blocks.columns(key[1])), sums.cells.get(key)
        exact = np.zeros(cell_length(sums.blocks, key)) if cell is None else cell_vector(cell)
        scale = np.concatenate([[1.0], np.full(size, noise.clip), np.full(len(exact) - 1 - size, noise.clip**2)])
        parts.append(exact + noise.sd * scale * normals(len(exact)))
    return np.concatenate(parts)


def repaired(sums: Sums, least: float) -> Sums:
    """Return noisy sums as sums of patients could be.

    Cells of fewer than `least` patients are left out; Σ s sᵀ beside n and Σ s is brought to the nearest matrix without
    negative eigenvalues.
    """
    cells = {}
    for key, cell in sums.cells.items():
        if cell.count < least:
            continue
        mean = cell.total / cell.count
        scatter = cell.outer - cell.count * np.outer(mean, mean)
        values, vectors = np.linalg.eigh((scatter + scatter.T) / 2)
        scatter = (vectors * np.maximum(values, 0)) @ vectors.T
        cells[key] = Cell(cell.count, cell.total, scatter + cell.count * np.outer(mean, mean))
    return Sums(sums.blocks, sums.classes, cells)


def noise_to_signal(sums: Sums, noise: Noise) -> float:
    """Return the standard deviation of the noise of a covariance over the mean variance, all cells taken together.

    The covariance is the sum of products over all cells, so its noise adds up too. It is for the site's own eyes: the
    signal is of its patients.
    """
    counts = sums.with_block().sum(axis=0)[sums.blocks.owner].astype(np.float64)
    total, squares = np.zeros(sums.blocks.width), np.zeros(sums.blocks.width)
    for (_, pattern), cell in sums.cells.items():
        columns = sums.blocks.columns(pattern)
        total[columns] += cell.total
        squares[columns] += np.diag(cell.outer)
    seen = counts > 0
    variance = squares[seen] / counts[seen] - (total[seen] / counts[seen]) ** 2
    share = [key[1] for key in cell_keys(sums.blocks, sums.classes)]
    cells = np.mean([sum(pattern[b] for pattern in share) for b in range(len(sums.blocks.names))])
    return float(noise.sd * noise.clip**2 * np.sqrt(cells) / counts[seen].mean() / variance.mean())

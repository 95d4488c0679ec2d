"""A patient as a few numbers: what modalities share, and how sure one can be of it with the scans that there are.

Take the correlation matrix of all scores (differences of class means included) and set the parts within a block to 0:
what is left is what blocks say of each other. Its leading eigenvectors q are the shared directions; the embedding is
eⱼ = qⱼᵀ D⁻¹ (s − μ), D the standard deviations, scaled to unit variance over patients. It is a linear function of a
whole set of scans. Where scans are missing it has a posterior, whose mean and covariance follow from those of the
missing scores. So fewer scans give a wider embedding around the same truth; with all scans nothing is left to tell.

Source: this is MAXVAR canonical correlation of several sets (Kettenring 1971) without the whitening within a set, which
few patients do not allow.
"""

from dataclasses import dataclass

import numpy as np

from models.joint.blocks import Blocks, FloatArray
from models.joint.gaussian import Conditional, Parameters

LEAST = 1e-6  # of the largest eigenvalue; what is below is rounding


@dataclass(frozen=True)
class Embedding:
    """The shared directions.

    Attributes:
        centre: mean score over all patients, (d,).
        directions: (r, d): embedding = directions @ (scores − centre), each of unit variance over patients.
        shared: leading directions that blocks share; the others are of the largest variance, since no more is shared.
    """

    centre: FloatArray
    directions: FloatArray
    shared: int

    def of(self, conditional: Conditional) -> tuple[FloatArray, FloatArray]:
        """Return mean (n, r) and covariance (n, r, r) of patients' embeddings."""
        mean = (conditional.mean - self.centre) @ self.directions.T
        covariance = np.einsum("ri,nij,sj->nrs", self.directions, conditional.covariance, self.directions)
        return mean, covariance

    def of_classes(self, parameters: Parameters) -> tuple[FloatArray, FloatArray]:
        """Return where patients with all scans lie: mean of each class (K, r), and the covariance about it (r, r)."""
        means = (parameters.mean - self.centre) @ self.directions.T
        return means, self.directions @ parameters.covariance @ self.directions.T


def shared_directions(parameters: Parameters, blocks: Blocks, count: int) -> Embedding:
    """Return the directions that blocks share most, up to `count`; signs are fixed by the largest weight."""
    mean, covariance = parameters.total()
    spread = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(spread, spread)
    between = np.where(blocks.owner[:, None] == blocks.owner, 0.0, correlation)
    values, vectors = np.linalg.eigh(between)
    order = [int(i) for i in np.argsort(-values) if values[i] > LEAST * max(float(values.max()), LEAST)][:count]
    shared = len(order)
    chosen = vectors[:, order]
    if (more := min(count, blocks.width) - shared) > 0:
        rest = np.eye(blocks.width) - chosen @ chosen.T
        _, others = np.linalg.eigh(rest @ correlation @ rest)
        chosen = np.concatenate([chosen, others[:, ::-1][:, :more]], axis=1)
    chosen = chosen * np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(chosen.shape[1])])
    directions = chosen.T / spread
    variance = np.einsum("ri,ij,rj->r", directions, covariance, directions)
    return Embedding(mean, directions / np.sqrt(variance)[:, None], shared)

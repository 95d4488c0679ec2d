"""A basis for the feature maps of one modality: a few scores in place of thousands of numbers, and the way back.

`public`: mean over positions, then an orthonormal projection that a seed draws; learnt from nobody, so that sites that
share no patient share it. `pca`: principal components of training scans, by way of their inner products, since there
are fewer scans than numbers. What the components explain of the scans that they were made of is too much; so training
scores, and what is left outside, are taken from components of the other scans, turned onto those of all
(orthogonal Procrustes).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.joint.blocks import FloatArray

Kind = Literal["pca", "public"]
EXPLAINED = 0.95  # of the variance, by the components that are kept
MOST = 32  # components
SCANS_EACH = 3  # training scans for each component, at least
FOLDS = 40  # for training scores and residuals; with fewer, links between modalities come out weaker
SKETCH = 32  # directions that residuals are drawn in
ROUNDING = 1e-7  # of the squared lengths of all scans, in float32
PUBLIC_SEED = 20_240_114  # the same everywhere


class NoVariationError(ValueError):
    """The training scans of a modality are all alike, or all but a few; the message says so."""


@dataclass(frozen=True)
class Basis:
    """Between features (n, D) and scores (n, k).

    Attributes:
        centre: subtracted before scoring, (D,) float32; 0 for a public basis.
        components: orthonormal rows, (k, D) float32.
        scale: what scores are divided by, so that their mean variance over training is 1; 1 for a public basis.
        offset: features of the scores 0, (D,) float32.
        residual: standard deviation of each feature outside of the basis, (D,) float32, in scans not learnt from.
        sketch: directions of residuals in which features that go together stay together, (q, D) float32, of length 1
            over q.
        agreement: of each feature, (D,) float32 in [0, 1.42]: the standard deviation that scans have, over that of
            components and residuals if they were independent. A feature that hardly ever varies is moved by components
            and moved back by residuals; taken as independent, that would count twice. About 1 for features that vary;
            1 for a public basis, of which nothing is learnt.
    """

    centre: NDArray[np.float32]
    components: NDArray[np.float32]
    scale: float
    offset: NDArray[np.float32]
    residual: NDArray[np.float32]
    sketch: NDArray[np.float32]
    agreement: NDArray[np.float32]

    @property
    def size(self) -> int:
        """Scores, k."""
        return len(self.components)

    def scores(self, features: NDArray[np.float32]) -> FloatArray:
        """Return the scores of features, (n, k) float64.

        Raises:
            ValueError: features of another width, or not finite.
        """
        if features.shape[1:] != self.centre.shape or not np.isfinite(features).all():
            raise ValueError(f"features of shape {features.shape}; expected finite ones, (n, {len(self.centre)})")
        return ((features - self.centre) @ self.components.T).astype(np.float64) / self.scale

    def features(self, scores: FloatArray) -> NDArray[np.float32]:
        """Return the features of scores (n, k), without what lies outside of the basis, (n, D)."""
        return self.offset + self._inside(scores) * self.agreement

    def _inside(self, scores: FloatArray) -> NDArray[np.float32]:
        return (scores * self.scale).astype(np.float32) @ self.components

    def variance(self, covariance: FloatArray) -> FloatArray:
        """Return the variance of each feature for a covariance of scores (k, k), residual included, (D,)."""
        half = (self.scale * np.linalg.cholesky(covariance + 1e-12 * np.eye(self.size)).T) @ self.components
        independent = (half**2).sum(axis=0) + self.residual.astype(np.float64) ** 2
        return np.asarray(independent * self.agreement.astype(np.float64) ** 2)

    def draw_residuals(self, count: int, random: np.random.Generator) -> NDArray[np.float32]:
        """Draw what lies outside of the basis, (count, D): Gaussian, with the residuals' own standard deviations."""
        drawn = random.standard_normal((count, len(self.sketch)), dtype=np.float32) @ self.sketch
        return drawn * (self.residual * self.agreement)

    def outside(self, features: NDArray[np.float32]) -> FloatArray:
        """Return how much of features lies outside of the basis, (n,): about 1 for scans like those of training."""
        left = features - self.offset - self._inside(self.scores(features))
        usual = np.sqrt((self.residual.astype(np.float64) ** 2).sum())
        return np.linalg.norm(left.astype(np.float64), axis=1) / max(usual, np.finfo(np.float64).tiny)


def fit_basis(
    features: NDArray[np.float32],
    *,
    kind: Kind = "pca",
    shape: tuple[int, int, int] | None = None,
    most: int = MOST,
    explained: float = EXPLAINED,
    seed: int = 0,
) -> tuple[Basis, FloatArray]:
    """Fit a basis to the features of training scans, one row a patient.

    Args:
        features: (n, D), finite; n >= 3.
        kind: of basis.
        shape: (C, H, W) of a feature map, whose positions a public basis takes the mean over; None for D channels.
        most: components at most; never more than n / 3.
        explained: share of the variance that the components of `pca` explain.
        seed: of folds and of the directions of residuals.

    Returns:
        The basis, and the scores of these scans to learn a covariance from, (n, k).

    Raises:
        NoVariationError: the features are all alike, or, with `pca`, all but those of one fold.
        ValueError: fewer than 3 scans, or features that are not finite.
    """
    if len(features) < SCANS_EACH or not np.isfinite(features).all():
        raise ValueError(f"features of shape {features.shape}; expected finite ones of {SCANS_EACH} or more scans")
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    x = features - mean
    gram = (x @ x.T).astype(np.float64)
    if not np.trace(gram) > len(x) * x.shape[1] * 1e-12 * max(1.0, float(np.abs(mean).max())) ** 2:
        raise NoVariationError(f"all {len(features)} training scans are alike; there is nothing to learn from")
    random = np.random.default_rng([seed, 7])
    if kind == "public":
        components = public_components(shape or (x.shape[1], 1, 1), min(most, len(x) // SCANS_EACH))
        scores = (features @ components.T).astype(np.float64)
        left = x - (x @ components.T) @ components
        offset = mean - (mean @ components.T) @ components
        sketch, residual = _residuals(left, np.eye(len(x)), random)
        return Basis(np.zeros_like(mean), components, 1.0, offset, residual, sketch, np.ones_like(mean)), scores
    turned, weights = _principal(gram, most=most, explained=explained)
    components = (weights.T @ x).astype(np.float32)
    scores, outside = _out_of_fold(gram, turned, weights, random)
    scale = float(np.sqrt(max(scores.var(axis=0).mean(), np.finfo(np.float64).tiny)))
    sketch, residual = _residuals(x, outside, random)
    agreement = _agreement(x, scores, components, residual)
    return Basis(mean, components, scale, mean, residual, sketch, agreement), scores / scale


def public_components(shape: tuple[int, int, int], count: int) -> NDArray[np.float32]:
    """Return orthonormal rows that take the mean over positions and project it at random, (min(count, C), C·H·W)."""
    channels, height, width = shape
    drawn = np.random.default_rng(PUBLIC_SEED).standard_normal((channels, channels))
    rows = np.linalg.qr(drawn)[0].T[:count]
    return (np.repeat(rows, height * width, axis=1) / np.sqrt(height * width)).astype(np.float32)


def _principal(
    gram: FloatArray, *, most: int, explained: float, each: int = SCANS_EACH
) -> tuple[FloatArray, FloatArray]:
    """Return the scores (n, k) of centred rows on their principal components, and the weights (n, k) that make those.

    Components are weightsᵀ X.
    """
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    enough = int(np.searchsorted(values.cumsum() / values.sum(), explained - 1e-12) + 1)
    k = max(1, min(enough, most, len(gram) // each, int((values > 1e-9 * values[0]).sum())))
    root = np.sqrt(values[:k])
    return vectors[:, :k] * root, vectors[:, :k] / root


def _out_of_fold(
    gram: FloatArray, turned: FloatArray, weights: FloatArray, random: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return the scores of each scan on components of the other folds, (n, k), and its residual's weights (n, n).

    Turning loses what lies between the two subspaces, mostly of weak components. So each is brought to the variance
    that held-out scans have along the component of the same rank of the other folds, as new scans will.

    Residuals are weights @ X. All is done on inner products; rows are centred on the mean of the other folds.
    """
    n, k = turned.shape
    scores, outside, squares = np.zeros((n, k)), np.zeros((n, n)), np.zeros((n, k))
    fold = random.permutation(n) % min(FOLDS, n)
    for held in range(min(FOLDS, n)):
        inside, out = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
        centring = np.zeros((n, n))
        centring[:, inside] = 1 / len(inside)
        shift = np.eye(n) - centring  # rows minus the mean of the other folds
        moved = (shift @ gram @ shift.T)[np.ix_(inside, inside)]
        if np.trace(moved) <= ROUNDING * np.trace(gram):
            raise NoVariationError(
                f"all but {len(out)} of {n} training scans are alike; there is too little to learn from"
            )
        _, own = _principal(moved, most=k, explained=1.0, each=1)
        made = shift[inside].T @ own  # (n, k'): components of the fold are madeᵀ X
        u, _, v = np.linalg.svd(weights.T @ gram @ made, full_matrices=False)  # of all, by those of the fold
        seen = shift[out] @ gram @ made  # (held, k')
        scores[out] = seen @ v.T @ u.T + (centring[out] @ gram @ weights)
        squares[out, : seen.shape[1]] = seen**2
        outside[out] = shift[out] - seen @ made.T
    variance = scores.var(axis=0)
    scale = np.sqrt(np.divide(squares.mean(axis=0), variance, out=np.ones(k), where=variance > 0))
    return scores * scale, outside


def _agreement(
    x: NDArray[np.float32], scores: FloatArray, components: NDArray[np.float32], residual: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the standard deviation of each feature over that of independent components and residuals, (D,).

    Args:
        x: centred training features, (n, D).
        scores: that a covariance is learnt from, not yet scaled, (n, k).
        components: (k, D).
        residual: standard deviation of each feature outside of the basis, (D,).
    """
    n = len(x)
    own = (x**2).mean(axis=0) * (n + 1) / (n - 1)  # of a new scan about this mean
    root = np.linalg.cholesky(scores.T @ scores / n + 1e-12 * np.trace(scores.T @ scores) / n * np.eye(scores.shape[1]))
    inside = ((root.T.astype(np.float32) @ components) ** 2).sum(axis=0)
    independent = inside + residual**2
    share = np.divide(own, independent, out=np.ones_like(own), where=independent > 0)
    return np.sqrt(np.clip(share, 0, 2)).astype(np.float32)


def _residuals(
    x: NDArray[np.float32], weights: FloatArray, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return directions of residuals (q, D), and the standard deviation of each feature's, (D,).

    Residuals are weights @ x; a direction is their sum with random signs and sizes, and belongs to nobody.
    """
    small = weights.astype(np.float32)
    residual = np.sqrt(((small @ x) ** 2).mean(axis=0))
    mixed = (random.standard_normal((SKETCH, len(x))).astype(np.float32) @ small) @ x
    length = np.sqrt((mixed**2).sum(axis=0))
    return np.divide(mixed, length, out=np.zeros_like(mixed), where=length > 0), residual

"""Joint models of the codes of PolyMNIST, each as something that draws the codes of missing modalities."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from benchmarks.polymnist import CLASSES, MODALITIES
from models.joint.blocks import Blocks
from models.joint.diffusion import Diffusion, DiffusionConfig
from models.joint.diffusion_fit import fit_diffusion
from models.joint.gaussian import JointGaussian, fit_estimate, log_density
from models.joint.posterior import draw
from models.joint.sums import sums_of

Codes = NDArray[np.float64]
Labels = NDArray[np.int64]


class Draws(Protocol):
    """A fitted joint model."""

    def draw(self, rows: Codes, random: np.random.Generator) -> Codes:
        """Return rows (n, d) with their missing codes (NaN) drawn, once each."""
        ...


def blocks_of(code: int) -> Blocks:
    """Return the layout of the codes of a tuple."""
    return Blocks(MODALITIES, (code,) * len(MODALITIES))


@dataclass
class Linear:
    """The linear engine: one Gaussian, one mean a digit, or a single mean (K = 1) where labels are not to be used."""

    gaussian: JointGaussian

    def draw(self, rows: Codes, random: np.random.Generator) -> Codes:
        """Draw missing codes; the digit is not told."""
        return np.asarray(draw(self.gaussian, rows, 1, random, plug_in=True)[0][0])


def fit_linear(rows: Codes, labels: Labels, classes: int) -> Linear:
    """Fit the linear engine of `models.joint`."""
    blocks = blocks_of(rows.shape[1] // len(MODALITIES))
    known = labels if classes > 1 else np.zeros_like(labels)
    return Linear(fit_estimate(sums_of(rows, known, blocks, classes), tolerance=1e-4)[0])


@dataclass
class Mixture:
    """A linear engine for each digit: their mixture has a covariance a digit.

    Attributes:
        parts: of each digit.
        share: of each digit in training, (K,).
        mean: draw the mean given the digit in place of a draw.
    """

    parts: tuple[JointGaussian, ...]
    share: NDArray[np.float64]
    mean: bool = False

    def probabilities(self, rows: Codes) -> NDArray[np.float64]:
        """Return p(digit | codes that are there), (n, K)."""
        joint = np.stack([log_density(part, rows, plug_in=True) for part in self.parts], axis=1) + np.log(self.share)
        return np.asarray(np.exp(joint - logsumexp(joint, axis=1, keepdims=True)))

    def draw(self, rows: Codes, random: np.random.Generator) -> Codes:
        """Draw the digit from what is there, then the missing codes given both."""
        chance = self.probabilities(rows).cumsum(axis=1)
        digit = (random.random((len(rows), 1)) * chance[:, -1:] >= chance).sum(axis=1)
        out = rows.copy()
        for k, part in enumerate(self.parts):
            if (own := np.flatnonzero(digit == k)).size:
                out[own] = draw(part, rows[own], 1, random, plug_in=True)[0][0]
        return out


def fit_mixture(rows: Codes, labels: Labels) -> Mixture:
    """Fit a linear engine of `models.joint` to the tuples of each digit."""
    blocks = blocks_of(rows.shape[1] // len(MODALITIES))
    parts = []
    for k in range(CLASSES):
        own = rows[labels == k]
        sums = sums_of(own, np.zeros(len(own), dtype=np.int64), blocks, 1)
        parts.append(fit_estimate(sums, tolerance=1e-4)[0])
    return Mixture(tuple(parts), np.bincount(labels, minlength=CLASSES) / len(labels))


@dataclass
class Diffused:
    """The diffusion engine."""

    engine: Diffusion

    def draw(self, rows: Codes, random: np.random.Generator) -> Codes:
        """Draw missing codes; the digit is not told."""
        return np.asarray(self.engine.draw(rows, 1, random)[0][0])


def fit_diffused(rows: Codes, labels: Labels, classes: int, config: DiffusionConfig) -> Diffused:
    """Train the diffusion engine of `models.joint`; with K = 1 it sees no labels, as the VAEs."""
    blocks = blocks_of(rows.shape[1] // len(MODALITIES))
    known = labels if classes > 1 else np.zeros_like(labels)
    return Diffused(fit_diffusion(rows, known, blocks, classes, config))

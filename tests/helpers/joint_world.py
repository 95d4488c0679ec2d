"""Patients whose blocks share factors, with known means and covariance."""

from dataclasses import dataclass

import numpy as np

from models.joint.blocks import Blocks

SIZES = (4, 3, 2)


@dataclass(frozen=True)
class World:
    """Means (K, d) and covariance (d, d) that scores are drawn from."""

    mean: np.ndarray
    covariance: np.ndarray
    blocks: Blocks

    def draw(self, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Whole scores (n, d) and labels (n,), every class present."""
        labels = np.arange(count) % len(self.mean)
        root = np.linalg.cholesky(self.covariance)
        return self.mean[labels] + random.standard_normal((count, len(root))) @ root.T, labels


def world(seed: int = 0, sizes: tuple[int, ...] = SIZES, *, classes: int = 2, link: float = 0.5) -> World:
    """Two shared factors explain the share `link` of every score's variance, which is 1."""
    random = np.random.default_rng([seed, 99])
    loading = random.standard_normal((sum(sizes), 2))
    loading *= np.sqrt(link) / np.linalg.norm(loading, axis=1, keepdims=True)
    covariance = loading @ loading.T + (1 - link) * np.eye(sum(sizes))
    mean = random.standard_normal((classes, sum(sizes))) * 0.7
    return World(mean, covariance, Blocks(tuple("abcdefgh"[: len(sizes)]), sizes))


def with_gaps(rows: np.ndarray, blocks: Blocks, share: float, random: np.random.Generator) -> np.ndarray:
    """A copy in which each block is missing for a share of the patients, never all of one's."""
    gone = random.random((len(rows), len(blocks.names))) < share
    gone[np.arange(len(rows)), random.integers(len(blocks.names), size=len(rows))] = False
    return np.where(gone[:, blocks.owner], np.nan, rows)

"""Heads on the grid of the decoder that are brighter on one side, by as much as their feature map says."""

import numpy as np

from pipeline.store.features import FeatureStore
from synthesis.grid import box_shape

SPACING = 10.0
CENTRE = np.stack(np.meshgrid(*[np.linspace(-1.4, 1.4, n) for n in box_shape(SPACING)], indexing="ij"), -1)
HEAD = (CENTRE**2).sum(-1) < 1


def volume(features: FeatureStore, scan: str, more: float = 0.0) -> np.ndarray:
    """A head that is brighter on one side, by as much as the first number of the feature map says."""
    value = float(features.load([scan]).flatten()[0])
    noise = np.random.default_rng(int.from_bytes(scan.encode(), "little") % 2**32).normal(0, 0.01, HEAD.shape)
    made = 0.5 + 0.05 * value * CENTRE[..., 0] + noise + more
    return np.where(HEAD, made, 0).astype(np.float32).ravel()

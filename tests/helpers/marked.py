"""Small heads and pictures that a watermark can be put into."""

import numpy as np
from scipy import ndimage

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
AFFINE = np.array([[-2.0, 0, 0, 70], [0, 2, 0, -80], [0, 0, 2, -60], [0, 0, 0, 1]])


def head(seed: int = 0, shape: tuple[int, int, int] = (64, 76, 60)) -> tuple[np.ndarray, np.ndarray]:
    """Return a brain (X, Y, Z), float32 in [0, 1], with structures of 3 to 30 mm at 2 mm, and its mask."""
    random = np.random.default_rng(seed)
    middle = (np.array(shape) - 1) / 2
    far = (np.indices(shape).T - middle) / (middle - 3)
    mask = (far**2).sum(-1).T < 1
    layers = [size * ndimage.gaussian_filter(random.standard_normal(shape), size) * size**0.5 for size in (1, 2, 5)]
    texture = np.sum(layers, axis=0)
    volume = np.where(mask, 0.5 + 0.12 * texture / texture[mask].std(), 0)
    return np.clip(volume, 0, 1).astype(np.float32), mask


def picture(seed: int = 0, size: int = 200) -> np.ndarray:
    """Return a picture (H, W, 3), uint8, of blobs in two colours."""
    random = np.random.default_rng(seed)
    grey = sum(size * ndimage.gaussian_filter(random.standard_normal((size, size)), sigma) for sigma in (1.5, 4, 9))
    grey = (grey - grey.min()) / np.ptp(grey)
    colours = np.array([200, 120, 180]) + (grey[..., None] - 0.5) * np.array([110, 140, 60])
    return np.clip(colours, 0, 255).astype(np.uint8)

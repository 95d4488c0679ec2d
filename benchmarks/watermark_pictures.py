"""What happens to pictures on their way: JPEG, noise, crops, other sizes, turns."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.watermark_changes import jpeg_pixels

Pixels = NDArray[np.uint8]
PictureChange = Callable[[Pixels], NDArray[np.generic]]
NO_MARK = "no mark"


def small(originals: list[tuple[str, Pixels]]) -> list[tuple[str, Pixels]]:
    """Return the middle squares of pictures as 64 × 64 pixels."""
    return [(f"{name}, small", _small(pixels)) for name, pixels in originals]


def _small(pixels: Pixels) -> Pixels:
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    return np.asarray(square.resize((64, 64), Image.Resampling.LANCZOS))


def jpeg(quality: int) -> PictureChange:
    """Save as JPEG."""
    return lambda pixels: jpeg_pixels(pixels, quality)


def noise(pixels: Pixels) -> NDArray[np.generic]:
    """Add Gaussian noise, 5 % of the range."""
    return pixels + np.random.default_rng(1).normal(0, 0.05 * 255, pixels.shape)


def crop(pixels: Pixels) -> Pixels:
    """Cut an eighth off every side."""
    rows, columns = pixels.shape[0] // 8, pixels.shape[1] // 8
    return pixels[rows:-rows, columns:-columns]


def resize(share: float) -> PictureChange:
    """Resize by Lanczos' filter."""

    def change(pixels: Pixels) -> Pixels:
        size = (round(pixels.shape[1] * share), round(pixels.shape[0] * share))
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))

    return change


def turn(degrees: float) -> PictureChange:
    """Turn bicubically."""
    return lambda pixels: np.asarray(Image.fromarray(pixels).rotate(degrees, Image.Resampling.BICUBIC))


PICTURE_CHANGES: dict[str, PictureChange] = {
    "PNG": lambda pixels: pixels,
    "JPEG q90": jpeg(90),
    "JPEG q50": jpeg(50),
    "JPEG q20": jpeg(20),
    "noise, 5 % of the range": noise,
    "grey": lambda pixels: pixels.mean(axis=2),
    "crop by an eighth a side": crop,
    NO_MARK: lambda pixels: pixels,
}
PICTURE_SEARCHED: dict[str, PictureChange] = {
    "resized to 75 %": resize(0.75),
    "resized to 50 %": resize(0.5),
    "turned by 5°": turn(5),
    "mirrored": lambda pixels: pixels[:, ::-1],
    "turned by 90°": lambda pixels: np.rot90(pixels),
    "resized to 30 %": resize(0.3),
    NO_MARK: lambda pixels: pixels,
}

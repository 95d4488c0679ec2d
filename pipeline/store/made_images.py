"""Files of images that nobody took: each says so in its name and header, and in a JSON beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from files.reading import file_sha256
from files.writing import replacing
from pipeline.store.base import write_json
from pipeline.store.marking import Marker
from preprocessing.encoding import nifti_bytes, png_bytes
from synthesis.grid import box_affine, picture_of, volume_of


def image_file(
    values: NDArray[np.float32],
    name: str,
    kind: str,
    *,
    spacing_mm: float,
    pixels: int,
    marker: Marker,
    description: str,
) -> tuple[str, bytes]:
    """Return file name and content of a drawn image, with its watermark.

    Args:
        values: voxels or pixels on the grid of `synthesis.grid`, (D,), in [0, 1].
        name: of the file, without its ending.
        kind: volume or image.
        spacing_mm: of a volume.
        pixels: side of a picture.
        marker: marks it, if there is a key.
        description: of the NIfTI header, at most 79 characters.
    """
    if kind == "image":
        return f"{name}.png", png_bytes(marker.picture(picture_of(values, side=pixels), name=name))
    volume, affine = volume_of(values, spacing_mm=spacing_mm), box_affine(spacing_mm)
    marked = marker.volume(volume.astype(np.float32), volume > 0, affine, name=name)
    return f"{name}.nii.gz", nifti_bytes(np.rint(marked).astype(np.int16), affine, description)


def spread_file(
    values: NDArray[np.float32], name: str, kind: str, *, spacing_mm: float, pixels: int, description: str
) -> tuple[str, bytes]:
    """Return file name and content of a map of standard deviations, in the units of the images of `image_file`.

    It is a map of numbers, so it carries no mark, and small ones are no background.
    """
    if kind == "image":
        return f"{name}.png", png_bytes(picture_of(values, side=pixels))
    volume = volume_of(values, spacing_mm=spacing_mm, least=0.0)
    return f"{name}.nii.gz", nifti_bytes(volume, box_affine(spacing_mm), description)


def write_image(path: Path, content: bytes, facts: Mapping[str, Any]) -> str:
    """Write an image and, beside it, what it is, as JSON; return the hash of the image."""
    with replacing(path) as partial:
        partial.write_bytes(content)
    write_json(path.with_name(path.name.split(".")[0] + ".json"), facts)
    return file_sha256(path)

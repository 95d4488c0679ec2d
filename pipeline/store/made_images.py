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
    content = volume_bytes(volume, volume > 0, affine, name=name, marker=marker, description=description)
    return f"{name}.nii.gz", content


def volume_bytes(
    volume: NDArray[np.generic],
    mask: NDArray[np.bool_],
    affine: NDArray[np.float64],
    *,
    name: str,
    marker: Marker,
    description: str,
) -> bytes:
    """Return a made-up volume as a gzipped NIfTI, with its watermark.

    Args:
        volume: (X, Y, Z), float32, or int16 for whole grey levels; the file has the same type.
        mask: (X, Y, Z), True inside the brain; nothing else is marked.
        affine: voxel to world, (4, 4), mm.
        name: of the image, for the marker's notes.
        marker: marks it, if there is a key.
        description: of the NIfTI header, at most 79 characters.
    """
    marked = marker.volume(volume.astype(np.float32), mask, affine, name=name)
    whole = np.issubdtype(volume.dtype, np.integer)
    return nifti_bytes((np.rint(marked) if whole else marked).astype(volume.dtype), affine, description)


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
    write_json(path.with_name(path.name.removesuffix(".nii.gz").removesuffix(".png") + ".json"), facts)
    return file_sha256(path)

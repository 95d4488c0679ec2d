"""Files of images that nobody took: each says so in its name and header, and in a JSON beside it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from files.reading import file_sha256
from files.writing import replacing
from pipeline.core.provenance import digest
from pipeline.store.base import DamagedError, write_json
from pipeline.store.marking import Marker
from preprocessing.encoding import nifti_bytes, png_bytes
from synthesis.grid import LEVELS, box_affine, box_shape, picture_of, volume_of

IMPUTED = "imputed"
MARK = {"origin": IMPUTED}  # one entry: their order in a file is by chance, and so would be its hash
DESCRIPTION = "IMPUTED, never measured; HyperMM joint model, {}"  # NIfTI header, at most 79 characters


def stem_of(what: str, *of: str) -> str:
    """Return a file name without its ending, of what it is and what it is of; other texts give other names."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", "_".join(of))[:80]
    return f"{what}_{safe}_{digest(list(of))[:12]}"


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


def numbers_file(values: NDArray[np.float32], name: str, *, spacing_mm: float, description: str) -> tuple[str, bytes]:
    """Return file name and content of a map of numbers of either sign, (D,), in the units of a drawn volume.

    It is a volume of float32, since small numbers count, and carries no mark.
    """
    volume = (values * LEVELS).astype(np.float32).reshape(box_shape(spacing_mm))
    return f"{name}.nii.gz", nifti_bytes(volume, box_affine(spacing_mm), description)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[np.floating]]) -> str:
    """Write images as float16 for the report, in a file that says that they are imputed; return its hash."""
    with replacing(path) as partial:
        made = {name: np.ascontiguousarray(values, dtype=np.float16) for name, values in arrays.items()}
        partial.write_bytes(safetensors.numpy.save(made, MARK))
    return file_sha256(path)


def read_arrays(path: Path, sha256: str, stage: str) -> dict[str, NDArray[np.float32]]:
    """Return what `write_arrays` wrote, as float32.

    Raises:
        DamagedError: the file is missing or not as it was written.
    """
    arrays = safetensors.numpy.load_file(as_written(path, sha256, stage))
    return {name: values.astype(np.float32) for name, values in arrays.items()}


def as_written(path: Path, sha256: str, stage: str) -> Path:
    """Return the path of a file that is as the stage wrote it.

    Raises:
        DamagedError: it is missing or damaged.
    """
    if not path.is_file() or file_sha256(path) != sha256:
        raise DamagedError(f"{path} is missing or damaged; run --stages {stage} --force {stage}")
    return path


def write_image(path: Path, content: bytes, facts: Mapping[str, Any]) -> str:
    """Write an image and, beside it, what it is, as JSON; return the hash of the image."""
    with replacing(path) as partial:
        partial.write_bytes(content)
    write_json(path.with_name(path.name.removesuffix(".nii.gz").removesuffix(".png") + ".json"), facts)
    return file_sha256(path)

"""A page with the slices of a scan in three planes: one file, works offline, its script may load nothing."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from preprocessing.qc import DIRECTIONS
from reporting.pages import data_uri, environment
from reporting.quality import CONVENTIONS

LONGEST_SIDE = 96  # voxels along the longest axis, so that a page has some 100 kB
JPEG_QUALITY = 75
PLANES = (("Sagittal", 1, 2), ("Coronal", 0, 2), ("Axial", 0, 1))  # the axis across, and the one that goes up


def viewer_page(
    name: str,
    volume: NDArray[np.float32],
    spacing_mm: tuple[float, float, float],
    *,
    mask: NDArray[np.bool_] | None = None,
    occlusion: NDArray[np.float32] | None = None,
    occlusion_of: str = "",
    convention: str = "radiological",
    words: str = "",
    back: str = "",
) -> str:
    """Render the page of one volume.

    Args:
        name: of the scan, the headline.
        volume: (X, Y, Z) in RAS+ order; grey from the 1st to the 99.5th percentile. Shown at most 96 voxels long,
            coarser ones of a size in all directions.
        spacing_mm: voxel size.
        mask: (X, Y, Z), of the brain; its edge can be shown.
        occlusion: (X, Y, Z), fall of log odds where a region is left out; can be laid over the scan.
        occlusion_of: the class whose odds they are.
        convention: "radiological" or "neurological"; all planes are mirrored as in QC pictures.
        words: a sentence below the headline.
        back: address of the page that links here.

    Raises:
        ValueError: mask or occlusion map are not on the grid of the volume.
    """
    for what, other in (("mask", mask), ("occlusion map", occlusion)):
        if other is not None and other.shape != volume.shape:
            raise ValueError(f"{name}: the volume is {volume.shape}, its {what} {other.shape}; expected one grid")
    extent_mm = [n * mm for n, mm in zip(volume.shape, spacing_mm, strict=True)]
    voxel_mm = max(max(extent_mm) / LONGEST_SIDE, min(spacing_mm))
    shape = tuple(max(1, round(mm / voxel_mm)) for mm in extent_mm)
    low, high = np.percentile(volume, (1, 99.5))
    grey = np.clip((_resized(volume, shape) - low) / max(high - low, 1e-6), 0, 1)
    layers: dict[str, Any] = {"grey": _sheet(255 * grey, "JPEG"), "mask": "", "map": "", "map_scale": 0.0}
    centre = [n / 2 for n in shape]
    if mask is not None:
        small = _resized(mask.astype(np.float32), shape) > 0.5
        layers["mask"] = _sheet(255.0 * small, "PNG")
        centre = list(ndimage.center_of_mass(small)) if small.any() else centre
    if occlusion is not None:
        scale = max(float(np.abs(occlusion).max()), 1e-6)
        layers |= {"map": _sheet(128 + 127 * _resized(occlusion, shape) / scale, "PNG"), "map_scale": scale}
    script = environment().get_template("viewer.js").render()
    return (
        environment()
        .get_template("viewer.html.j2")
        .render(
            name=name,
            words=words,
            back=back,
            shape=shape,
            columns=_columns(shape[2]),
            convention=convention,
            sides=CONVENTIONS[convention],
            voxel_mm=f"{voxel_mm:.2g}",
            planes=[_plane(axis, shape, centre[axis], convention) for axis in range(3)],
            map_of=occlusion_of,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            **layers,
        )
    )


def _plane(axis: int, shape: tuple[int, ...], centre: float, convention: str) -> dict[str, Any]:
    """Return name, letters, size and first slice of a plane."""
    name, across, up = PLANES[axis]
    first, last = DIRECTIONS[across]
    left, right = (last, first) if convention == "radiological" else (first, last)
    bottom, top = DIRECTIONS[up]
    return {
        "name": name, "left": left, "right": right, "top": top, "bottom": bottom, "width": shape[across],
        "height": shape[up], "slices": shape[axis], "start": min(shape[axis] - 1, int(centre)),
    }  # fmt: skip


def _resized(volume: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Bring a volume to a grid over the same extent."""
    if volume.shape == shape:
        return volume
    zoom = [wanted / n for wanted, n in zip(shape, volume.shape, strict=True)]
    return ndimage.zoom(volume, zoom, order=1, mode="nearest", grid_mode=True)


def _columns(slices: int) -> int:
    """Return how many slices stand in a row of a sheet."""
    return math.ceil(math.sqrt(slices))


def _sheet(volume: NDArray[np.floating[Any]], kind: str) -> str:
    """Return all axial slices (Y, X) beside and below each other, as a picture in a data URI; values of 0 to 255."""
    width, height, slices = volume.shape
    columns = _columns(slices)
    rows = math.ceil(slices / columns)
    sheet = np.zeros((rows * height, columns * width), np.uint8)
    for z in range(slices):
        top, left = z // columns * height, z % columns * width
        sheet[top : top + height, left : left + width] = np.clip(np.rint(volume[:, :, z].T), 0, 255)
    stream = io.BytesIO()
    options = {"quality": JPEG_QUALITY} if kind == "JPEG" else {"optimize": True}
    Image.fromarray(sheet).save(stream, format=kind, **options)
    return data_uri(stream.getvalue(), f"image/{kind.lower()}")

"""Volumes and pictures as file content that depends on the voxels only: no time, no name."""

import gzip
import io

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image


def nifti_bytes(
    volume: NDArray[np.generic], affine: NDArray[np.float64], description: str = "", *, code: int = 1
) -> bytes:
    """Return a volume as a gzipped NIfTI.

    Args:
        volume: (X, Y, Z).
        affine: voxel to world, (4, 4), mm.
        description: at most 79 characters for the header.
        code: of sform and qform. 0 says that the affine is not known: `preprocessing.space.nifti_space` then refuses
            the file unless it is told to trust it.
    """
    image = nibabel.Nifti1Image(volume, None)  # with an affine, nibabel would set the codes itself
    header = image.header
    header.set_sform(affine, code=code)
    header.set_qform(affine, code=code)
    if not np.allclose(header.get_qform(), affine, rtol=0, atol=1e-3):
        header.set_qform(None)  # it cannot hold skewed axes; two affines that differ would be a contradiction
    header.set_xyzt_units("mm")
    header["descrip"] = description.encode()[:79]
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """Return a picture (H, W, 3) or (H, W), uint8, as PNG."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", compress_level=6)
    return stream.getvalue()


def png_pixels(content: bytes) -> NDArray[np.uint8]:
    """Return the pixels that `png_bytes` encoded."""
    return np.array(Image.open(io.BytesIO(content)))

"""Read and write images: NIfTI volumes, PNG/JPEG/TIFF pictures. An image is one regular file, read once.

Its header is checked against `preprocessing.limits` before it is unpacked.
"""

import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from files.reading import UnusableFileError, read_bytes
from preprocessing.encoding import nifti_bytes
from preprocessing.errors import ChangedFileError, ScanError
from preprocessing.itk import read_itk
from preprocessing.limits import BYTES_PIXEL, MIN_SIDE, Limits
from preprocessing.nifti import detached, read_nifti

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".mha", ".mhd", ".nrrd")
NIBABEL_SUFFIXES = (*NIFTI_SUFFIXES, ".mgz", ".mgh")
DETACHED_SUFFIXES = (".hdr", ".img", ".hdr.gz", ".img.gz", ".nhdr")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
PICTURE_FORMATS = ("PNG", "JPEG", "TIFF")  # Pillow recognises them by content; it would start Ghostscript for others
FILE_COPIES = 5  # that Pillow makes of a file that is all text: measured
ORDINARY = Limits()


def scan_bytes(path: Path, *, sha256: str | None, limits: Limits) -> bytes:
    """Return the content of a scan's file, checked against its hash.

    Args:
        path: of a regular file.
        sha256: of the content, hex; None: any content. A text that is no hash means that the file could not be hashed.
        limits: of its size.

    Raises:
        ScanError: it is a pipe, a device or a socket.
        MemoryLimitError: reading it takes more memory than it may.
        ChangedFileError: it is not what was hashed.
        OSError: it cannot be read.
    """
    limits.check_reading(path.stat().st_size, "the file")
    try:
        content = read_bytes(path, most=int(limits.memory_bytes))
    except UnusableFileError as error:
        raise ScanError(f"{error}; put the scan itself there") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ChangedFileError(
            f"{path} is not what it was when the stage cohort read it: it was changed or replaced while the run was "
            "on, or could not be read then. Run again; if this comes again, with --force cohort, which hashes all anew"
        )
    return content


def read_volume(path: Path, *, sha256: str | None = None, limits: Limits = ORDINARY) -> MetaTensor:
    """Read a 3-D volume with its scaling applied.

    Args:
        path: NIfTI (.nii, .nii.gz), MGH (.mgz, .mgh), or MetaImage and NRRD through SimpleITK; one file each.
        sha256: of the file, hex, if it has to be that very content.
        limits: of its size.

    Returns:
        MetaTensor (1, X, Y, Z), float32, with the voxel-to-world affine (4, 4) in mm, RAS+ world.

    Raises:
        ScanError: the file is damaged, not 3-D, absurdly large or small, holds NaN or infinite voxels only partly
            readable, is constant, its affine is unusable, or its voxels lie in another file.
        MemoryLimitError: reading it takes more memory than it may.
        ChangedFileError: it is not what was hashed.
    """
    name = path.name.lower()
    if name.endswith(DETACHED_SUFFIXES):
        recipe = f"SimpleITK.WriteImage(SimpleITK.ReadImage({path.name!r}), 'scan.nii.gz')"
        raise detached(f"{path.suffix} is half of a scan", recipe)
    if not name.endswith((*ITK_SUFFIXES, *NIBABEL_SUFFIXES)):
        known = ", ".join((*NIBABEL_SUFFIXES, *ITK_SUFFIXES))
        raise ScanError(f"{path.suffix or 'no'} is not a volume format read here ({known}); a picture is kind: image")
    content = scan_bytes(path, sha256=sha256, limits=limits)
    if name.endswith(ITK_SUFFIXES):
        array, affine = read_itk(content, path.suffix.lower(), limits)
    else:
        array, affine = read_nifti(content, name, limits)
    del content
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise ScanError(f"{bad} of {array.size} voxels are NaN or infinite; repair the volume or leave the scan out")
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise ScanError(f"every voxel is {low:g}; a scan needs at least two values. The export may have failed")
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None], affine=affine)


def write_volume(path: Path, volume: NDArray[np.generic], affine: NDArray[np.float64], description: str = "") -> None:
    """Write a gzipped NIfTI whose bytes depend on nothing but the arguments.

    Args:
        path: target, .nii.gz.
        volume: (X, Y, Z).
        affine: voxel to world, (4, 4), mm.
        description: at most 79 characters for the header.
    """
    path.write_bytes(nifti_bytes(volume, affine, description))


def read_picture(path: Path, *, sha256: str | None = None, limits: Limits = ORDINARY) -> NDArray[np.uint8]:
    """Read a 2-D picture as RGB.

    Args:
        path: PNG, JPEG or TIFF; grey is copied to three channels, transparency is dropped, 16 bit is cut to 8.
        sha256: of the file, hex, if it has to be that very content.
        limits: of its size.

    Returns:
        (H, W, 3), uint8.

    Raises:
        ScanError: not a readable picture, or a stack of several.
        MemoryLimitError: reading it takes more memory than it may.
        ChangedFileError: it is not what was hashed.
    """
    if not path.name.lower().endswith(PICTURE_SUFFIXES):
        raise ScanError(f"{path.suffix or 'no'} is not a picture format read here; expected one of {PICTURE_SUFFIXES}")
    content = scan_bytes(path, sha256=sha256, limits=limits)
    try:
        with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as header:
            pixels = f"{header.width} x {header.height} pixels"
            limits.check_reading(FILE_COPIES * len(content) + BYTES_PIXEL * header.width * header.height, pixels)
            if _has_second_page(content):
                raise ScanError("a stack of several pictures; expected one. Save the one that is meant")
            if header.mode.startswith("I;16"):
                array = (np.asarray(header) // 257).astype(np.uint8)[..., None].repeat(3, 2)
            elif header.mode in ("F", "I"):
                raise ScanError(f"pixels of mode {header.mode}, 32 bit; expected an 8- or 16-bit grey or RGB picture")
            else:
                array = np.array(header.convert("RGB"))
    except UnidentifiedImageError as error:
        raise ScanError(f"not a readable picture: it is none of {', '.join(PICTURE_FORMATS)} inside") from error
    except (Image.DecompressionBombError, SyntaxError, ValueError, IndexError) as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(f"not a readable picture: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ScanError(f"the picture is truncated or damaged ({error}); copy it again") from error
    if array.dtype == np.uint16:
        array = (array // 257).astype(np.uint8)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] not in (3, 4) or array.dtype != np.uint8:
        raise ScanError(f"shape {array.shape} of {array.dtype}; expected one 8- or 16-bit grey or RGB picture")
    if min(array.shape[:2]) < MIN_SIDE:
        raise ScanError(f"{array.shape[1]} x {array.shape[0]} pixels; at least {MIN_SIDE} each way are needed")
    if array.min() == array.max():
        raise ScanError(f"every pixel is {array.min()}; the picture is empty")
    return np.ascontiguousarray(array[..., :3])


def _has_second_page(content: bytes) -> bool:
    """Check if a file holds more than one picture; they are not counted, since there may be millions."""
    with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as image:
        try:
            image.seek(1)
        except EOFError:
            return False
        return True

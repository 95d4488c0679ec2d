"""Read and write images: NIfTI volumes, PNG/JPEG/TIFF pictures. Every check on a file's health is here."""

import gzip
import io
import math
import zlib
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
import torch
from monai.data import MetaTensor
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from preprocessing.errors import ScanError

MAX_VOXELS = 1024**3  # of one scan: 4 GB as float32; a header that promises more is taken for damaged
MIN_SIDE = 8  # voxels; fewer along an axis is no head scan
NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".mha", ".mhd", ".nrrd")
NIBABEL_SUFFIXES = (*NIFTI_SUFFIXES, ".mgz", ".mgh")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def read_volume(path: Path) -> MetaTensor:
    """Read a 3-D volume with its scaling applied.

    Args:
        path: NIfTI (.nii, .nii.gz), or MetaImage and NRRD through SimpleITK.

    Returns:
        MetaTensor (1, X, Y, Z), float32, with the voxel-to-world affine (4, 4) in mm, RAS+ world.

    Raises:
        ScanError: the file is damaged, not 3-D, absurdly large or small, holds NaN or infinite voxels only partly
            readable, is constant, or its affine is unusable.
    """
    array, affine = _read_itk(path) if path.name.lower().endswith(ITK_SUFFIXES) else _read_nifti(path)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    _check_affine(affine)
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise ScanError(f"{bad} of {array.size} voxels are NaN or infinite; repair the volume or leave the scan out")
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise ScanError(f"every voxel is {low:g}; a scan needs at least two values. The export may have failed")
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None], affine=affine)


def _read_nifti(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    if not path.name.lower().endswith(NIBABEL_SUFFIXES):
        known = ", ".join((*NIBABEL_SUFFIXES, *ITK_SUFFIXES))
        raise ScanError(f"{path.suffix or 'no'} is not a volume format read here ({known}); a picture is kind: image")
    try:
        image = nibabel.load(path)
        _check_shape(image.shape)
        dtype = image.get_data_dtype()
        if dtype.kind not in "iuf":
            raise ScanError(f"voxels of type {dtype}; expected one real number a voxel, not colours or complex numbers")
        array = np.asarray(image.dataobj, dtype=np.float32)
        affine = np.asarray(image.affine, dtype=np.float64)
        if path.name.lower().endswith("z"):
            _check_gzip(path)
    except (ScanError, FileNotFoundError):
        raise
    except (ImageFileError, HeaderDataError) as error:
        raise ScanError(f"not a NIfTI image: {error}. Convert it again from the source") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ScanError(f"the file is truncated or damaged ({error}); copy it again from the source") from error
    except OSError as error:
        if error.errno is not None:
            raise  # the disk's fault, not the file's: worth another try
        raise ScanError(f"the file is shorter than its header says ({error}); copy it again") from error
    except (ValueError, OverflowError) as error:
        raise ScanError(f"the NIfTI header is damaged ({error}); convert it again from the source") from error
    return array, affine


def _check_gzip(path: Path) -> None:
    """Read to the end, where gzip compares its checksum; nibabel stops before."""
    with gzip.open(path) as stream:
        while stream.read(1 << 22):
            pass


def _read_itk(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """SimpleITK gives z, y, x order and an LPS+ world; both are turned here."""
    path.stat()
    try:
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        _check_shape(reader.GetSize())
        if reader.GetNumberOfComponents() != 1:
            raise ScanError(f"{reader.GetNumberOfComponents()} numbers a voxel; expected one")
        image = reader.Execute()
        if image.GetDimension() == 4:
            image = image[:, :, :, 0]
    except ScanError:
        raise
    except RuntimeError as error:
        raise ScanError(f"SimpleITK cannot read it: {str(error).splitlines()[-1].strip()}") from error
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = direction * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    affine[:2] *= -1
    return SimpleITK.GetArrayFromImage(image).transpose().astype(np.float32), affine


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) == 4 and shape[3] > 1:
        raise ScanError(
            f"4-D with {shape[3]} volumes; a scan is one 3-D volume. Average the frames or pick one first, e.g. "
            f"nibabel.save(nibabel.funcs.four_to_three(image)[0], 'frame0.nii.gz')"
        )
    if len(shape) < 3 or len(shape) > 4:
        raise ScanError(f"{len(shape)}-D of shape {tuple(shape)}; expected a 3-D volume (a 2-D picture: kind: image)")
    if math.prod(shape) > MAX_VOXELS:
        raise ScanError(f"the header promises {tuple(shape)} = {math.prod(shape):,} voxels, more than {MAX_VOXELS:,}")
    if min(shape[:3]) < MIN_SIDE:
        raise ScanError(f"shape {tuple(shape)}; a scan needs at least {MIN_SIDE} voxels along each axis")


def _check_affine(affine: NDArray[np.float64]) -> None:
    axes = affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    if not np.isfinite(affine).all() or (spacing < 1e-3).any():
        raise ScanError(
            f"the affine gives voxel sizes {spacing.round(4).tolist()} mm; set sform or qform in the header"
        )
    if abs(np.linalg.det(axes / spacing)) < 1e-3:
        raise ScanError("the affine is singular: two voxel axes point the same way. Set sform or qform in the header")
    if (spacing > 50).any():
        raise ScanError(f"the affine gives voxel sizes {spacing.round(1).tolist()} mm; expected millimetres below 50")


def write_volume(path: Path, volume: NDArray[np.generic], affine: NDArray[np.float64], description: str = "") -> None:
    """Write a gzipped NIfTI whose bytes depend on nothing but the arguments.

    Args:
        path: target, .nii.gz.
        volume: (X, Y, Z).
        affine: voxel to world, (4, 4), mm.
        description: at most 79 characters for the header.
    """
    image = nibabel.Nifti1Image(volume, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode()[:79]
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a 2-D picture as RGB.

    Args:
        path: PNG, JPEG or TIFF; grey is copied to three channels, transparency is dropped, 16 bit is cut to 8.

    Returns:
        (H, W, 3), uint8.

    Raises:
        ScanError: not a readable picture, or a stack of several.
    """
    if not path.name.lower().endswith(PICTURE_SUFFIXES):
        raise ScanError(f"{path.suffix or 'no'} is not a picture format read here; expected one of {PICTURE_SUFFIXES}")
    try:
        with Image.open(path) as header:
            if header.width * header.height > MAX_VOXELS:
                raise ScanError(f"the header promises {header.width} x {header.height} pixels; downsize the picture")
            if (pages := getattr(header, "n_frames", 1)) > 1:
                raise ScanError(f"a stack of {pages} pictures; expected one. Save the one that is meant")
            if header.mode.startswith("I;16"):
                array = (np.asarray(header) // 257).astype(np.uint8)[..., None].repeat(3, 2)
            elif header.mode in ("F", "I"):
                raise ScanError(f"pixels of mode {header.mode}, 32 bit; expected an 8- or 16-bit grey or RGB picture")
            else:
                array = np.array(header.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError, IndexError) as error:
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


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """A picture (H, W, 3) or (H, W) uint8 as PNG, without time stamp."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", compress_level=6)
    return stream.getvalue()

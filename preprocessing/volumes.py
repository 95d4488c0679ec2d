"""Read and write volumes. A scan is one regular file, read once.

Its header is checked against `preprocessing.limits` before it is unpacked.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from files.reading import UnusableFileError, read_bytes
from preprocessing.encoding import nifti_bytes
from preprocessing.errors import ChangedFileError, ScanError
from preprocessing.itk import read_itk
from preprocessing.limits import DEFAULT_LIMITS, Limits
from preprocessing.nifti import detached, read_nifti
from preprocessing.space import Form, skew_remarks

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".mha", ".mhd", ".nrrd")
NIBABEL_SUFFIXES = (*NIFTI_SUFFIXES, ".mgz", ".mgh")
DETACHED_SUFFIXES = (".hdr", ".img", ".hdr.gz", ".img.gz", ".nhdr")


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


def read_volume(
    path: Path, *, sha256: str | None = None, limits: Limits = DEFAULT_LIMITS, trust: Form | None = None
) -> MetaTensor:
    """Read a 3-D volume with its scaling applied. NaN voxels count as background.

    Args:
        path: NIfTI (.nii, .nii.gz), MGH (.mgz, .mgh), or MetaImage and NRRD through SimpleITK; one file each.
        sha256: of the file, hex, if it has to be that very content.
        limits: of its size.
        trust: the affine of NIfTIs to use where sform and qform contradict each other; None: refuse those.

    Returns:
        MetaTensor (1, X, Y, Z), float32, with the voxel-to-world affine (4, 4) in mm, RAS+ world. NaN voxels have the
        lowest value, at most 0. Its `meta` has `facts` of the header (`Space.facts`), `remarks`, sentences for the
        scan's record, and, if there are any, `nan`: bool (1, X, Y, Z), True where a voxel was NaN.

    Raises:
        ScanError: the file is damaged, not 3-D, absurdly large or small, holds infinite voxels, is constant, its header
            does not say where the voxels lie or contradicts itself, or its voxels lie in another file.
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
        array, space = read_itk(content, path.suffix.lower(), limits)
    else:
        array, space = read_nifti(content, name, limits, trust)
    del content
    array = array.reshape(array.shape[:3], order="A")
    meta: dict[str, Any] = {"facts": space.facts(), "remarks": [*space.remarks, *skew_remarks(space.affine)]}
    finite = np.isfinite(array)
    if bad := int(array.size - finite.sum()):
        nan = np.isnan(array)
        if infinite := bad - int(nan.sum()):
            raise ScanError(f"{infinite} of {array.size} voxels are infinite; repair the volume or leave the scan out")
        _refuse_lost_slices(nan)
        meta["nan"] = torch.from_numpy(np.ascontiguousarray(nan))[None]
        meta["remarks"].append(f"NaN voxels: {bad / array.size:.2%} of the volume, taken for background")
    low, high = float(array.min(where=finite, initial=np.inf)), float(array.max(where=finite, initial=-np.inf))
    if low == high:
        also = " or NaN" * bool(bad)
        raise ScanError(f"every voxel is {low:g}{also}; a scan needs at least two values. The export may have failed")
    if bad:
        array = np.where(nan, np.float32(min(low, 0.0)), array)
    tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]
    return MetaTensor(tensor, affine=space.affine, meta=meta)


def _refuse_lost_slices(nan: NDArray[np.bool_]) -> None:
    """Refuse volumes that are NaN everywhere, or in a whole slice between others."""
    for axis in range(3):
        lost = np.asarray(nan.all(axis=tuple(other for other in range(3) if other != axis)))
        kept = np.flatnonzero(~lost)
        if kept.size == 0:
            raise ScanError("every voxel is NaN; the export may have failed")
        if count := int(lost[kept[0] : kept[-1]].sum()):
            raise ScanError(
                f"{count} slices along axis {axis + 1} are all NaN, between others that are not; NaN is taken for "
                "background only around the head. Repair the volume or leave the scan out"
            )


def write_volume(path: Path, volume: NDArray[np.generic], affine: NDArray[np.float64], description: str = "") -> None:
    """Write a gzipped NIfTI whose bytes depend on nothing but the arguments.

    Args:
        path: target, .nii.gz.
        volume: (X, Y, Z).
        affine: voxel to world, (4, 4), mm.
        description: at most 79 characters for the header.
    """
    path.write_bytes(nifti_bytes(volume, affine, description))

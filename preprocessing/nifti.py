"""NIfTI and MGH volumes from the bytes of one file; no other file is opened, whatever a header says.

The header is checked before anything else is unpacked. NIfTI extensions are skipped.
"""

import gzip
import io
import logging
import math
import zlib
from typing import Any

import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError, MGHHeader, header_dtype
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from files.reading import UnusableFileError, gunzip
from preprocessing.errors import ScanError
from preprocessing.limits import BYTES_READ, Limits, as_float32, check_shape, times
from preprocessing.space import Form, Space, mgh_space, nifti_space

LONGEST_HEADER = 540  # bytes: NIfTI-2
LARGEST_OFFSET = 100_000_000  # bytes before the voxels: extensions
SILENT = logging.Logger("nibabel's repairs of headers")  # it has no handlers; what matters is refused here
SILENT.addHandler(logging.NullHandler())
BEHIND = 16_000_000  # bytes that may follow the voxels: FreeSurfer's trailer


@np.errstate(over="ignore", invalid="ignore")  # of damaged headers; what is not finite is refused
def read_nifti(
    content: bytes, name: str, limits: Limits, trust: Form | None = None
) -> tuple[NDArray[np.float32], Space]:
    """Read a volume out of a file's bytes.

    Args:
        content: of the file.
        name: of the file, lower case; its suffix gives the format.
        limits: of its size.
        trust: as `preprocessing.space.nifti_space`.

    Returns:
        Voxels with the scaling applied, as many axes as the header says, and their place.

    Raises:
        ScanError: it is damaged, its place is not stated or stated twice and differently, it is no single volume of a
            head, or larger than it may be.
        MemoryLimitError: reading it takes more memory than it may.
    """
    try:
        packed = name.endswith("z")
        start = _beginning(content) if packed else content[:LONGEST_HEADER]
        header, raw = _header(start, mgh=name.endswith(("mgz", "mgh")))
        shape = tuple(int(size) for size in header.get_data_shape())
        promised = _check(header, shape)
        mgh = isinstance(header, MGHHeader)
        space = mgh_space(raw, header.get_affine()) if mgh else nifti_space(raw, shape, trust=trust)
        limits.check_extent(shape, space.affine)
        limits.check_reading(len(content) + promised + BYTES_READ * math.prod(shape), f"{times(shape)} voxels")
        if packed:
            content = _unpacked(content, promised)
        if len(content) < promised:
            raise ScanError(
                f"the file is shorter than its header says ({len(content):,} bytes, not {promised:,}); copy it again"
            )
        voxels = ArrayProxy(io.BytesIO(content), header)
        scaled = np.asarray(voxels, dtype=np.float32)
        if np.isinf(scaled).any():
            as_float32(np.asarray(voxels.get_unscaled()), scaled=scaled)
        return scaled, space
    except ScanError:
        raise
    except (ImageFileError, HeaderDataError, MGHError) as error:
        raise ScanError(f"not a NIfTI image: {error}. Convert it again from the source") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ScanError(f"the file is truncated or damaged ({error}); copy it again from the source") from error
    except KeyError as error:
        raise ScanError(f"voxels of an unknown type ({error}); convert it again from the source") from error
    except (ValueError, OverflowError) as error:
        raise ScanError(f"the NIfTI header is damaged ({error}); convert it again from the source") from error


def _beginning(content: bytes) -> bytes:
    """Unpack no more than a header's length."""
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
        return stream.read(LONGEST_HEADER)


def _unpacked(content: bytes, promised: int) -> bytes:
    try:
        return gunzip(content, most=promised + BEHIND)
    except UnusableFileError as error:
        raise ScanError(
            f"{error}; its header promises {promised:,}. The file is damaged, or made to fill the memory: convert it "
            "again from the source"
        ) from error


def _header(start: bytes, *, mgh: bool) -> tuple[Any, Any]:
    """Return the header, checked and repaired as nibabel does, and as it stands in the file."""
    if mgh:
        if len(start) < header_dtype.itemsize:
            raise ImageFileError(f"{len(start)} bytes are too few for an MGH header")
        header = MGHHeader(start[: header_dtype.itemsize], check=False)
        header.check_fix(logger=SILENT)
        return header, np.frombuffer(start, header_dtype, count=1)[0]
    magic = start[344:348], start[4:8]
    if magic[0] == b"ni1\0" or magic[1] == b"ni2\0":
        raise detached("NIfTI pair", "nibabel.save(nibabel.load('scan.hdr'), 'scan.nii.gz')")
    for kind in (Nifti1Header, Nifti2Header):
        if kind.may_contain_header(start):
            raw = kind(start[: kind.sizeof_hdr], check=False)
            header = raw.copy()
            header.check_fix(logger=SILENT)
            return header, raw
    raise ImageFileError("it does not begin like one")


def _check(header: Any, shape: tuple[int, ...]) -> int:
    """Check what a header says of the voxels; return the least size of its file, unpacked, in bytes."""
    check_shape(shape)
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise ScanError(f"voxels of type {dtype}; expected one real number a voxel, not colours or complex numbers")
    if not isinstance(header, MGHHeader) and np.isinf((header["scl_slope"], header["scl_inter"])).any():
        raise ScanError("scl_slope or scl_inter in the NIfTI header is infinite; convert it again from the source")
    offset = int(header.get_data_offset())
    if not 0 <= offset <= LARGEST_OFFSET:
        raise ScanError(f"the NIfTI header is damaged (voxels from byte {offset:,}); convert it again from the source")
    return offset + math.prod(shape) * dtype.itemsize


def detached(what: str, recipe: str) -> ScanError:
    """Make the error for headers whose voxels lie in another file."""
    return ScanError(
        f"{what}: header and voxels lie in two files, and only the file that the manifest names is hashed, so that "
        f"other voxels would go unnoticed. Put both into one file: {recipe}"
    )

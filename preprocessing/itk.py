"""MetaImage and NRRD volumes out of the bytes of one file, read by ITK.

These formats may name other files. So the header is parsed here, and ITK reads a temporary file: a new header of the
fields that are known to be harmless, followed by the voxels.
"""

import math
import re
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from preprocessing.errors import ScanError
from preprocessing.limits import Limits, as_float32, check_affine, check_shape, times
from preprocessing.nifti import detached
from preprocessing.space import Space, check_directions, meta_source, nrrd_source

LONGEST_HEADER = 100_000  # bytes
BYTES_READ = 32  # a voxel beside the file: ITK's image and a copy of it, both up to float64, float32
RECIPE = "SimpleITK.WriteImage(SimpleITK.ReadImage('scan{0}'), 'scan.{1}')"
BYTES_VOXEL = {
    **dict.fromkeys((SimpleITK.sitkUInt8, SimpleITK.sitkInt8), 1),
    **dict.fromkeys((SimpleITK.sitkUInt16, SimpleITK.sitkInt16), 2),
    **dict.fromkeys((SimpleITK.sitkUInt32, SimpleITK.sitkInt32, SimpleITK.sitkFloat32), 4),
    **dict.fromkeys((SimpleITK.sitkUInt64, SimpleITK.sitkInt64, SimpleITK.sitkFloat64), 8),
}
WORD, COUNT = "[A-Za-z0-9_?]{1,40}", "[1-9][0-9]{0,8}"
LENGTH = r"([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]{1,3})?"
NUMBER = f"[-+]?{LENGTH}"
# Field → what its values look like, and whether it has 1, one for each axis, or a matrix (powers 0, 1, 2). ITK crashes
# at some others.
META_FIELDS = {
    **dict.fromkeys(("ObjectType", "BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB"), (WORD, 0)),
    **dict.fromkeys(("AnatomicalOrientation", "ElementType"), (WORD, 0)),
    "NDims": ("[2-5]", 0),
    "ElementNumberOfChannels": (COUNT, 0),
    "DimSize": (COUNT, 1),
    **dict.fromkeys(("ElementSpacing", "ElementSize"), (LENGTH, 1)),
    **dict.fromkeys(("Offset", "Position", "Origin", "CenterOfRotation"), (NUMBER, 1)),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), (NUMBER, 2)),
}
NRRD_FIELDS = (
    *("type", "dimension", "space", "space dimension", "sizes", "spacings", "axis mins", "axismins", "axis maxs"),
    *("axismaxs", "centers", "centerings", "kinds", "endian", "encoding", "space units", "space origin"),
    "space directions",
)


class _Header(NamedTuple):
    content: bytes
    """Of the header that ITK is given."""
    start: int
    """Where the voxels begin in the file."""
    packed: bool
    source: str
    """As `Space.source`."""
    unit_mm: float


def read_itk(content: bytes, suffix: str, limits: Limits) -> tuple[NDArray[np.float32], Space]:
    """Read a volume out of a file's bytes.

    Args:
        content: of the file.
        suffix: of its name, lower case.
        limits: of its size.

    Returns:
        Voxels, as many axes as the header says, and their place, RAS+: ITK's order z, y, x and its LPS+ world are
        turned here.

    Raises:
        ScanError: it is damaged, its place is not stated or stated twice and differently, its voxels lie in another
            file, it is no single volume of a head, or larger than it may be.
        MemoryLimitError: reading it takes more memory than it may.
    """
    nrrd = suffix == ".nrrd"
    header = _nrrd_header(content, suffix) if nrrd else _meta_header(content, suffix)
    with tempfile.TemporaryDirectory(prefix="scan-") as folder:  # only its owner may look into it
        path = Path(folder, "scan")
        path.write_bytes(header.content)
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("NrrdImageIO" if nrrd else "MetaImageIO")  # no other: some open further files, or neighbours
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
            promised = _check(reader, len(content), limits, unit_mm=header.unit_mm)
            with path.open("ab") as stream:
                stream.write(_voxels(memoryview(content)[header.start :], promised, packed=header.packed))
            image = reader.Execute()
        except ScanError:
            raise
        except RuntimeError as error:
            raise ScanError(f"SimpleITK cannot read it: {str(error).splitlines()[-1].strip()}") from error
    remarks = ("unit converted: the header gives lengths in another unit than mm",) * (header.unit_mm != 1)
    voxels = as_float32(SimpleITK.GetArrayViewFromImage(image).transpose())
    return voxels, Space(_affine(image, header.unit_mm), header.source, remarks)


def _check(reader: SimpleITK.ImageFileReader, size: int, limits: Limits, *, unit_mm: float) -> int:
    """Check a header against the limits; return the size of its voxels, unpacked, in bytes."""
    shape = reader.GetSize()
    check_shape(shape)
    if reader.GetNumberOfComponents() != 1:
        raise ScanError(f"{reader.GetNumberOfComponents()} numbers a voxel; expected one")
    if reader.GetPixelID() not in BYTES_VOXEL:
        kind = SimpleITK.GetPixelIDValueAsString(reader.GetPixelID())
        raise ScanError(f"voxels are of the type {kind}; expected one real number a voxel")
    affine = _affine(reader, unit_mm)
    check_affine(affine)
    check_directions(_directions(reader), "the header")
    limits.check_extent(shape, affine)
    voxels = math.prod(shape)
    limits.check_reading(size + BYTES_READ * voxels, f"{times(shape)} voxels")
    return voxels * BYTES_VOXEL[reader.GetPixelID()]


def _voxels(content: memoryview, promised: int, *, packed: bool) -> bytes | memoryview:
    """Return so many bytes, unpacked and with their checksum verified, which ITK does not do."""
    voxels: bytes | memoryview = content
    if packed:
        unpacker = zlib.decompressobj(wbits=47)  # zlib or gzip, as it comes
        try:
            voxels = unpacker.decompress(content, promised + 1)
        except zlib.error as error:
            raise ScanError(f"the file is damaged ({error}); copy it again from the source") from error
        if len(voxels) > promised:
            raise ScanError(f"it unpacks to more than the {promised:,} bytes that its header promises; write it anew")
    if len(voxels) < promised or (packed and not unpacker.eof):
        size = f"{len(voxels):,} of the {promised:,} bytes of voxels that its header promises, or no end of them"
        raise ScanError(f"the file is shorter than its header says ({size}); copy it again from the source")
    return voxels[:promised]


def _affine(image: SimpleITK.Image | SimpleITK.ImageFileReader, unit_mm: float) -> NDArray[np.float64]:
    """Return voxel to world of the first three axes, RAS+, mm."""
    affine = np.eye(4)
    affine[:3, :3] = _directions(image) * np.array(image.GetSpacing())[:3] * unit_mm
    affine[:3, 3] = np.array(image.GetOrigin())[:3] * unit_mm
    affine[:2] *= -1
    return affine


def _directions(image: SimpleITK.Image | SimpleITK.ImageFileReader) -> NDArray[np.float64]:
    """Return the directions of the first three axes, one in each column, LPS+."""
    return np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:3, :3]


def _meta_header(content: bytes, suffix: str) -> _Header:
    """Rewrite a MetaImage's header with the fields needed."""
    fields: dict[str, str] = {}
    start = 0
    while "ElementDataFile" not in fields:
        line, start = _line(content, start, "MetaImage")
        key, equals, value = (text.strip() for text in line.partition("="))
        if not equals or not key or (key in META_FIELDS and key in fields):
            raise ScanError(f"not a MetaImage: {line[:60]!r} in its header; expected NDims = 3 and the like, each once")
        fields[key] = value
    if fields["ElementDataFile"].upper() != "LOCAL":
        raise detached("a MetaImage whose ElementDataFile is not LOCAL", RECIPE.format(suffix, "mha"))
    for key, expected in (("BinaryData", "TRUE"), ("HeaderSize", "0")):
        if fields.get(key, "0").upper() != expected:
            raise ScanError(f"a MetaImage with {key} = {fields.get(key)}, expected {expected}; write it anew")
    axes = int(fields["NDims"]) if fields.get("NDims", "") in ("2", "3", "4", "5") else 0
    for key in META_FIELDS.keys() & fields.keys():
        kind, power = META_FIELDS[key]
        values = fields[key].split()
        if len(values) != axes**power or not all(re.fullmatch(kind, value) for value in values):
            raise ScanError(f"a damaged MetaImage: {key} = {fields[key][:60]}")
    kept = {key: value for key, value in fields.items() if key in META_FIELDS}
    written = _written(kept, " = ", last="ElementDataFile = LOCAL\n")
    return _Header(written, start, fields.get("CompressedData", "").upper() == "TRUE", *meta_source(fields, suffix))


def _nrrd_header(content: bytes, suffix: str) -> _Header:
    """Rewrite a NRRD's header with the fields needed."""
    first, start = _line(content, 0, "NRRD")
    if not re.fullmatch("NRRD000[1-5]", first):
        raise ScanError(f"not a NRRD: it begins with {first[:20]!r}")
    fields: dict[str, str] = {}
    while True:
        line, start = _line(content, start, "NRRD")
        if not line:
            break
        key, colon, value = line.partition(": ")
        key, value = key.strip().lower(), value.strip()
        if line.lower().replace(" ", "").startswith("datafile:"):
            raise detached("a NRRD with a data file", RECIPE.format(suffix, "nrrd"))
        if line.startswith("#") or ":=" in line.partition(": ")[0]:
            continue  # a comment, or a private key
        if not colon or (key in NRRD_FIELDS and key in fields):
            raise ScanError(f"not a NRRD: {line[:60]!r} in its header; expected dimension: 3 and the like, each once")
        fields[key] = value
    for key in ("line skip", "lineskip", "byte skip", "byteskip"):
        if fields.get(key, "0") != "0":
            raise ScanError(f"a NRRD with {key}: {fields[key]}, expected 0; write it anew with SimpleITK")
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise ScanError(f"a NRRD with encoding: {encoding[:20]}, expected raw or gzip; write it anew with SimpleITK")
    kept = {key: value for key, value in fields.items() if key in NRRD_FIELDS}
    written = _written({**kept, "encoding": "raw"}, ": ", first=f"{first}\n", last="\n")
    return _Header(written, start, encoding != "raw", *nrrd_source(fields))


def _line(content: bytes, start: int, kind: str) -> tuple[str, int]:
    """Return a line of a header without its end, and where the next one begins."""
    end = content.find(b"\n", start, LONGEST_HEADER)
    if end < 0:
        raise ScanError(f"not a {kind}: there is no end of its header within {LONGEST_HEADER:,} bytes")
    return content[start:end].removesuffix(b"\r").decode("latin-1"), end + 1


def _written(fields: Mapping[str, str], between: str, *, first: str = "", last: str) -> bytes:
    """Write a header of these fields."""
    for key, value in fields.items():
        if not re.fullmatch(r"[\x20-\x7e]+", value):
            raise ScanError(f"a damaged header: {key} is {value[:60]!r}")
    lines = "".join(f"{key}{between}{value}\n" for key, value in fields.items())
    return f"{first}{lines}{last}".encode("ascii")

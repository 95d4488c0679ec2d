"""MetaImage and NRRD volumes out of the bytes of one file, read by ITK.

ITK reads files, and these formats may name other files. So the header is taken apart here, and ITK is given a file of
ours, with a header written anew from the fields that are known to be harmless and the voxels behind it.
"""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from preprocessing.errors import ScanError
from preprocessing.limits import Limits, check_affine, check_shape, times
from preprocessing.nifti import detached

LONGEST_HEADER = 100_000  # bytes
BYTES_READ = 32  # a voxel beside the file: ITK's image and a copy of it, both up to float64, float32 and its copy
RECIPE = "SimpleITK.WriteImage(SimpleITK.ReadImage('scan{0}'), 'scan.{1}')"
META_WORDS = (
    *("ObjectType", "NDims", "BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData"),
    *("AnatomicalOrientation", "ElementNumberOfChannels", "ElementType"),
)
META_VECTORS = ("DimSize", "ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation")
META_MATRICES = ("TransformMatrix", "Rotation", "Orientation")
NRRD_FIELDS = (
    *("type", "dimension", "space", "space dimension", "sizes", "spacings", "axis mins", "axismins", "axis maxs"),
    *("axismaxs", "centers", "centerings", "kinds", "endian", "encoding", "space units", "space origin"),
    "space directions",
)


def read_itk(content: bytes, suffix: str, limits: Limits) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read a volume out of a file's bytes.

    Args:
        content: of the file.
        suffix: of its name, lower case.
        limits: of its size.

    Returns:
        Voxels, as many axes as the header says up to 4, and the voxel-to-world affine (4, 4), RAS+: ITK's order z, y, x
        and its LPS+ world are turned here.

    Raises:
        ScanError: it is damaged, its voxels lie in another file, no single volume of a head, or larger than it may be.
        MemoryLimitError: reading it takes more memory than it may.
    """
    nrrd = suffix == ".nrrd"
    header, start = _nrrd_header(content, suffix) if nrrd else _meta_header(content, suffix)
    with tempfile.TemporaryDirectory(prefix="scan-") as folder:  # only its owner may look into it
        path = Path(folder, "scan.nrrd" if nrrd else "scan.mha")
        with path.open("xb") as stream:
            stream.write(header)
            stream.write(memoryview(content)[start:])
        try:
            image = _read(path, "NrrdImageIO" if nrrd else "MetaImageIO", len(content), limits)
        except ScanError:
            raise
        except RuntimeError as error:
            raise ScanError(f"SimpleITK cannot read it: {str(error).splitlines()[-1].strip()}") from error
    return SimpleITK.GetArrayFromImage(image).transpose().astype(np.float32), _affine(image, 3)


def _read(path: Path, kind: str, size: int, limits: Limits) -> SimpleITK.Image:
    """The image, 3-D, after a look at its header."""
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(kind)  # and no other: some follow links inside of a file, or look at its neighbours
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    shape = reader.GetSize()
    check_shape(shape)
    if reader.GetNumberOfComponents() != 1:
        raise ScanError(f"{reader.GetNumberOfComponents()} numbers a voxel; expected one")
    affine = _affine(reader, len(shape))
    check_affine(affine)
    limits.check_extent(shape, affine)
    limits.check_reading(size + BYTES_READ * float(np.prod(shape, dtype=float)), f"{times(shape)} voxels")
    image = reader.Execute()
    return image[:, :, :, 0] if image.GetDimension() == 4 else image


def _affine(image: SimpleITK.Image | SimpleITK.ImageFileReader, dimension: int) -> NDArray[np.float64]:
    """Voxel to world of the first three axes, RAS+."""
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)[:3, :3]
    affine[:3, :3] = direction * np.array(image.GetSpacing())[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    affine[:2] *= -1
    return affine


def _meta_header(content: bytes, suffix: str) -> tuple[bytes, int]:
    """A MetaImage's header with what is needed of it, and where its voxels begin."""
    fields: dict[str, str] = {}
    start = 0
    while "ElementDataFile" not in fields:
        line, start = _line(content, start, "MetaImage")
        key, found, value = (part.strip() for part in line.partition("="))
        if not found or not key or (key in META_WORDS + META_VECTORS + META_MATRICES and key in fields):
            raise ScanError(f"not a MetaImage: {line[:60]!r} in its header; expected lines such as NDims = 3, each once")
        fields[key] = value
    if fields["ElementDataFile"].upper() != "LOCAL":
        raise detached("a MetaImage whose ElementDataFile is not LOCAL", RECIPE.format(suffix, "mha"))
    if fields.get("HeaderSize", "0") not in ("0", "-1"):
        raise ScanError(f"a MetaImage with HeaderSize = {fields['HeaderSize']}; write it anew with SimpleITK")
    axes = int(fields["NDims"]) if fields.get("NDims", "") in ("2", "3", "4", "5") else 3
    counts = dict.fromkeys(META_WORDS, 1) | dict.fromkeys(META_VECTORS, axes) | dict.fromkeys(META_MATRICES, axes**2)
    for key in counts.keys() & fields.keys():
        if len(fields[key].split()) != counts[key]:
            raise ScanError(f"a damaged MetaImage: {key} = {fields[key][:60]}; expected {counts[key]} of them")
    kept = {key: value for key, value in fields.items() if key in counts}
    return _written(kept, " = ", last="ElementDataFile = LOCAL\n"), start


def _nrrd_header(content: bytes, suffix: str) -> tuple[bytes, int]:
    """A NRRD's header with what is needed of it, and where its voxels begin."""
    first, start = _line(content, 0, "NRRD")
    if not re.fullmatch("NRRD000[1-5]", first):
        raise ScanError(f"not a NRRD: it begins with {first[:20]!r}")
    fields: dict[str, str] = {}
    while True:
        line, start = _line(content, start, "NRRD")
        if not line:
            break
        key, found, value = line.partition(": ")
        key, value = key.strip().lower(), value.strip()
        if key in ("data file", "datafile") or line.lower().replace(" ", "").startswith("datafile:"):
            raise detached("a NRRD with a data file", RECIPE.format(suffix, "nrrd"))
        if line.startswith("#") or ":=" in line.partition(": ")[0]:
            continue  # a comment, or a key of somebody's own
        if not found or (key in NRRD_FIELDS and key in fields):
            raise ScanError(f"not a NRRD: {line[:60]!r} in its header; expected lines such as dimension: 3, each once")
        fields[key] = value
    for key in ("line skip", "lineskip", "byte skip", "byteskip"):
        if fields.get(key, "0") != "0":
            raise ScanError(f"a NRRD with {key}: {fields[key]}; write it anew with SimpleITK")
    kept = {key: value for key, value in fields.items() if key in NRRD_FIELDS}
    return _written(kept, ": ", first=f"{first}\n", last="\n"), start


def _line(content: bytes, start: int, kind: str) -> tuple[str, int]:
    """A line of a header without its end, and where the next one begins."""
    end = content.find(b"\n", start, LONGEST_HEADER)
    if end < 0:
        raise ScanError(f"not a {kind}: there is no end of its header within {LONGEST_HEADER:,} bytes")
    return content[start:end].removesuffix(b"\r").decode("latin-1"), end + 1


def _written(fields: Mapping[str, str], between: str, *, first: str = "", last: str) -> bytes:
    """A header of these fields."""
    for key, value in fields.items():
        if not re.fullmatch(r"[\x20-\x7e]+", value):
            raise ScanError(f"a damaged header: {key} is {value[:60]!r}")
    lines = "".join(f"{key}{between}{value}\n" for key, value in fields.items())
    return f"{first}{lines}{last}".encode("ascii")

"""Any bytes give a result, a named failure or a refusal: never another exception, never a hang.

Examples are the same in each run. A longer search: `HYPOTHESIS_PROFILE=search pytest tests/faults/test_any_bytes.py`.
"""

import gzip
import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from cohort.manifest import CohortConfig, check_manifest
from cohort.tables import ManifestError, read_table
from intake.bids.read import read_bids
from intake.dicom.series import read_dicom_folder
from preprocessing.errors import MemoryLimitError, ScanError
from preprocessing.limits import Limits
from preprocessing.pictures import read_picture
from preprocessing.volumes import read_volume

settings.register_profile(
    "tests",
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.register_profile("search", settings.get_profile("tests"), max_examples=5_000, derandomize=False)
PROFILE = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))
LIMITS = Limits(memory_gb=0.5)
VOXELS = np.random.default_rng(0).normal(100, 30, (9, 10, 11)).astype(np.float32)
COLOURS = np.random.default_rng(0).integers(0, 256, (9, 10, 3), dtype=np.uint8)
AFFINE = np.diag([1.5, 1.5, 2.0, 1.0])


def itk_bytes(folder: Path, suffix: str, *, packed: bool = False) -> bytes:
    image = SimpleITK.GetImageFromArray(VOXELS)
    image.SetSpacing((1.0, 1.5, 2.0))
    SimpleITK.WriteImage(image, str(folder / f"whole{suffix}"), useCompression=packed)
    return (folder / f"whole{suffix}").read_bytes()


def picture_bytes(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(COLOURS).save(stream, kind)
    return stream.getvalue()


def dicom_bytes() -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["a"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.StudyInstanceUID = generate_uid(entropy_srcs=["b"]), generate_uid(entropy_srcs=["c"])
    data.PatientID, data.Modality, data.SeriesDescription = "p1", "MR", "t1_mprage"
    data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.SamplesPerPixel = 4, 4, 16, 12, 1
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 1], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.AcquisitionDate, data.PatientBirthDate = [1, 1], "20240101", "19500101"
    data.PixelData = bytes(32)
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, header: int) -> bytes:
    """A file with bytes overwritten, cut out or put in, mostly within its header."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        most = min(header, len(content)) if draw(st.integers(0, 9)) else len(content)
        at = draw(st.integers(0, max(most - 1, 0)))
        number = draw(st.sampled_from(NUMBERS))
        piece = draw(st.one_of(st.binary(min_size=1, max_size=8), st.just(number)))
        kind = draw(st.sampled_from(("overwrite", "overwrite", "overwrite", "cut", "put in", "end")))
        if kind == "overwrite":
            content[at : at + len(piece)] = piece
        elif kind == "cut":
            del content[at : at + draw(st.integers(1, 60))]
        elif kind == "put in":
            content[at:at] = piece
        else:
            del content[at:]
    return bytes(content)


NUMBERS = (
    *(struct.pack("<f", value) for value in (0.0, -1.0, 1e-30, 1e30, np.inf, np.nan)),
    *(struct.pack("<h", value) for value in (0, -1, 1, 7, 32767, -32768)),
    *(struct.pack("<i", value) for value in (0, -1, 2**31 - 1, -(2**31))),
    *(b"0", b"-1", b"1e999", b"nan", b" ", b"\n", b"\0", b"2 2", b"65536"),
)


@contextmanager
def refusals(*kinds: type[Exception]) -> Iterator[None]:
    """Accept these errors, if they say something."""
    try:
        yield
    except kinds as error:
        if not str(error).strip():
            raise


def check_volume(path: Path) -> None:
    volume = read_volume(path, limits=LIMITS)
    assert volume.shape[0] == 1
    assert volume.ndim == 4
    assert np.isfinite(np.asarray(volume)).all()
    assert np.isfinite(np.asarray(volume.affine)).all()
    assert abs(np.linalg.det(np.asarray(volume.affine)[:3, :3])) > 0


def check_picture(path: Path) -> None:
    picture = read_picture(path, limits=LIMITS)
    array = np.asarray(getattr(picture, "pixels", picture))
    assert array.dtype == np.uint8
    assert array.ndim == 3
    assert array.shape[2] == 3


FORMATS: dict[str, tuple[Callable[[Path], bytes], int, Callable[[Path], None]]] = {
    "a.nii": (lambda folder: nibabel.Nifti1Image(VOXELS, AFFINE).to_bytes(), 352, check_volume),
    "b.nii": (lambda folder: nibabel.Nifti2Image(VOXELS, AFFINE).to_bytes(), 544, check_volume),
    "a.mgh": (lambda folder: nibabel.MGHImage(VOXELS, AFFINE).to_bytes(), 284, check_volume),
    "a.mha": (lambda folder: itk_bytes(folder, ".mha"), 400, check_volume),
    "b.mha": (lambda folder: itk_bytes(folder, ".mha", packed=True), 400, check_volume),
    "a.nrrd": (lambda folder: itk_bytes(folder, ".nrrd"), 400, check_volume),
    "a.png": (lambda folder: picture_bytes("PNG"), 60, check_picture),
    "a.jpg": (lambda folder: picture_bytes("JPEG"), 200, check_picture),
    "a.tif": (lambda folder: picture_bytes("TIFF"), 200, check_picture),
}


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(tmp_path: Path, name: str) -> None:
    make, header, check = FORMATS[name]
    whole = make(tmp_path)

    @PROFILE
    @given(damaged(whole, header))
    def examples(content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with refusals(ScanError, MemoryLimitError):
            check(tmp_path / name)

    (tmp_path / name).write_bytes(whole)
    check(tmp_path / name)
    examples()


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mgz"])
def test_damaged_headers_in_gzip(tmp_path: Path, name: str) -> None:
    whole = FORMATS["a.nii" if name.endswith(".nii.gz") else "a.mgh"][0](tmp_path)

    @PROFILE
    @given(damaged(whole, 352), st.booleans())
    def examples(content: bytes, cut: bool) -> None:
        packed = gzip.compress(content, compresslevel=1)
        (tmp_path / name).write_bytes(packed[: len(packed) // 2] if cut else packed)
        with refusals(ScanError, MemoryLimitError):
            check_volume(tmp_path / name)

    examples()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@PROFILE
@given(
    st.sampled_from((b"eXIf", b"sBIT", b"gAMA", b"iCCP", b"pHYs", b"tRNS", b"tEXt", b"PLTE", b"bKGD", b"acTL")),
    st.one_of(st.binary(max_size=60), st.binary(max_size=40).map(lambda more: b"II*\0\x08\0\0\0" + more)),
)
def test_any_chunk_of_a_png(tmp_path: Path, kind: bytes, content: bytes) -> None:
    """With a right checksum, so that it is looked at."""
    whole = picture_bytes("PNG")
    (tmp_path / "a.png").write_bytes(whole[:33] + png_chunk(kind, content) + whole[33:])
    with refusals(ScanError, MemoryLimitError):
        check_picture(tmp_path / "a.png")


@PROFILE
@given(st.binary(max_size=400), st.sampled_from(sorted(FORMATS)))
def test_any_bytes_as_a_scan(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((ScanError, MemoryLimitError)):
        FORMATS[name][2](tmp_path / name)


@PROFILE
@given(damaged(dicom_bytes(), 700))
def test_damaged_dicom(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.dcm").write_bytes(content)
    found = read_dicom_folder(tmp_path)
    images = sum(len(series.images) + series.damaged for series in found.series)
    assert images + sum(map(int, dict(found.skipped).values())) >= 1  # it was read, or counted as skipped


CELLS = st.one_of(
    st.sampled_from(
        (
            "p1",
            "P1",
            "p01",
            "1.0",
            "nan",
            "NA",
            "",
            '"',
            '""',
            "a,b",
            "a\tb",
            "\ufeff",
            "\0",
            "é",
            "e\u0301",
            "AD",
            "CN",
        )
    ),
    st.text(max_size=8),
)
TABLES = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.tuples(st.lists(st.lists(CELLS, min_size=4, max_size=6), max_size=8), st.sampled_from((",", "\t", ";"))).map(
        lambda drawn: "\n".join(
            drawn[1].join(row) for row in [["subject", "modality", "path", "diagnosis", "session"], *drawn[0]]
        ).encode("utf-8", "surrogatepass")
    ),
)
CONFIG = CohortConfig.model_validate(
    {"manifest": "table.csv", "label": "diagnosis", "positive": "AD", "modalities": {"MRI": {"kind": "volume"}}}
)


@PROFILE
@given(TABLES)
def test_any_bytes_as_a_manifest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    with refusals(ManifestError):
        table = read_table(tmp_path / "table.csv")
        check_manifest(table, folder=tmp_path, config=CONFIG, smallest_class=1)


@PROFILE
@given(TABLES, TABLES)
def test_any_bytes_as_tables_of_bids(tmp_path: Path, participants: bytes, sessions: bytes) -> None:
    scan = tmp_path / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T1w.nii.gz"
    scan.parent.mkdir(parents=True, exist_ok=True)
    scan.touch()
    (tmp_path / "participants.tsv").write_bytes(participants)
    (tmp_path / "sub-01" / "sub-01_sessions.tsv").write_bytes(sessions)
    with refusals(ManifestError):
        read_bids(tmp_path)

"""One odd image in a series, a file without a preamble, a packed file: the rest is used, and it is said."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import dicom_series as made
from helpers.dicom_series import converted, only_volume, reasons, truth, write_series
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, SecondaryCaptureImageStorage

from intake.__main__ import main as intake
from intake.dicom.series import PACKED, read_dicom_folder
from intake.pseudonyms import pseudonym

UIDS = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"}


def secondary(image: Dataset) -> None:
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    del image.ImagePositionPatient, image.ImageOrientationPatient


def coloured(image: Dataset) -> None:
    secondary(image)
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelData = bytes(3 * made.ROWS * made.COLUMNS)


def smaller(image: Dataset) -> None:
    image.Rows, image.PixelData = made.ROWS // 2, image.PixelData[: made.ROWS * made.COLUMNS]


def finer(image: Dataset) -> None:
    image.PixelSpacing = [0.5, 0.5]


def turned(image: Dataset) -> None:
    image.ImageOrientationPatient = list(made.SAGITTAL)


def placeless(image: Dataset) -> None:
    del image.ImagePositionPatient


def kind(*codes: str) -> Callable[[Dataset], None]:
    return lambda image: setattr(image, "ImageType", list(codes))


def write_odd(folder: Path, change: Callable[[Dataset], None], name: str, **values: Any) -> None:
    """One more image with the UID of the series, above the others."""

    def odd(image: Dataset, number: int, frame: int) -> None:
        image.ImagePositionPatient = [-20, -31, 142.0]
        image.PixelData = bytes([7]) * len(image.PixelData)
        change(image)

    write_series(folder, slices=1, each=odd, name=lambda number: name, **UIDS, **values)


@pytest.mark.parametrize("name", ["AAA", "ZZZ"])  # read before the others, and after
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (kind("DERIVED", "SECONDARY", "SCREEN SAVE"), "derived from other images"),
        (kind("DERIVED", "PRIMARY", "ADC"), "derived from other images"),
        (kind("ORIGINAL", "PRIMARY", "LOCALIZER"), "a localiser"),
        (secondary, "a screenshot or a picture in colour"),
        (coloured, "a screenshot or a picture in colour"),
        (smaller, "of another size"),
        (finer, "of another voxel size"),
        (turned, "in another direction"),
        (placeless, "without position or orientation"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_one_odd_image_is_set_aside(tmp_path: Path, change: Callable[[Dataset], None], words: str, name: str) -> None:
    write_series(tmp_path / "in", **UIDS)
    write_odd(tmp_path / "in", change, name)
    result = converted(tmp_path / "in")
    volume = only_volume(result, tmp_path / "in")
    np.testing.assert_array_equal(volume.get_fdata(), truth(volume.affine, volume.shape, made.AXIAL))
    assert result.scans["remarks"][0] == f"without 1 image ({words}) in this series"
    assert dict(result.skipped) == {"in a series that is used, but not part of its volume; see the column remarks": 1}


def test_pet_without_attenuation_correction_is_not_averaged_with_the_corrected_one(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "ac", modality="PT", Units="PCNT", **UIDS)
    write_series(
        tmp_path / "in" / "nac", modality="PT", Units="PCNT", slope=lambda number: 0.1, CorrectedImage=["DECY"], **UIDS
    )
    result = converted(tmp_path / "in")
    volume = only_volume(result, tmp_path / "in")
    np.testing.assert_array_equal(volume.get_fdata(), truth(volume.affine, volume.shape))
    assert result.scans["remarks"][0].startswith("without 12 images (PET not corrected for attenuation) in this series")


@pytest.mark.parametrize("several", [1, made.SLICES])
def test_copies_with_a_uid_of_their_own(tmp_path: Path, several: int) -> None:
    write_series(tmp_path / "in" / "a", **UIDS)
    write_series(tmp_path / "in" / "b", slices=several, **UIDS)
    result = converted(tmp_path / "in")
    assert result.scans["remarks"][0] == f"without second copies of {several} images, which have a UID of their own"


def test_other_pixels_at_the_same_place_are_no_copies(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a", **UIDS)
    write_series(tmp_path / "in" / "b", slope=lambda number: 0.5, **UIDS)
    (reason,) = reasons(converted(tmp_path / "in"))
    assert reason.startswith("every slice occurs 2 times")


def test_a_series_that_is_left_out_says_what_is_odd_in_it(tmp_path: Path) -> None:
    write_series(tmp_path / "in", slices=9, **UIDS)
    write_odd(tmp_path / "in", secondary, "odd")
    result = converted(tmp_path / "in")
    assert reasons(result) == [
        "too few slices: 9, at least 10 needed (apart from 1 image (a screenshot or a picture in colour))"
    ]
    assert result.left_out["images"][0] == "10"


def test_two_patients_with_the_same_uids_stay_two(tmp_path: Path) -> None:
    for patient in ("A", "B"):
        write_series(tmp_path / "in" / patient, patient=patient, **UIDS)
    result = converted(tmp_path / "in")
    assert set(result.scans["subject"]) == {pseudonym(patient, made.KEY) for patient in ("A", "B")}


# --- files that are DICOM, and files that are not ---


def strip(path: Path, syntax: str | None, meta: bool) -> None:
    """Take the preamble away, and without `meta` the file meta information too."""
    image = dcmread(path)
    image["PixelData"].VR = "OW"
    clean = Dataset()
    clean.update(image)
    clean.file_meta = image.file_meta
    if syntax == ExplicitVRBigEndian:
        clean.PixelData = np.frombuffer(clean.PixelData, "<u2").astype(">u2").tobytes()
    if syntax:
        clean.file_meta.TransferSyntaxUID = syntax
    clean.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    length = int.from_bytes(content[140:144], "little")
    path.write_bytes(content[132 if meta else 144 + length :])


@pytest.mark.parametrize(
    ("syntax", "meta"),
    [(None, True), (None, False), (ImplicitVRLittleEndian, False), (ExplicitVRBigEndian, True)],
    ids=["explicit, meta", "explicit", "implicit", "big endian, meta"],
)
def test_files_without_a_preamble_are_read(tmp_path: Path, syntax: str | None, meta: bool) -> None:
    write_series(tmp_path / "in")
    for path in (tmp_path / "in").iterdir():
        strip(path, syntax, meta)
    result = converted(tmp_path / "in")
    volume = only_volume(result, tmp_path / "in")
    np.testing.assert_array_equal(volume.get_fdata(), truth(volume.affine, volume.shape))


def test_files_that_are_no_dicom_are_counted_by_what_they_are(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a")
    folder = tmp_path / "in" / "b"
    folder.mkdir()
    content = (tmp_path / "in" / "a" / "IM0001").read_bytes()
    (folder / "image.dcm.gz").write_bytes(gzip.compress(content))
    (folder / "images.zip").write_bytes(b"PK\x03\x04" + bytes(300))
    (folder / "images.tar").write_bytes(bytes(257) + b"ustar" + bytes(300))
    (folder / "almost").write_bytes(b"\x08\x00" + b"hello" * 100)
    (folder / "text").write_text("hello" * 100)
    (folder / "byte").write_bytes(b"\x08")
    skipped = dict(read_dicom_folder(tmp_path / "in").skipped)
    assert skipped.pop(PACKED) == 3
    assert sum(skipped.values()) == 3
    assert set(skipped) <= {"not DICOM", "DICOM header damaged"}


@pytest.mark.parametrize("content", ["nothing", "no series", "no rule"])
def test_nothing_used_at_all_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    if content == "no series":
        (folder / "text").write_text("hello")
    if content == "no rule":
        write_series(folder, modality="CT")
    assert intake(["dicom", str(folder), str(out), "--key", str(tmp_path / "key")]) == 2
    printed = capsys.readouterr()
    why = f"reasons are in {out / 'left_out.csv'}" if content == "no rule" else "it has no DICOM series"
    assert f"nothing in {folder} could be used: {why}" in printed.err
    assert (out / "left_out.csv").exists()
    if content == "no series":
        assert "1 files skipped: not DICOM" in printed.out


def test_the_header_is_that_of_the_stack(tmp_path: Path) -> None:
    """A screenshot that comes first may say another modality, age or description."""
    write_series(tmp_path / "in", **UIDS)
    write_odd(tmp_path / "in", secondary, "AAA", Modality="OT", SeriesDescription="screen save", PatientAge="001Y")
    result = converted(tmp_path / "in")
    assert result.scans[["modality", "age"]].values.tolist() == [["T1w", "80"]]


@pytest.mark.parametrize(("zone", "uptake_min"), [("+0100", 110), ("+0000", 170), ("", 170), ("-0130", 260)])
def test_an_injection_in_another_time_zone(tmp_path: Path, zone: str, uptake_min: int) -> None:
    """07:25 UTC is 08:25 of the scanner's clock at +0100; the scan is at 10:15."""

    def injected(image: Dataset, number: int, frame: int) -> None:
        image.TimezoneOffsetFromUTC = zone
        image.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime = "20210304072500.00+0000"

    write_series(tmp_path / "in", modality="PT", slope=lambda number: 50.0, each=injected)
    volume = only_volume(converted(tmp_path / "in"), tmp_path / "in")
    dose_bq = 370e6 * 2 ** (-uptake_min / 110)
    np.testing.assert_allclose(volume.get_fdata().max(), 900 * 74e3 / dose_bq, rtol=1e-6)

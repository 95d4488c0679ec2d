"""The series of images in a folder of DICOM files and their headers, read without pixels.

Patient ids, dates and UIDs are kept in memory, to group and to order by. No `repr`, message or count here shows them,
and none shows a path below the folder, since folders and files of an export are often called after patients.
"""

import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from files.reading import open_regular
from intake.dicom import header as header_of
from intake.dicom.suv import PetFacts
from preprocessing.errors import ScanError

SAME_POSITION_MM = 0.01  # slices nearer to each other than this are one slice, imaged twice
SAME_DIRECTION = 1e-3  # largest difference of direction cosines within one orientation
DEFLATED = "deflated DICOM, which dcm2niix does not read; export it otherwise, or unpack it (dcmconv +te)"
_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)  # the length of pixels is known
_NOT_MAGNITUDE = {"P", "R", "I", "PHASE", "REAL", "IMAGINARY", "PHASE MAP"}  # third value of ImageType
_PHILIPS = (0x70530010, 0x70531000)
_KEYWORDS = """
    PatientID PatientBirthDate PatientSex PatientAge PatientWeight StudyInstanceUID StudyDate SeriesInstanceUID
    SOPInstanceUID SeriesNumber SeriesDate SeriesTime Modality ImageType SeriesDescription ComplexImageComponent
    ScanningSequence EchoTime RepetitionTime InversionTime AcquisitionDate AcquisitionTime AcquisitionDateTime
    ContrastBolusAgent CorrectedImage SUVType Units RadiopharmaceuticalInformationSequence DecayCorrection
    ImageOrientationPatient ImagePositionPatient NumberOfFrames Rows Columns BitsAllocated SamplesPerPixel
"""
_TAGS = [Tag(word) for word in (*_KEYWORDS.split(), *header_of.GROUPS)] + [Tag(each) for each in _PHILIPS]


@dataclass(frozen=True)
class Image:
    """One DICOM file."""

    path: Path = field(repr=False)
    uid: str = field(repr=False)
    positions_mm: tuple[float, ...] = field(repr=False)  # of its frames along their normal; () where missing
    orientations: tuple[tuple[float, ...], ...] = field(repr=False)  # direction cosines, each different one once
    echo_time_ms: float | None
    magnitude: bool  # False for phase, real and imaginary images
    acquired: datetime | None = field(repr=False)
    pixel_bytes: float = 0.0  # that its header promises, unpacked


@dataclass(frozen=True)
class Series:
    """One series; common attributes are those of its first image. Only numbers are in its `repr`."""

    patient: str = field(repr=False)  # PatientID without spaces around it
    birth_date: date | None = field(repr=False)
    study: str = field(repr=False)
    uid: str = field(repr=False)
    study_date: date | None = field(repr=False)
    started: datetime | None = field(repr=False)  # the first acquisition, or the time of the series
    description: str = field(repr=False)  # free text
    modality: str = field(repr=False)  # MR, PT, CT, …
    image_type: tuple[str, ...] = field(repr=False)
    scanning_sequence: tuple[str, ...] = field(repr=False)
    tracer: str = field(repr=False)  # radiopharmaceutical, as text and as code
    sex: str  # F, M, O or ""
    age: int | None  # whole years; 90 stands for all above
    number: int | None
    repetition_time_ms: float | None
    inversion_time_ms: float | None
    contrast: bool  # a contrast agent is named
    orientations: int  # how many different ones the images have
    images: tuple[Image, ...] = field(repr=False)
    damaged: int  # further images that are cut short
    pet: PetFacts = field(repr=False)


class DicomFolder(NamedTuple):
    """All series of a folder, and how many files are in none."""

    series: tuple[Series, ...]
    """Sorted by patient, study, time, number and uid."""
    skipped: Mapping[str, int]
    """Why a file is in no series → how many files."""


class _Collected:
    """A series while its files are being collected."""

    def __init__(self, header: Dataset) -> None:
        self.header = header
        self.images: list[Image] = []
        self.damaged: list[Image] = []


def read_dicom_folder(folder: Path) -> DicomFolder:
    """Find every series below a folder, whatever its files are called; links to folders are not followed.

    Links that lead out of the folder, files that are no DICOM, deflated ones, DICOMDIR, DICOM without an image, second
    copies of an image (same SOPInstanceUID) and damaged headers are skipped and counted. An image whose pixels are cut
    short counts as `damaged` in its series; for compressed pixels only the converter finds that out.

    Raises:
        ScanError: there is no such folder.
    """
    if not folder.is_dir():
        raise ScanError("there is no such folder of DICOM files; give the top folder of the export")
    skipped: Counter[str] = Counter()
    collected: dict[tuple[str, str], _Collected] = {}
    whole: set[tuple[object, ...]] = set()
    root = Path(os.path.realpath(folder))
    for path in _files(folder):
        with _quiet():
            header, problem = _read_header(path, root)
            if header is not None:
                image = _image(path, header)
                series = collected.setdefault(_key(header), _Collected(header))
        if header is not None and not problem and _identity(series, image) in whole:
            problem = "second copy of an image"
        elif header is not None and not problem:
            series.images.append(image)
            whole.add(_identity(series, image))
        elif header is not None:
            series.damaged.append(image)
        if problem:
            skipped[problem] += 1
    for each in collected.values():  # a damaged image with a whole copy elsewhere does not count
        each.damaged = [image for image in each.damaged if _identity(each, image) not in whole]
    with _quiet():
        described = [_described(each) for each in collected.values()]
    return DicomFolder(tuple(sorted(described, key=_order)), dict(sorted(skipped.items())))


def slice_positions(images: tuple[Image, ...]) -> tuple[list[float], list[int]]:
    """Return the positions of slices along their normal, mm, ascending, and the number of images at each."""
    positions: list[float] = []
    counts: list[int] = []
    for position in sorted(position for image in images for position in image.positions_mm):
        if positions and position - positions[-1] < SAME_POSITION_MM:
            counts[-1] += 1
        else:
            positions.append(position)
            counts.append(1)
    return positions, counts


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence pydicom's warnings, which quote values, patient ids among them."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def _read_header(path: Path, root: Path) -> tuple[Dataset | None, str]:
    """Return the header or None, and the problem; a header with a problem is of an image that is cut short."""
    if not path.is_file():
        return None, "link that leads nowhere, or special file"
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
        return None, "link that leads out of the folder"
    try:
        with open_regular(path) as stream:
            header = pydicom.dcmread(header_of.HeaderOnly(stream), stop_before_pixels=True, specific_tags=_TAGS)
            left = os.fstat(stream.fileno()).st_size - stream.tell()
        if header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            return None, "DICOMDIR"
        if not all(header_of.text(header, name) for name in ("SeriesInstanceUID", "SOPInstanceUID")):
            return None, "DICOM header damaged"
        if not header_of.number(header, "Rows") or not header_of.number(header, "Columns"):
            return None, "DICOM without an image"
        cut = header.file_meta.get("TransferSyntaxUID") in _NATIVE and left < _pixel_bytes(header)
    except header_of.DeflatedError:
        return None, DEFLATED
    except InvalidDicomError:
        return None, "not DICOM"
    except OSError:
        return None, "cannot be opened"
    except header_of.DAMAGED:
        return None, "DICOM header damaged"
    return header, "image cut short" if cut else ""


def _pixel_bytes(header: Dataset) -> float:
    factors = [header_of.number(header, name) for name in ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames")]
    return float(np.prod([factor or 1 for factor in factors])) * (header_of.number(header, "BitsAllocated") or 16) / 8


def _image(path: Path, header: Dataset) -> Image:
    kind = {*header_of.codes(header, "ImageType")[2:3], *header_of.codes(header, "ComplexImageComponent")}
    return Image(
        path=path,
        uid=header_of.text(header, "SOPInstanceUID"),
        positions_mm=header_of.positions_mm(header),
        orientations=_different(header_of.orientations(header)),
        echo_time_ms=header_of.number(header, "EchoTime", "EffectiveEchoTime"),
        magnitude=not _NOT_MAGNITUDE & kind,
        acquired=header_of.moment(header, "AcquisitionDate", "AcquisitionTime")
        or header_of.moment_in_one(header, "AcquisitionDateTime"),
        pixel_bytes=_pixel_bytes(header),
    )


def _different(directions: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
    kinds: list[tuple[float, ...]] = []
    for direction in directions:
        if all(max(abs(np.subtract(direction, kind))) > SAME_DIRECTION for kind in kinds):
            kinds.append(direction)
    return tuple(kinds)


def _key(header: Dataset) -> tuple[str, str]:
    return header_of.text(header, "StudyInstanceUID"), header_of.text(header, "SeriesInstanceUID")


def _identity(series: _Collected, image: Image) -> tuple[object, ...]:
    """Return a key equal for copies; the UID alone is not enough, some anonymisers repeat it."""
    return id(series), image.uid, image.positions_mm, image.echo_time_ms, image.acquired


def _described(collected: _Collected) -> Series:
    header = collected.header
    acquired = min((image.acquired for image in collected.images if image.acquired), default=None)
    begun = header_of.moment(header, "SeriesDate", "SeriesTime")
    number = header_of.number(header, "SeriesNumber")
    day = header_of.day(header_of.text(header, "StudyDate")) or header_of.day(header_of.text(header, "SeriesDate"))
    sex = header_of.text(header, "PatientSex").upper()
    return Series(
        patient=header_of.text(header, "PatientID"),
        birth_date=header_of.day(header_of.text(header, "PatientBirthDate")),
        study=header_of.text(header, "StudyInstanceUID"),
        uid=header_of.text(header, "SeriesInstanceUID"),
        study_date=day or (acquired.date() if acquired else None),
        started=acquired or begun,
        description=header_of.text(header, "SeriesDescription"),
        sex=sex if sex in ("F", "M", "O") else "",
        age=header_of.age(header),
        number=None if number is None else int(number),
        modality=header_of.text(header, "Modality").upper(),
        image_type=header_of.codes(header, "ImageType"),
        scanning_sequence=header_of.codes(header, "ScanningSequence"),
        repetition_time_ms=header_of.number(header, "RepetitionTime"),
        inversion_time_ms=header_of.number(header, "InversionTime", "InversionTimes"),
        contrast=bool(header_of.text(header, "ContrastBolusAgent")),
        tracer=_tracer(header),
        orientations=len(_different(tuple(each for image in collected.images for each in image.orientations))),
        images=tuple(collected.images),
        damaged=len(collected.damaged),
        pet=_pet_facts(header, begun, acquired),
    )


def _order(series: Series) -> tuple[str, str, str, int, str]:
    started = series.started.isoformat() if series.started else "9"
    return series.patient, series.study, started, series.number or 0, series.uid


def _tracer(header: Dataset) -> str:
    names: list[str] = []
    for item in header_of.items(header, "RadiopharmaceuticalInformationSequence")[:1]:
        codes = header_of.items(item, "RadiopharmaceuticalCodeSequence")
        names += [header_of.text(item, "Radiopharmaceutical"), *(header_of.text(code, "CodeMeaning") for code in codes)]
    return " ".join(filter(None, names))


def _pet_facts(header: Dataset, begun: datetime | None, acquired: datetime | None) -> PetFacts:
    dose = next(iter(header_of.items(header, "RadiopharmaceuticalInformationSequence")), Dataset())
    return PetFacts(
        units=header_of.text(header, "Units").upper(),
        suv_type=header_of.text(header, "SUVType").upper(),
        corrections=header_of.codes(header, "CorrectedImage"),
        decay_correction=header_of.text(header, "DecayCorrection").upper(),
        weight_kg=header_of.number(header, "PatientWeight"),
        dose_bq=header_of.number(dose, "RadionuclideTotalDose"),
        half_life_s=header_of.number(dose, "RadionuclideHalfLife"),
        injected=header_of.moment_in_one(dose, "RadiopharmaceuticalStartDateTime"),
        injected_time=header_of.clock(header_of.text(dose, "RadiopharmaceuticalStartTime")),
        series_start=begun,
        first_acquisition=acquired,
        philips_factor=header_of.philips_suv_factor(header),
    )

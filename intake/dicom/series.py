"""The series of images in a folder of DICOM files and their headers, read without pixels.

Patient ids, dates and UIDs are kept in memory, to group and to order by. No `repr`, message or count here shows them,
and none shows a path below the folder, since folders and files of an export are often called after patients.
"""

import os
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import NamedTuple

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
from intake.dicom.images import Image, different, image_of, pixel_bytes, quiet, set_aside
from intake.dicom.suv import PetFacts
from intake.dicom.words import is_agent, is_missing, nobody
from preprocessing.errors import ScanError

DEFLATED = "deflated DICOM, which dcm2niix does not read; export it otherwise, or unpack it (dcmconv +te)"
_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)  # the length of pixels is known
PACKED = "a packed file (zip, gz, tar, …); unpack it into the folder"
_PACKS = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"7z\xbc\xaf", b"Rar!", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")  # of a file without preamble, little and big endian
_PHILIPS = (0x70530010, 0x70531000)
_KEYWORDS = """
    PatientID PatientBirthDate PatientSex PatientAge PatientWeight StudyInstanceUID StudyDate SeriesInstanceUID
    SOPInstanceUID SeriesNumber SeriesDate SeriesTime Modality ImageType SeriesDescription ComplexImageComponent
    ScanningSequence EchoTime RepetitionTime InversionTime AcquisitionDate AcquisitionTime AcquisitionDateTime
    ContrastBolusAgent CorrectedImage SUVType Units RadiopharmaceuticalInformationSequence DecayCorrection
    ImageOrientationPatient ImagePositionPatient NumberOfFrames Rows Columns BitsAllocated SamplesPerPixel SOPClassUID
    PixelSpacing ActualFrameDuration BodyPartExamined ProtocolName StudyDescription ContrastBolusAgentSequence
    ContrastBolusVolume NumberOfSlices TimezoneOffsetFromUTC SyntheticData
"""
_TAGS = [Tag(word) for word in (*_KEYWORDS.split(), *header_of.GROUPS)] + [Tag(each) for each in _PHILIPS]


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
    nobody: str = ""  # what PatientID says instead of an id, such as ANONYMOUS; `patient` is then ""
    age_contradicts: bool = False  # PatientAge and PatientBirthDate say different ages
    body_part: str = field(default="", repr=False)  # BodyPartExamined
    protocol: str = field(default="", repr=False)  # free text
    study_description: str = field(default="", repr=False)  # free text
    slices_stated: int | None = None  # NumberOfSlices of PET
    synthetic: bool = False  # SyntheticData is YES: made up, no scan of a patient
    set_aside: tuple[tuple[str, int], ...] = ()  # why further images do not belong to the stack, and how many

    @property
    def key(self) -> tuple[str, str, str]:
        """What no two series share."""
        return self.patient, self.study, self.uid


class DicomFolder(NamedTuple):
    """All series of a folder, and how many files are in none."""

    series: tuple[Series, ...]
    """Sorted by patient, study, time, number and uid."""
    skipped: Mapping[str, int]
    """Why a file is in no series → how many files."""


class _Collected:
    """A series while its files are being collected."""

    def __init__(self) -> None:
        self.headers: dict[Hashable, Dataset] = {}  # the first of each kind of image
        self.images: list[Image] = []
        self.damaged: list[Image] = []
        self.contrast = False

    def note(self, header: Dataset, image: Image) -> None:
        """Keep what the series needs of a header."""
        self.headers.setdefault(_kind(image), header)
        self.contrast |= _contrast(header) and not image.odd


def _kind(image: Image) -> Hashable:
    return image.odd, image.size, image.orientations, image.spacing_mm


def read_dicom_folder(folder: Path) -> DicomFolder:
    """Find every series below a folder, whatever its files are called; links to folders are not followed.

    Links that lead out of the folder, files that are no DICOM, deflated ones, DICOMDIR, DICOM without an image, second
    copies of an image (same SOPInstanceUID) and damaged headers are skipped and counted. Files without a preamble are
    read; their tags decide if they are DICOM. An image whose pixels are cut short counts as `damaged` in its series;
    for compressed pixels only the converter finds that out. Odd images in a series are set aside.

    Raises:
        ScanError: there is no such folder.
    """
    if not folder.is_dir():
        raise ScanError("there is no such folder of DICOM files; give the top folder of the export")
    skipped: Counter[str] = Counter()
    collected: dict[tuple[str, ...], _Collected] = {}
    whole: set[tuple[object, ...]] = set()
    root = Path(os.path.realpath(folder))
    for path in _files(folder):
        with quiet():
            image, header, problem = _read_image(path, root)
            series = None
            if image is not None and header is not None:
                series = collected.setdefault(_key(header), _Collected())
                series.note(header, image)
        if series is not None and image is not None:
            if not problem and _identity(series, image) in whole:
                problem = "second copy of an image"
            elif not problem:
                series.images.append(image)
                whole.add(_identity(series, image))
            else:
                series.damaged.append(image)
        if problem:
            skipped[problem] += 1
    for each in collected.values():  # a damaged image with a whole copy elsewhere does not count
        each.damaged = [image for image in each.damaged if _identity(each, image) not in whole]
    with quiet():
        described = [_described(each) for each in collected.values()]
    return DicomFolder(tuple(sorted(described, key=_order)), dict(sorted(skipped.items())))


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names))


def _read_image(path: Path, root: Path) -> tuple[Image | None, Dataset | None, str]:
    """Return an image, its header and the problem; an image that has a problem is cut short."""
    if not path.is_file():
        return None, None, "link that leads nowhere, or special file"
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
        return None, None, "link that leads out of the folder"
    try:
        with open_regular(path) as stream:
            start = stream.read(262)
            stream.seek(0)
            preamble = start[128:132] == b"DICM"
            if not preamble and start[:2] not in _FIRST_GROUPS:
                packed = start.startswith(_PACKS) or start[257:262] == b"ustar"
                return None, None, PACKED if packed else "not DICOM"
            bounded = header_of.HeaderOnly(stream)
            header = pydicom.dcmread(bounded, stop_before_pixels=True, specific_tags=_TAGS, force=not preamble)
            left, at = os.fstat(stream.fileno()).st_size - stream.tell(), stream.tell()
        if header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            return None, None, "DICOMDIR"
        if not all(header_of.text(header, name) for name in ("SeriesInstanceUID", "SOPInstanceUID")):
            return None, None, "DICOM header damaged" if preamble or "SOPClassUID" in header else "not DICOM"
        if not header_of.number(header, "Rows") or not header_of.number(header, "Columns"):
            return None, None, "DICOM without an image"
        image = image_of(path, header, preamble=preamble, pixels_at=at)
        syntax = header.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)
    except header_of.DeflatedError:
        return None, None, DEFLATED
    except InvalidDicomError:
        return None, None, "not DICOM"
    except OSError:
        return None, None, "cannot be opened"
    except header_of.DAMAGED:
        return None, None, "DICOM header damaged"
    return image, header, "image cut short" if syntax in _NATIVE and left < pixel_bytes(header) else ""


def _key(header: Dataset) -> tuple[str, ...]:
    """Return what images of a series share; the patient too, since some anonymisers give all the same UIDs."""
    return tuple(header_of.text(header, name) for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))


def _identity(series: _Collected, image: Image) -> tuple[object, ...]:
    """Return a key equal for copies; the UID alone is not enough, some anonymisers repeat it."""
    return id(series), image.uid, image.positions_mm, image.echo_time_ms, image.acquired


def _described(collected: _Collected) -> Series:
    images, aside = set_aside(collected.images)
    header = collected.headers[_kind((images or collected.damaged)[0])]
    acquired = min((image.acquired for image in images if image.acquired), default=None)
    begun = header_of.moment(header, "SeriesDate", "SeriesTime")
    number = header_of.number(header, "SeriesNumber")
    day = header_of.day(header_of.text(header, "StudyDate")) or header_of.day(header_of.text(header, "SeriesDate"))
    sex, patient = header_of.text(header, "PatientSex").upper(), header_of.text(header, "PatientID")
    part, stated = header_of.text(header, "BodyPartExamined"), header_of.number(header, "NumberOfSlices")
    return Series(
        patient="" if nobody(patient) else patient,
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
        contrast=collected.contrast,
        tracer=_tracer(header),
        orientations=len(different(tuple(each for image in images for each in image.orientations))),
        images=tuple(images),
        damaged=len(collected.damaged),
        pet=_pet_facts(header, begun, acquired),
        nobody=nobody(patient),
        age_contradicts=header_of.age_contradicts(header),
        body_part="" if is_missing(part) else part,
        protocol=header_of.text(header, "ProtocolName"),
        study_description=header_of.text(header, "StudyDescription"),
        slices_stated=None if stated is None else int(stated),
        synthetic=header_of.text(header, "SyntheticData").upper() == "YES",
        set_aside=tuple(aside.items()),
    )


def _contrast(header: Dataset) -> bool:
    """Check if tags say that a contrast agent was given."""
    agents = [header_of.text(header, "ContrastBolusAgent")]
    for item in header_of.items(header, "ContrastBolusAgentSequence"):
        agents.append(header_of.text(item, "CodeMeaning"))
    return any(map(is_agent, agents)) or (header_of.number(header, "ContrastBolusVolume") or 0) > 0


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
        injected=header_of.moment_in_one(
            dose, "RadiopharmaceuticalStartDateTime", header_of.text(header, "TimezoneOffsetFromUTC")
        ),
        injected_time=header_of.clock(header_of.text(dose, "RadiopharmaceuticalStartTime")),
        series_start=begun,
        first_acquisition=acquired,
        philips_factor=header_of.philips_suv_factor(header),
    )

"""DICOM series made here, with patients' names planted in them, and what the intake makes of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)

from intake.dicom.convert import DicomImport, import_dicom

KEY = bytes(range(32))
SLICES, ROWS, COLUMNS = 12, 20, 16
SPACING = (1.5, 1.25, 2.0)  # between rows, between columns, between slices, mm
BLOB = (slice(8, 11), slice(13, 16), slice(3, 6))  # slices, rows, columns; centre (9, 14, 4)
CORNER = np.array([-20.0, -31.0, 42.0])  # centre of the first voxel, LPS, mm
AXIAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)
OBLIQUE = (0.96, 0.28, 0.0, -0.168, 0.576, -0.8)  # two unit vectors at right angles

PLANTED = {
    "PatientName": "Plantagenet^Eleonöre",
    "PatientBirthDate": "19410213",
    "AccessionNumber": "ACC99881",
    "InstitutionName": "Sankt Plantusklinik",
    "ReferringPhysicianName": "Drplant^Rufus",
    "OperatorsName": "Opplant",
    "ImageComments": "plantcomment",
    "ProtocolName": "plantprotocol",
    "StationName": "PLANTSTN",
    "DeviceSerialNumber": "SER77123",
    "PatientComments": "plantnote",
    "OtherPatientIDs": "OTHERID55",
    "StudyDescription": "plantstudy",
}


def voxels(slices: int = SLICES) -> np.ndarray:
    """(slices, rows, columns): a blob off the centre on a background without symmetry."""
    grid = np.indices((slices, ROWS, COLUMNS))
    feature_map = 20 + grid[0] + 2 * grid[1] + 3 * grid[2]
    feature_map[BLOB] = 900
    return feature_map


def blob_in_world(orientation: tuple[float, ...]) -> np.ndarray:
    """Where DICOM puts the centre of the blob, turned from LPS to RAS, mm. Source: PS3.3, equation C.7.6.2.1-1."""
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(along_row, along_column)
    lps = CORNER + 4 * SPACING[1] * along_row + 14 * SPACING[0] * along_column + 9 * SPACING[2] * normal
    return lps * (-1, -1, 1)


def header(modality: str, patient: str, **values: Any) -> Dataset:
    """What all images of a series share."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SpecificCharacterSet = "ISO_IR 192"
    kinds = {"PT": PositronEmissionTomographyImageStorage}
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = kinds.get(modality, MRImageStorage)
    image.PatientID, image.PatientSex, image.PatientWeight, image.Modality = patient, "F", "74", modality
    image.Manufacturer, image.StudyTime, image.SeriesTime, image.AcquisitionTime = "SIEMENS", *["101500"] * 3
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = "20210304"
    image.SeriesNumber, image.ImageType, image.SeriesDescription = 3, ["ORIGINAL", "PRIMARY", "M"], "t1_mprage_sag"
    image.Rows, image.Columns, image.PixelSpacing, image.SliceThickness = ROWS, COLUMNS, list(SPACING[:2]), SPACING[2]
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    if modality == "MR":
        image.ScanningSequence, image.MRAcquisitionType, image.MagneticFieldStrength = ["GR", "IR"], "3D", 3
        image.EchoTime, image.RepetitionTime, image.InversionTime = 3.1, 2300, 900
    elif modality == "PT":
        image.Units, image.DecayCorrection, image.CorrectedImage = "BQML", "START", ["DECY", "ATTN", "SCAT"]
        image.SeriesType, image.SeriesDescription = ["STATIC", "IMAGE"], "brain"
        dose = Dataset()
        dose.Radiopharmaceutical, dose.RadionuclideTotalDose = "Fluorodeoxyglucose", 370e6
        dose.RadionuclideHalfLife, dose.RadiopharmaceuticalStartTime = 6600, "082500"  # 110 minutes before
        image.RadiopharmaceuticalInformationSequence = Sequence([dose])
    for name, value in (PLANTED | values).items():
        setattr(image, name, value)
    return image


def write_series(
    folder: Path,
    *,
    modality: str = "MR",
    patient: str = "PLANTID-77",
    slices: int = SLICES,
    frames: int = 1,
    orientation: tuple[float, ...] = AXIAL,
    slope: Callable[[int], float] = lambda number: 1.0,
    name: Callable[[int], str] = "IM{:04d}".format,
    each: Callable[[Dataset, int, int], None] = lambda image, number, frame: None,
    **values: Any,
) -> str:
    """Write a series, one file an image; returns its SeriesInstanceUID."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()} | values
    normal = np.cross(orientation[:3], orientation[3:])
    for frame in range(frames):
        for number, plane in enumerate(voxels(slices)):
            image = header(modality, patient, **values)
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            image.InstanceNumber, image.AcquisitionNumber = 1 + number + frame * slices, frame + 1
            image.ImageOrientationPatient = list(orientation)
            image.ImagePositionPatient = [round(x, 6) for x in CORNER + number * SPACING[2] * normal]
            image.RescaleSlope, image.RescaleIntercept = slope(number), 0
            image.PixelData = np.round(plane * (1 + frame) / slope(number)).astype("<u2").tobytes()
            if modality == "PT":
                image.FrameReferenceTime, image.ActualFrameDuration = 60000 * frame, 60000
                image.NumberOfSlices, image.ImageIndex = slices, image.InstanceNumber
            if frames > 1 and modality == "PT":
                image.SeriesType, image.NumberOfTimeSlices = ["DYNAMIC", "IMAGE"], frames
                image.AcquisitionTime = f"10{15 + frame}00"
            each(image, number, frame)
            image.save_as(folder / name(image.InstanceNumber), enforce_file_format=True)
    return values["SeriesInstanceUID"]


def group(**values: Any) -> Sequence:
    """A sequence of one item."""
    inner = Dataset()
    for name, value in values.items():
        setattr(inner, name, value)
    return Sequence([inner])


def write_enhanced(
    folder: Path,
    *,
    order: list[int] | None = None,
    stacks: Callable[[int], tuple[str, int]] = lambda number: ("1", number + 1),
    orientation: tuple[float, ...] = OBLIQUE,
    slope: Callable[[int], float] | None = None,
    **values: Any,
) -> None:
    """Write one multi-frame file.

    Args:
        folder: for the file.
        order: slices in the order of their frames, counted from 0.
        stacks: slice → StackID and InStackPositionNumber.
        orientation: direction cosines.
        slope: slice → RescaleSlope of its frame.
        values: further attributes.
    """
    order = list(range(SLICES)) if order is None else order
    image = header("MR", "E1", StudyInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid(), **values)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for name in ("PixelSpacing", "SliceThickness", "EchoTime", "RepetitionTime", "InversionTime"):
        delattr(image, name)
    shared = Dataset()
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=list(orientation))
    shared.PixelMeasuresSequence = group(PixelSpacing=list(SPACING[:2]), SliceThickness=SPACING[2])
    shared.MREchoSequence = group(EffectiveEchoTime=3.1)
    shared.MRTimingAndRelatedParametersSequence = group(RepetitionTime=2300.0)
    image.SharedFunctionalGroupsSequence = Sequence([shared])
    normal, frames = np.cross(orientation[:3], orientation[3:]), []
    names = sorted({stacks(number)[0] for number in order})
    for number in order:
        frame = Dataset()
        corner = [round(x, 6) for x in CORNER + number * SPACING[2] * normal]
        frame.PlanePositionSequence = group(ImagePositionPatient=corner)
        stack, place = stacks(number)
        index = [names.index(stack) + 1, place] if len(names) > 1 else [place]
        frame.FrameContentSequence = group(StackID=stack, InStackPositionNumber=place, DimensionIndexValues=index)
        if slope is not None:
            frame.PixelValueTransformationSequence = group(
                RescaleSlope=slope(number), RescaleIntercept=0, RescaleType="US"
            )
        frames.append(frame)
    image.PerFrameFunctionalGroupsSequence, image.NumberOfFrames = Sequence(frames), len(order)
    stored = [np.round(voxels()[number] / (slope(number) if slope else 1)) for number in order]
    image.PixelData = np.array(stored).astype("<u2").tobytes()
    folder.mkdir(parents=True, exist_ok=True)
    image.save_as(folder / "all", enforce_file_format=True)


def truth(affine: np.ndarray, shape: tuple[int, ...], orientation: tuple[float, ...] = AXIAL) -> np.ndarray:
    """The value that DICOM puts at the centre of each voxel, (X, Y, Z); NaN where it puts none."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    turn = np.stack([row * SPACING[1], column * SPACING[0], np.cross(row, column) * SPACING[2]], axis=1)
    ras = nibabel.affines.apply_affine(affine, np.indices(shape).reshape(3, -1).T)
    place = np.linalg.solve(turn, (ras * (-1, -1, 1) - CORNER).T)
    c, r, k = np.rint(place).astype(int)
    assert abs(place - np.rint(place)).max() < 0.02, "off the grid"
    n = int(k.max()) + 1
    return voxels(n)[k, r, c].reshape(shape)


def converted(folder: Path, **arguments: Any) -> DicomImport:
    return import_dicom(folder, folder.parent / "out", key=KEY, **arguments)


def only_volume(result: DicomImport, folder: Path) -> nibabel.Nifti1Image:
    assert len(result.scans) == 1, result.left_out.to_string()
    return nibabel.load(folder.parent / "out" / result.scans["path"][0])


def reasons(result: DicomImport) -> list[str]:
    return sorted(result.left_out["reason"])


# --- geometry and values ---

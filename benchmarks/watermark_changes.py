"""What happens to image files on their way: rewriting, JPEG, noise, other grids, turns, DICOM, our preprocessing."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy import ndimage
from scipy.spatial.transform import Rotation

from intake.dicom.convert import convert_series
from intake.dicom.series import read_dicom_folder
from intake.dicom.verify import verified
from preprocessing.brains import VolumePipeline, preprocess_volume
from preprocessing.resample import resample
from preprocessing.volumes import read_volume, write_volume

GREYS = 4095  # of an integer file
Floats = NDArray[np.float32]
Affine = NDArray[np.float64]


class Scan(NamedTuple):
    """A volume (X, Y, Z), values around 0 to 1, and its voxel-to-world affine (4, 4), mm."""

    volume: Floats
    affine: Affine


class Tools(NamedTuple):
    """What changes need."""

    folder: Path
    pipeline: VolumePipeline
    random: np.random.Generator


Change = Callable[[Scan, Tools], Scan]


def int16_file(scan: Scan, tools: Tools) -> Scan:
    """Write whole numbers into a gzipped NIfTI, and read it."""
    path = tools.folder / "int16.nii.gz"
    write_volume(path, np.round(GREYS * scan.volume).astype(np.int16), scan.affine, "SYNTHETIC")
    return _read(path)


def jpeg(quality: int) -> Change:
    """Turn axial slices into 8-bit JPEG."""

    def change(scan: Scan, tools: Tools) -> Scan:
        planes = np.round(255 * scan.volume.clip(0, 1)).astype(np.uint8).transpose(2, 0, 1)
        found = np.stack([jpeg_pixels(plane, quality) for plane in planes]).transpose(1, 2, 0)
        return Scan(np.divide(found, 255, dtype=np.float32), scan.affine)

    return change


def jpeg_pixels(pixels: NDArray[np.uint8], quality: int) -> Floats:
    """Return a picture (H, W) or (H, W, 3) after JPEG."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream), dtype=np.float32)


def noise(share: float) -> Change:
    """Add Gaussian noise, a share of the range."""
    return lambda scan, tools: scan._replace(
        volume=scan.volume + share * tools.random.standard_normal(scan.volume.shape, dtype=np.float32)
    )


def blur(sigma_mm: float) -> Change:
    """Blur with a Gaussian."""
    return lambda scan, tools: scan._replace(
        volume=ndimage.gaussian_filter(scan.volume, sigma_mm / np.linalg.norm(scan.affine[:3, :3], axis=0))
    )


def grey_levels(power: float) -> Change:
    """Raise values to a power."""
    return lambda scan, tools: scan._replace(volume=np.power(scan.volume.clip(0, 1), np.float32(power)))


def median(scan: Scan, tools: Tools) -> Scan:
    """Take the median of 3 × 3 × 3 voxels."""
    return scan._replace(volume=ndimage.median_filter(scan.volume, size=3))


def grid(spacing_mm: float, *, back: bool = False) -> Change:
    """Resample bicubically to another voxel size, and back."""

    def change(scan: Scan, tools: Tools) -> Scan:
        own = float(np.linalg.norm(scan.affine[:3, 0]))
        volume, affine = resample(torch.from_numpy(scan.volume), scan.affine, spacing_mm=spacing_mm)
        if back:
            volume, affine = resample(volume, affine, spacing_mm=own)
        return Scan(volume.numpy(), affine)

    return change


def crop(scan: Scan, tools: Tools) -> Scan:
    """Cut an eighth off every side; the header says so."""
    cut = [size // 8 for size in scan.volume.shape]
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ cut
    return Scan(scan.volume[cut[0] : -cut[0], cut[1] : -cut[1], cut[2] : -cut[2]], affine)


def shift(scan: Scan, tools: Tools) -> Scan:
    """Move everything by three voxels; the header stays."""
    return scan._replace(volume=np.roll(scan.volume, (3, -3, 3), axis=(0, 1, 2)))


def every_second_slice(scan: Scan, tools: Tools) -> Scan:
    """Keep every second axial slice."""
    return Scan(scan.volume[:, :, ::2], scan.affine @ np.diag([1.0, 1, 2, 1]))


def lower_half(scan: Scan, tools: Tools) -> Scan:
    """Keep the lower half of the slices."""
    return scan._replace(volume=scan.volume[:, :, : scan.volume.shape[2] // 2])


def turn(degrees: float) -> Change:
    """Turn by an angle about an axis drawn at random; the header stays."""

    def change(scan: Scan, tools: Tools) -> Scan:
        axis = tools.random.standard_normal(3)
        matrix = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()
        middle = (np.array(scan.volume.shape) - 1) / 2
        return scan._replace(volume=ndimage.affine_transform(scan.volume, matrix, middle - matrix @ middle, order=1))

    return change


def flip(axis: int) -> Change:
    """Mirror along an axis; the header stays."""
    return lambda scan, tools: scan._replace(volume=np.ascontiguousarray(np.flip(scan.volume, axis)))


def stretch(factor: float) -> Change:
    """Enlarge the content along all axes; the header stays."""

    def change(scan: Scan, tools: Tools) -> Scan:
        middle = (np.array(scan.volume.shape) - 1) / 2
        made = ndimage.affine_transform(scan.volume, np.full(3, 1 / factor), middle * (1 - 1 / factor), order=1)
        return scan._replace(volume=made)

    return change


def bend(most_mm: float) -> Change:
    """Move every place by a smooth field of 30 mm waves, as a non-rigid registration does."""

    def change(scan: Scan, tools: Tools) -> Scan:
        voxel = np.linalg.norm(scan.affine[:3, :3], axis=0)
        places = np.indices(scan.volume.shape, dtype=np.float32)
        for axis in range(3):
            rough = tools.random.standard_normal(scan.volume.shape, dtype=np.float32)
            field = ndimage.gaussian_filter(rough, 12 / voxel)
            places[axis] += field * (most_mm / voxel[axis] / np.abs(field).max())
        return scan._replace(volume=ndimage.map_coordinates(scan.volume, places, order=1))

    return change


def dicom(scan: Scan, tools: Tools) -> Scan:
    """Write a series of axial DICOM files that say Synthetic Data: YES, and convert it as the intake does."""
    folder = tools.folder / "dicom"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    stored = np.round(GREYS * scan.volume.clip(0, 1)).astype("<u2")
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.affine
    steps = np.linalg.norm(to_lps[:3, :3], axis=0)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for number in range(stored.shape[2]):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = MRImageStorage
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.add_new(0x0008001C, "CS", "YES")  # Synthetic Data
        image.PatientID, image.Modality, image.SeriesNumber = "synthetic", "MR", 1
        image.InstanceNumber, image.ImageType = number + 1, ["DERIVED", "PRIMARY"]
        image.Rows, image.Columns = stored.shape[1], stored.shape[0]
        image.PixelSpacing, image.SliceThickness = [float(steps[1]), float(steps[0])], float(steps[2])
        image.ImageOrientationPatient = [*(to_lps[:3, 0] / steps[0]), *(to_lps[:3, 1] / steps[1])]
        image.ImagePositionPatient = [round(float(each), 4) for each in to_lps[:3, 3] + number * to_lps[:3, 2]]
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.RescaleSlope, image.RescaleIntercept = 1, 0
        image.PixelData = np.ascontiguousarray(stored[:, :, number].T).tobytes()
        image.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    (found,) = read_dicom_folder(folder).series
    voxels, affine = convert_series(found.images, slices=stored.shape[2])
    back = verified(voxels, affine, found.images)
    return Scan(np.divide(back.voxels, GREYS, dtype=np.float32), back.affine)


def preprocessed(*, skull_strip: bool, normalise: str = "minmax") -> Change:
    """Run our own preprocessing on the file."""

    def change(scan: Scan, tools: Tools) -> Scan:
        path = tools.folder / "in.nii.gz"
        write_volume(path, np.round(GREYS * scan.volume).astype(np.int16), scan.affine)
        brain = preprocess_volume(tools.pipeline, read_volume(path), None, skull_strip=skull_strip, normalise=normalise)
        return Scan(brain.volume, brain.affine)

    return change


def in_turn(*changes: Change) -> Change:
    """Make one change after the other."""

    def change(scan: Scan, tools: Tools) -> Scan:
        for each in changes:
            scan = each(scan, tools)
        return scan

    return change


def _read(path: Path) -> Scan:
    volume = read_volume(path)
    return Scan(volume[0].numpy() / GREYS, volume.affine.numpy())


CHANGES: dict[str, Change] = {
    "nothing": lambda scan, tools: scan,
    "int16, gzipped NIfTI": int16_file,
    "JPEG q90": jpeg(90),
    "JPEG q50": jpeg(50),
    "JPEG q20": jpeg(20),
    "noise, 5 % of the range": noise(0.05),
    "blur, 1 mm": blur(1.0),
    "median of 27 voxels": median,
    "gamma 0.7": grey_levels(0.7),
    "gamma 1.4": grey_levels(1.4),
    "resized to 50 % and back": grid(3.0, back=True),
    "grid of 3 mm": grid(3.0),
    "crop by an eighth a side": crop,
    "shift by 3 voxels": shift,
    "every second slice": every_second_slice,
    "lower half of the slices": lower_half,
    "DICOM and back": dicom,
    "our preprocess": preprocessed(skull_strip=False),
    "our preprocess, minmax_robust": preprocessed(skull_strip=False, normalise="minmax_robust"),
    "our preprocess with HD-BET again": preprocessed(skull_strip=True),
}
"""Found as the image lies."""

SEARCHED: dict[str, Change] = {
    "turned by 2°": turn(2.0),
    "turned by 4°": turn(4.0),
    "turned by 6°": turn(6.0),
    "mirrored left-right": flip(0),
    "mirrored back-front": flip(1),
    "mirrored top-bottom": flip(2),
    "turned by 6°, noise 5 %, JPEG q50": in_turn(turn(6.0), noise(0.05), jpeg(50)),
}
"""Found by the search over turns and mirrors."""

DEFEATS: dict[str, Change] = {
    "blur, 4 mm": blur(4.0),
    "grid of 8 mm and back": grid(8.0, back=True),
    "turned by 15°": turn(15.0),
    "enlarged by 5 %, header unchanged": stretch(1.05),
    "bent by up to 2 mm": bend(2.0),
    "bent by up to 5 mm": bend(5.0),
    "noise, 30 % of the range": noise(0.3),
}
"""Expected to go too far."""

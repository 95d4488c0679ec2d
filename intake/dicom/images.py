"""DICOM files of a series, one `Image` each: what their headers say, and which of them do not belong to the stack."""

import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from files.reading import open_regular
from intake.dicom import header as header_of

SAME_POSITION_MM = 0.01  # slices nearer to each other than this are one slice, imaged twice
SAME_DIRECTION = 1e-3  # largest difference of direction cosines within one orientation
MOST_ODD = 0.25  # of a series' images may differ from the others, and are set aside; with more, it is no stack
DERIVED = {"DERIVED", "MPR", "MIP", "MINIP", "MIN IP", "PROJECTION IMAGE", "REFORMATTED", "SUBTRACTION"}
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame kinds, .1 to .4
_NOT_MAGNITUDE = {"P", "R", "I", "PHASE", "REAL", "IMAGINARY", "PHASE MAP"}  # third value of ImageType
Direction = tuple[float, ...]


@dataclass(frozen=True)
class Image:
    """One DICOM file."""

    path: Path = field(repr=False)
    uid: str = field(repr=False)
    positions_mm: tuple[float, ...] = field(repr=False)  # of its frames along their normal; () where missing
    orientations: tuple[Direction, ...] = field(repr=False)  # direction cosines, each different one once
    echo_time_ms: float | None
    magnitude: bool  # False for phase, real and imaginary images
    acquired: datetime | None = field(repr=False)
    pixel_bytes: float = 0.0  # that its header promises, unpacked
    corners_mm: tuple[tuple[float, ...], ...] = field(default=(), repr=False)  # of its frames, LPS; () where missing
    size: tuple[int, int] = (0, 0)  # rows, columns
    spacing_mm: tuple[float, ...] = ()  # between rows, between columns
    duration_ms: float | None = None  # of a frame of PET
    odd: str = ""  # why it belongs to no stack of slices, judged alone
    preamble: bool = True  # False for files that start with their tags
    pixels_at: int = 0  # byte at which its pixels begin; 0: not known

    @property
    def frames(self) -> int:
        """Number of slices in the file."""
        return max(1, len(self.positions_mm))


def image_of(path: Path, header: Dataset, *, preamble: bool, pixels_at: int) -> Image:
    """Describe a file by its header."""
    kind = {*header_of.codes(header, "ImageType")[2:3], *header_of.codes(header, "ComplexImageComponent")}
    return Image(
        path=path,
        uid=header_of.text(header, "SOPInstanceUID"),
        positions_mm=header_of.positions_mm(header),
        orientations=different(header_of.orientations(header)),
        echo_time_ms=header_of.number(header, "EchoTime", "EffectiveEchoTime"),
        magnitude=not _NOT_MAGNITUDE & kind,
        acquired=header_of.moment(header, "AcquisitionDate", "AcquisitionTime")
        or header_of.moment_in_one(header, "AcquisitionDateTime"),
        pixel_bytes=pixel_bytes(header),
        corners_mm=header_of.corners_mm(header),
        size=(int(header_of.number(header, "Rows") or 0), int(header_of.number(header, "Columns") or 0)),
        spacing_mm=header_of.numbers(header, "PixelSpacing"),
        duration_ms=header_of.number(header, "ActualFrameDuration", "FrameAcquisitionDuration"),
        odd=_odd(header),
        preamble=preamble,
        pixels_at=pixels_at,
    )


def pixel_bytes(header: Dataset) -> float:
    """Compute the bytes of the pixels that a header promises, unpacked."""
    factors = [header_of.number(header, name) for name in ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames")]
    return float(np.prod([factor or 1 for factor in factors])) * (header_of.number(header, "BitsAllocated") or 16) / 8


def _odd(header: Dataset) -> str:
    kinds, corrections = header_of.codes(header, "ImageType"), header_of.codes(header, "CorrectedImage")
    if header_of.text(header, "SOPClassUID").startswith(_SECONDARY_CAPTURE) or (
        (header_of.number(header, "SamplesPerPixel") or 1) > 1
    ):
        return "a screenshot or a picture in colour"
    if "LOCALIZER" in kinds:
        return "a localiser"
    if DERIVED & set(kinds):
        return "derived from other images"
    if corrections and "ATTN" not in corrections and header_of.text(header, "Modality").upper() == "PT":
        return "PET not corrected for attenuation"
    return ""


def set_aside(images: Sequence[Image]) -> tuple[list[Image], Mapping[str, int]]:
    """Separate the images of a stack from a few odd ones, such as a screenshot that carries the UID of the series.

    What is odd by itself goes if anything else is left. Of images without position, or in another direction, size or
    voxel size than the most, at most `MOST_ODD` go; with more, all stay, for the checks of the series.

    Returns:
        The images that stay, and why others do not → how many.
    """
    kept = [image for image in images if not image.odd]
    if not kept:
        return list(images), {}
    reasons = Counter(image.odd for image in images if image.odd)
    kinds = different(tuple(each for image in kept for each in image.orientations))
    for fact, words in (
        (lambda image: bool(image.positions_mm), "without position or orientation"),
        (lambda image: frozenset(_nearest(each, kinds) for each in image.orientations), "in another direction"),
        (lambda image: image.size, "of another size"),
        (lambda image: tuple(round(each, 3) for each in image.spacing_mm), "of another voxel size"),
    ):
        odd = _few(kept, fact)
        reasons[words] += len(odd)
        kept = [image for image in kept if id(image) not in odd]
    return kept, {reason: count for reason, count in sorted(reasons.items()) if count}


def _few(images: Sequence[Image], fact: Callable[[Image], Hashable]) -> set[int]:
    """Return the `id` of images that differ from the most in a fact, if they are few."""
    counts: Counter[Hashable] = Counter()
    for image in images:
        counts[fact(image)] += image.frames
    (common, most), *_ = counts.most_common(1)
    few = counts.total() - most <= MOST_ODD * counts.total()
    return {id(image) for image in images if fact(image) != common} if few else set()


def without_copies(images: Sequence[Image]) -> tuple[Image, ...]:
    """Drop slices sent twice under two UIDs: at the same place, with the same bytes as pixels; the first one stays."""
    places = Counter(round(position / SAME_POSITION_MM) for image in images for position in image.positions_mm[:1])
    seen: set[tuple[object, ...]] = set()
    kept = []
    for image in images:
        place = round(image.positions_mm[0] / SAME_POSITION_MM) if image.positions_mm else None
        if place is not None and places[place] > 1 and (content := _pixel_hash(image)):
            key = (place, image.positions_mm, image.echo_time_ms, content)
            if key in seen:
                continue
            seen.add(key)
        kept.append(image)
    return tuple(kept)


def _pixel_hash(image: Image) -> bytes:
    """Hash a file from its pixels on; b"" if it cannot be read."""
    if not image.pixels_at:
        return b""
    try:
        with open_regular(image.path) as stream:
            stream.seek(image.pixels_at)
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError:
        return b""


def slice_positions(images: Sequence[Image]) -> tuple[list[float], list[int]]:
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


def extents_mm(images: Sequence[Image]) -> tuple[float, float, float] | None:
    """Compute how far a stack reaches across its slices, along its columns and along its rows, mm; None: not known."""
    positions, _ = slice_positions(images)
    if len(positions) < 2 or len(images[0].spacing_mm) != 2 or not all(images[0].size):
        return None
    across = (positions[-1] - positions[0]) * len(positions) / (len(positions) - 1)
    return across, images[0].size[0] * images[0].spacing_mm[0], images[0].size[1] * images[0].spacing_mm[1]


def different(directions: tuple[Direction, ...]) -> tuple[Direction, ...]:
    """Return each orientation once; those within `SAME_DIRECTION` are one."""
    kinds: list[Direction] = []
    for direction in directions:
        if all(max(abs(np.subtract(direction, kind))) > SAME_DIRECTION for kind in kinds):
            kinds.append(direction)
    return tuple(kinds)


def _nearest(direction: Direction, kinds: tuple[Direction, ...]) -> int:
    return int(np.argmin([max(abs(np.subtract(direction, kind))) for kind in kinds]))


def read_whole(image: Image) -> Dataset:
    """Read a file with its pixels, as packed as they are.

    Raises:
        OSError: it cannot be read.
        header_of.DAMAGED: it is not what it was when it was found, or is longer than its header promises.
    """
    with quiet(), open_regular(image.path) as stream:
        bounded = header_of.HeaderOnly(stream, more=int(2 * image.pixel_bytes))
        whole = pydicom.dcmread(bounded, force=not image.preamble)
    if "TransferSyntaxUID" not in whole.file_meta:
        implicit, little = whole.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        whole.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return whole


@contextmanager
def quiet() -> Iterator[None]:
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

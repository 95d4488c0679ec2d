"""Values of a DICOM header; missing and malformed ones are None or empty."""

import math
import re
import struct
from datetime import date, datetime, time, timedelta
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

MOST_HEADER = 20_000_000  # bytes of a file that are read before its pixels; 5000 frames take about 10 MB
MOST_ITEMS = 300_000  # of sequences; 5000 frames have about 100,000
_ITEM = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # how an item begins, little and big endian
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")  # of multi-frame files
OLDEST = 90  # years; whoever is older is as old as this, since high ages tell who a patient is
_PHILIPS_PET = 0x7053  # group with Philips' own factors
DAMAGED = (
    *(EOFError, ValueError, TypeError, KeyError, AttributeError, IndexError, NotImplementedError, OverflowError),
    RecursionError,  # sequences within sequences
    struct.error,
    BytesLengthException,
)
"""What pydicom raises where bytes are not what they should be."""


class DeflatedError(Exception):
    """The data set is deflated."""


class HeaderOnly:
    """A file of which no more is read than a header, and so many bytes, may have; skipped bytes do not count."""

    def __init__(self, stream: BinaryIO, more: int = 0) -> None:
        self.stream, self.left, self.items = stream, MOST_HEADER + more, 0
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        """Read like a file; pydicom reads the whole rest only to inflate it, to any size.

        Raises:
            DeflatedError: the whole rest was requested.
            ValueError: it is more than a header may have.
        """
        if size < 0:
            raise DeflatedError
        if size > self.left:
            raise ValueError(f"the header has more than {MOST_HEADER:,} bytes")
        self.left -= size
        content = self.stream.read(size)
        self.items += sum(content.count(tag) for tag in _ITEM)
        if self.items > MOST_ITEMS:
            raise ValueError(f"the header has more than {MOST_ITEMS:,} items in its sequences")
        return content


def items(header: Dataset, keyword: str | BaseTag) -> list[Dataset]:
    """Return the items of a sequence."""
    content = _get(header, keyword)
    return list(content) if isinstance(content, Sequence) else []


def value(header: Dataset, *keywords: str) -> object:
    """Return the first non-empty of some attributes; in multi-frame files also inside the groups of a frame."""
    groups = [item for name in GROUPS for item in items(header, name)[:1]]
    inner = [item for group in groups for tag in group.keys() for item in items(group, tag)[:1]]
    for data_set in (header, *inner):
        for keyword in keywords:
            content = _get(data_set, keyword)
            if content is not None and content != "":
                return content
    return None


def text(header: Dataset, keyword: str) -> str:
    """Return an attribute as one string, without the padding that DICOM allows."""
    content = value(header, keyword)
    return "" if content is None else str(content).replace("\0", "").strip()


def codes(header: Dataset, keyword: str) -> tuple[str, ...]:
    """Return every value of an attribute in capitals."""
    return tuple(str(code).strip().upper() for code in _several(value(header, keyword)))


def numbers(header: Dataset, *keywords: str) -> tuple[float, ...]:
    """Return every value of an attribute; () if one of them is no finite number."""
    try:
        numeric = tuple(float(each) for each in _several(value(header, *keywords)))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return ()
    return numeric if all(map(math.isfinite, numeric)) else ()


def number(header: Dataset, *keywords: str) -> float | None:
    """Return the first value of an attribute as a number."""
    return next(iter(numbers(header, *keywords)), None)


def orientations(header: Dataset) -> tuple[tuple[float, ...], ...]:
    """Return six direction cosines for every frame; () if any is missing."""
    frames = items(header, GROUPS[1]) or [Dataset()]
    shared = numbers(header, "ImageOrientationPatient")
    own = [item for frame in frames for item in (items(frame, "PlaneOrientationSequence") or [Dataset()])[:1]]
    cosines = tuple(numbers(each, "ImageOrientationPatient") or shared for each in own)
    return cosines if all(len(each) == 6 for each in cosines) else ()


def corners_mm(header: Dataset) -> tuple[tuple[float, ...], ...]:
    """Return the centre of the first voxel of every frame, LPS, mm; () if any is missing."""
    frames = items(header, GROUPS[1])
    planes = [item for frame in frames for item in (items(frame, "PlanePositionSequence") or [Dataset()])[:1]]
    corners = tuple(numbers(plane, "ImagePositionPatient") for plane in planes or [header])
    return corners if all(len(corner) == 3 for corner in corners) else ()


def rescaling(header: Dataset, frame: int) -> tuple[float, float] | None:
    """Return RescaleSlope and RescaleIntercept of a frame, counted from 0; None if there is no slope.

    Raises:
        ValueError: the slope is 0.
    """
    own = items(header, GROUPS[1])[frame : frame + 1] + items(header, GROUPS[0])[:1]
    groups = [item for group in own for item in items(group, "PixelValueTransformationSequence")[:1]]
    for data_set in (*groups, header):
        if slopes := numbers(data_set, "RescaleSlope"):
            if slopes[0] == 0:
                raise ValueError("RescaleSlope is 0")
            return slopes[0], (numbers(data_set, "RescaleIntercept") or (0.0,))[0]
    return None


def positions_mm(header: Dataset) -> tuple[float, ...]:
    """Return the position of every frame along its normal, mm; () if any is missing."""
    corners, directions = corners_mm(header), orientations(header)
    if len(directions) != len(corners):
        return ()
    return tuple(
        float(normal(np.array(direction)) @ corner) for direction, corner in zip(directions, corners, strict=True)
    )


def normal(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the normal of a slice from the cosines of its row and its column (6,); (3,), LPS."""
    return np.cross(direction[:3], direction[3:])


def philips_suv_factor(header: Dataset) -> float | None:
    """Return (7053,xx00), the factor from counts to SUV."""
    try:
        factor = header.private_block(_PHILIPS_PET, "Philips PET Private Group")[0x00].value
        return float(factor.decode("ascii") if isinstance(factor, bytes) else factor)
    except DAMAGED:
        return None


def age(header: Dataset) -> int | None:
    """Compute whole years from PatientAge ("067Y"), or from birth to the study; at most `OLDEST`."""
    match = re.fullmatch(r"(\d{1,3})([DWMY])", text(header, "PatientAge").upper())
    if match and match[0] != "000Y":  # what anonymisers write for no age
        return (
            min(int(match[1]), OLDEST) if match[2] == "Y" else int(match[1]) // {"D": 366, "W": 53, "M": 12}[match[2]]
        )
    return _age_by_birth(header)


def age_contradicts(header: Dataset) -> bool:
    """Check if PatientAge and PatientBirthDate say ages that are more than a year apart."""
    stated, computed = age(header), _age_by_birth(header)
    return stated is not None and computed is not None and abs(stated - computed) > 1


def _age_by_birth(header: Dataset) -> int | None:
    born, studied = day(text(header, "PatientBirthDate")), day(text(header, "StudyDate"))
    if born is None or studied is None or studied < born:
        return None
    return min(studied.year - born.year - ((studied.month, studied.day) < (born.month, born.day)), OLDEST)


def day(text: str) -> date | None:
    """Parse a date such as 20240131, 2024.01.31 or the start of a date and time."""
    try:
        return datetime.strptime(re.sub(r"[.\-/]", "", text)[:8], "%Y%m%d").date()
    except ValueError:
        return None


def clock(text: str) -> time | None:
    """Parse a time such as 101500, 101500.25 or 10:15:00."""
    match = re.fullmatch(r"(\d\d):?(\d\d):?(\d\d)(?:\.(\d{1,6}))?", text)
    if not match:
        return None
    hour, minute, second = (int(digits) for digits in match.groups()[:3])
    if hour > 23 or minute > 59 or second > 60:
        return None
    return time(hour, minute, min(second, 59), int((match[4] or "").ljust(6, "0")))


def moment(header: Dataset, date_keyword: str, time_keyword: str) -> datetime | None:
    """Combine a date and a time of two attributes."""
    date_of, time_of = day(text(header, date_keyword)), clock(text(header, time_keyword))
    return datetime.combine(date_of, time_of) if date_of and time_of else None


def moment_in_one(header: Dataset, keyword: str, zone: str = "") -> datetime | None:
    """Parse a date and a time of one attribute, as the scanner's clock shows it.

    Args:
        header: with the attribute.
        keyword: of the attribute; its text may end with an offset from UTC, such as +0000.
        zone: the scanner's offset (TimezoneOffsetFromUTC); if it is not known, both are taken for the same.
    """
    both, offset, _ = (*re.split(r"([+\-]\d{4})$", text(header, keyword)), "", "")[:3]
    date_of, time_of = day(both[:8]), clock(both[8:])
    if date_of is None or time_of is None:
        return None
    known = [re.fullmatch(r"([+\-])(\d\d)(\d\d)", each) for each in (zone, offset)]
    minutes = [int(f"{each[1]}1") * (60 * int(each[2]) + int(each[3])) for each in known if each]
    later = minutes[0] - minutes[1] if len(minutes) == 2 else 0
    return datetime.combine(date_of, time_of) + timedelta(minutes=later)


def _get(data_set: Dataset, keyword: str | BaseTag) -> object:
    try:
        return data_set.get(keyword) if isinstance(keyword, str) else data_set[keyword].value
    except DAMAGED:
        return None


def _several(content: object) -> list[object]:
    if content is None:
        return []
    return list(content) if hasattr(content, "__iter__") and not isinstance(content, str | bytes) else [content]

"""Values in the header of a DICOM file, whatever state it is in: what is missing or malformed is None or empty."""

import math
import re
import struct
from datetime import date, datetime, time
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
    """All that follows is deflated."""


class HeaderOnly:
    """A file of which no more is read than a header may have; what is passed over does not count."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.left, self.items = stream, MOST_HEADER, 0
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        """Read as a file does; pydicom asks for all that is left only to inflate it, whatever that becomes.

        Raises:
            DeflatedError: all that is left was asked for.
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
    """What a sequence holds."""
    found = _get(header, keyword)
    return list(found) if isinstance(found, Sequence) else []


def value(header: Dataset, *keywords: str) -> object:
    """The first of some attributes that holds anything; in multi-frame files also inside the groups of a frame."""
    groups = [item for name in GROUPS for item in items(header, name)[:1]]
    inner = [item for group in groups for tag in group.keys() for item in items(group, tag)[:1]]
    for place in (header, *inner):
        for keyword in keywords:
            found = _get(place, keyword)
            if found is not None and found != "":
                return found
    return None


def text(header: Dataset, keyword: str) -> str:
    """As one string, without the padding that DICOM allows."""
    found = value(header, keyword)
    return "" if found is None else str(found).replace("\0", "").strip()


def words(header: Dataset, keyword: str) -> tuple[str, ...]:
    """Every value of an attribute in capitals."""
    return tuple(str(word).strip().upper() for word in _several(value(header, keyword)))


def numbers(header: Dataset, *keywords: str) -> tuple[float, ...]:
    """Every value of an attribute; () if one of them is no finite number."""
    try:
        found = tuple(float(each) for each in _several(value(header, *keywords)))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return ()
    return found if all(map(math.isfinite, found)) else ()


def number(header: Dataset, *keywords: str) -> float | None:
    """The first value of an attribute."""
    return next(iter(numbers(header, *keywords)), None)


def orientations(header: Dataset) -> tuple[tuple[float, ...], ...]:
    """Six direction cosines for every frame; () if any is missing."""
    frames = items(header, GROUPS[1]) or [Dataset()]
    shared = numbers(header, "ImageOrientationPatient")
    own = [item for frame in frames for item in (items(frame, "PlaneOrientationSequence") or [Dataset()])[:1]]
    found = tuple(numbers(each, "ImageOrientationPatient") or shared for each in own)
    return found if all(len(each) == 6 for each in found) else ()


def positions_mm(header: Dataset) -> tuple[float, ...]:
    """Where every frame lies along its normal, mm; () if any position is missing."""
    frames = items(header, GROUPS[1])
    places = [item for frame in frames for item in (items(frame, "PlanePositionSequence") or [Dataset()])[:1]]
    corners = [numbers(place, "ImagePositionPatient") for place in places or [header]]
    directions = orientations(header)
    if len(directions) != len(corners) or any(len(corner) != 3 for corner in corners):
        return ()
    return tuple(
        float(normal(np.array(direction)) @ corner) for direction, corner in zip(directions, corners, strict=True)
    )


def normal(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Across the slice, from the cosines of its row and its column (6,); (3,), LPS."""
    return np.cross(direction[:3], direction[3:])


def philips_suv_factor(header: Dataset) -> float | None:
    """(7053,xx00), the factor from counts to SUV."""
    try:
        found = header.private_block(_PHILIPS_PET, "Philips PET Private Group")[0x00].value
        return float(found.decode("ascii") if isinstance(found, bytes) else found)
    except DAMAGED:
        return None


def age(header: Dataset) -> int | None:
    """Whole years from PatientAge ("067Y"), or from birth to the study; at most `OLDEST`."""
    told = re.fullmatch(r"(\d{1,3})([DWMY])", text(header, "PatientAge").upper())
    if told:
        return min(int(told[1]), OLDEST) if told[2] == "Y" else int(told[1]) // {"D": 366, "W": 53, "M": 12}[told[2]]
    born, studied = day(text(header, "PatientBirthDate")), day(text(header, "StudyDate"))
    if born is None or studied is None or studied < born:
        return None
    return min(studied.year - born.year - ((studied.month, studied.day) < (born.month, born.day)), OLDEST)


def day(text: str) -> date | None:
    """A date such as 20240131, 2024.01.31 or the start of a date and time."""
    try:
        return datetime.strptime(re.sub(r"[.\-/]", "", text)[:8], "%Y%m%d").date()
    except ValueError:
        return None


def clock(text: str) -> time | None:
    """A time such as 101500, 101500.25 or 10:15:00."""
    found = re.fullmatch(r"(\d\d):?(\d\d):?(\d\d)(?:\.(\d{1,6}))?", text)
    if not found:
        return None
    hour, minute, second = (int(part) for part in found.groups()[:3])
    if hour > 23 or minute > 59 or second > 60:
        return None
    return time(hour, minute, min(second, 59), int((found[4] or "").ljust(6, "0")))


def moment(header: Dataset, date_keyword: str, time_keyword: str) -> datetime | None:
    """A date and a time that stand in two attributes."""
    found, at = day(text(header, date_keyword)), clock(text(header, time_keyword))
    return datetime.combine(found, at) if found and at else None


def moment_in_one(header: Dataset, keyword: str) -> datetime | None:
    """A date and a time that stand in one attribute; its time zone is left aside, all times are the scanner's own."""
    both = re.split(r"[+\-]", text(header, keyword))[0]
    found, at = day(both[:8]), clock(both[8:])
    return datetime.combine(found, at) if found and at else None


def _get(place: Dataset, keyword: str | BaseTag) -> object:
    try:
        return place.get(keyword) if isinstance(keyword, str) else place[keyword].value
    except DAMAGED:
        return None


def _several(found: object) -> list[object]:
    if found is None:
        return []
    return list(found) if hasattr(found, "__iter__") and not isinstance(found, str | bytes) else [found]

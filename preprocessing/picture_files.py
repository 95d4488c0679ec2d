"""Decode the file of a picture as it is: PNG, JPEG, TIFF. What would be decoded by a guess is refused or remarked."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from files.reading import UnusableFileError, open_regular, read_bytes
from preprocessing.errors import MemoryLimitError, ScanError
from preprocessing.limits import BYTES_PIXEL, DEFAULT_LIMITS, Limits
from preprocessing.picture_depth import PICTURE_FORMATS, bits_of_format, deep_values, raw_mode, stated_bits

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
SIGNATURES = {b"\x89PNG": "PNG", b"\xff\xd8": "JPEG", b"II": "TIFF", b"MM": "TIFF"}
FILE_COPIES = 5  # that Pillow makes of a file that is all text: measured
DAMAGE = (
    Image.DecompressionBombError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, EOFError,
    struct.error, zlib.error, UserWarning,
)  # fmt: skip
# Pillow goes on without tags that it cannot read, and depth and orientation may be among them.
for message in ("Corrupt EXIF", "Possibly corrupt EXIF", "Truncated File Read", "Tag data larger than file"):
    warnings.filterwarnings("error", message, UserWarning)
Image.MAX_IMAGE_PIXELS = None  # `Limits.check_picture` is the limit

ORIENTATION = 0x112  # of EXIF and TIFF
TURNS: dict[int, tuple[str, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    2: ("mirrored left to right", lambda a: a[:, ::-1]),
    3: ("turned by 180°", lambda a: a[::-1, ::-1]),
    4: ("mirrored top to bottom", lambda a: a[::-1]),
    5: ("mirrored along its diagonal", lambda a: a.swapaxes(0, 1)),
    6: ("turned by 90° clockwise", lambda a: a.swapaxes(0, 1)[:, ::-1]),
    7: ("mirrored along its other diagonal", lambda a: a.swapaxes(0, 1)[::-1, ::-1]),
    8: ("turned by 90° counter-clockwise", lambda a: a.swapaxes(0, 1)[::-1]),
}
COMPRESSION, PHOTOMETRIC, PLANAR, EXTRA, SAMPLE_FORMAT, SUBSAMPLING = 259, 262, 284, 338, 339, 530  # TIFF tags
SRGB = (b"sRGB", "sRGB".encode("utf-16-be"))


class Decoded(NamedTuple):
    """A picture as it is in the file: values (H, W) or (H, W, 3), uint8 or uint16."""

    values: NDArray[Any]
    bits: int | None
    """None if it is not said."""
    zero_is_white: bool
    turned: str
    remarks: list[str]


def decoded(content: bytes, limits: Limits) -> Decoded:
    """Decode a file.

    Raises:
        ScanError: it is no picture, damaged, a stack, or of a kind that would be read wrongly.
    """
    with _opened(io.BytesIO(content)) as image:
        size = FILE_COPIES * len(content) + BYTES_PIXEL * image.width * image.height
        limits.check_picture(size, image.width, image.height)
        if _has_second_page(content):
            raise ScanError(
                "a stack of several pictures (pages, frames, or one picture in several sizes); expected one. Save the "
                "one that is meant"
            )
        _refuse_misread(image)
        tags = getattr(image, "tag_v2", {})
        orientation = tags.get(ORIENTATION, 1)
        remarks = _colour_remarks(image)
        bits: int | None
        if (bits := bits_of_format(image)) > 8:
            values, transparent = deep_values(image, content)
            bits = stated_bits(image, content, values) if bits == 16 else bits
        else:
            transparent = float(np.mean(np.asarray(image.getchannel("A")) < 255)) if "A" in image.getbands() else 0.0
            plain = image.convert("LA") if image.mode == "La" else image
            values = np.array(plain.convert("RGB"))
        if transparent:
            remarks.append(f"{transparent:.1%} of its pixels are transparent; their colours are taken as stored")
        if image.format != "TIFF":  # Pillow has turned those
            orientation = _exif_orientation(image, remarks)
            values = TURNS[orientation][1](values) if orientation in TURNS else values
        if orientation not in TURNS and orientation not in (0, 1):
            remarks.append(f"its orientation is {orientation}, none of 1 to 8; it was not turned")
        turned = TURNS[orientation][0] if orientation in TURNS else ""
        return Decoded(values, bits, tags.get(PHOTOMETRIC) == 0, turned, remarks)


def largest_of_unknown_depth(path: Path) -> int | None:
    """Return the largest value of a 16-bit picture that does not say how many bits it uses.

    Args:
        path: of any file.

    Returns:
        None for all other files, unreadable ones among them: `read_picture` says what is wrong with those.
    """
    if not path.name.lower().endswith(PICTURE_SUFFIXES):
        return None
    try:
        with open_regular(path) as stream, _opened(stream) as image:
            if bits_of_format(image) < 16:
                return None
        picture = decoded(read_bytes(path, most=int(DEFAULT_LIMITS.memory_bytes)), DEFAULT_LIMITS)
    except (ScanError, MemoryLimitError, OSError, UnusableFileError):
        return None
    return int(picture.values.max()) if picture.bits is None else None


@contextmanager
def _opened(stream: io.BytesIO | io.BufferedReader) -> Iterator[Image.Image]:
    """Open a picture; whatever is wrong with it then is a `ScanError`."""
    try:
        with Image.open(stream, formats=PICTURE_FORMATS) as image:
            yield image
    except UnidentifiedImageError as error:
        stream.seek(0)
        start = stream.read(4)
        kind = next((name for signature, name in SIGNATURES.items() if start.startswith(signature)), "")
        if not kind:
            formats = ", ".join(PICTURE_FORMATS)
            raise ScanError(f"not a readable picture: it is none of {formats} inside") from error
        raise ScanError(
            f"not a readable picture: a {kind} that is damaged, or of a kind that is not read here (such as 12-bit or "
            "lossless JPEG, or 64-bit numbers). Save it as PNG with 8 or 16 bits"
        ) from error
    except DAMAGE as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(f"not a readable picture: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ScanError(f"the picture is truncated or damaged ({error}); copy it again") from error


def _has_second_page(content: bytes) -> bool:
    """Check if a file holds more than one picture; they are not counted, since there may be millions."""
    with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as image:
        try:
            image.seek(1)
        except EOFError:
            return False
        return True


def _refuse_misread(image: Image.Image) -> None:
    """Refuse what Pillow would read wrongly, or by a default.

    Raises:
        ScanError: the colours of the picture are not known.
    """
    tags = getattr(image, "tag_v2", {})
    deep = bits_of_format(image) > 8
    if image.mode in ("F", "I") or max(tags.get(SAMPLE_FORMAT, (1,))) > 1:
        kind = {2: "numbers with a sign", 3: "floating point"}.get(max(tags.get(SAMPLE_FORMAT, (1,))), "numbers")
        raise ScanError(
            f"{kind} of {bits_of_format(image)} bits; expected grey or colour values of 8 or 16 bits without sign. "
            "Which value is black and which is white is not known: scale them and save it as PNG"
        )
    if tags and PHOTOMETRIC not in tags:
        raise ScanError("does not say whether 0 is black or white (PhotometricInterpretation); save it as PNG")
    if image.mode == "LAB" or (deep and image.mode == "CMYK"):
        raise ScanError(f"{image.mode} colours of {bits_of_format(image)} bits; save it as RGB")
    if deep and tags.get(PLANAR) == 2 and len(image.getbands()) > 1:
        raise ScanError("16-bit colours in separate planes; save it with the colours of a pixel together, or as PNG")
    if deep and raw_mode(image).startswith("RGBa"):
        raise ScanError("16-bit colours that are multiplied by their transparency; save it without transparency")
    if tags.get(PHOTOMETRIC) == 6 and tags.get(COMPRESSION, 1) == 1 and tags.get(SUBSAMPLING, (2, 2)) != (1, 1):
        raise ScanError("YCbCr with fewer colours than pixels, not compressed; save it as RGB")


def _colour_remarks(image: Image.Image) -> list[str]:
    """Return what the file says of its colours and is not followed."""
    remarks = []
    profile = image.info.get("icc_profile")
    if profile and not any(name in profile for name in SRGB):
        remarks.append("it has a colour profile other than sRGB, which is not applied")
    gamma = image.info.get("gamma")
    if gamma and "srgb" not in image.info and abs(gamma - 1 / 2.2) > 0.05:
        remarks.append(f"it says that its gamma is {gamma:g}, which is not applied")
    if image.mode == "CMYK":
        remarks.append("it has printing colours (CMYK), turned to RGB by a formula, without a profile")
    if "transparency" in image.info:
        remarks.append("it has colours that it calls transparent; they are taken as stored")
    if left_out := list(getattr(image, "tag_v2", {}).get(EXTRA, ())).count(0):
        remarks.append(f"it has {left_out} more channels than colours, which are left out")
    return remarks


def _exif_orientation(image: Image.Image, remarks: list[str]) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if there is none."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except (*DAMAGE, OSError):
        remarks.append("its EXIF data are damaged; it was not turned")
        return 1

"""Read pictures: PNG, JPEG, TIFF."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from preprocessing.errors import ScanError
from preprocessing.limits import BYTES_PIXEL, DEFAULT_LIMITS, MIN_SIDE, Limits
from preprocessing.volumes import scan_bytes

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
PICTURE_FORMATS = ("PNG", "JPEG", "TIFF")  # Pillow recognises them by content; it would start Ghostscript for others
FILE_COPIES = 5  # that Pillow makes of a file that is all text: measured


def read_picture(path: Path, *, sha256: str | None = None, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Read a 2-D picture as RGB.

    Args:
        path: PNG, JPEG or TIFF; grey is copied to three channels, transparency is dropped, 16 bit is cut to 8.
        sha256: of the file, hex, if it has to be that very content.
        limits: of its size.

    Returns:
        (H, W, 3), uint8.

    Raises:
        ScanError: not a readable picture, or a stack of several.
        MemoryLimitError: reading it takes more memory than it may.
        ChangedFileError: it is not what was hashed.
    """
    if not path.name.lower().endswith(PICTURE_SUFFIXES):
        raise ScanError(f"{path.suffix or 'no'} is not a picture format read here; expected one of {PICTURE_SUFFIXES}")
    content = scan_bytes(path, sha256=sha256, limits=limits)
    try:
        with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as header:
            pixels = f"{header.width} x {header.height} pixels"
            limits.check_reading(FILE_COPIES * len(content) + BYTES_PIXEL * header.width * header.height, pixels)
            if _has_second_page(content):
                raise ScanError("a stack of several pictures; expected one. Save the one that is meant")
            if header.mode.startswith("I;16"):
                array = (np.asarray(header) // 257).astype(np.uint8)[..., None].repeat(3, 2)
            elif header.mode in ("F", "I"):
                raise ScanError(f"pixels of mode {header.mode}, 32 bit; expected an 8- or 16-bit grey or RGB picture")
            else:
                array = np.array(header.convert("RGB"))
    except UnidentifiedImageError as error:
        raise ScanError(f"not a readable picture: it is none of {', '.join(PICTURE_FORMATS)} inside") from error
    except (Image.DecompressionBombError, SyntaxError, ValueError, IndexError) as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(f"not a readable picture: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ScanError(f"the picture is truncated or damaged ({error}); copy it again") from error
    if array.dtype == np.uint16:
        array = (array // 257).astype(np.uint8)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] not in (3, 4) or array.dtype != np.uint8:
        raise ScanError(f"shape {array.shape} of {array.dtype}; expected one 8- or 16-bit grey or RGB picture")
    if min(array.shape[:2]) < MIN_SIDE:
        raise ScanError(f"{array.shape[1]} x {array.shape[0]} pixels; at least {MIN_SIDE} each way are needed")
    if array.min() == array.max():
        raise ScanError(f"every pixel is {array.min()}; the picture is empty")
    return np.ascontiguousarray(array[..., :3])


def _has_second_page(content: bytes) -> bool:
    """Check if a file holds more than one picture; they are not counted, since there may be millions."""
    with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as image:
        try:
            image.seek(1)
        except EOFError:
            return False
        return True

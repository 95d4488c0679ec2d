"""Read pictures as 8-bit RGB, upright."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import ScanError
from preprocessing.limits import DEFAULT_LIMITS, MIN_SIDE, Limits
from preprocessing.picture_depth import bits_for
from preprocessing.picture_files import PICTURE_SUFFIXES, decoded
from preprocessing.volumes import scan_bytes


class Picture(NamedTuple):
    """A picture, and what was decided while it was read."""

    pixels: NDArray[np.uint8]
    """(H, W, 3), upright."""
    bits: int
    """Depth of a value in the file, as far as it is used."""
    turned: str
    """How the orientation in its header turned it; "" if it did not."""
    remarks: list[str]
    """Sentences about what in the file may matter."""


def read_picture(
    path: Path, *, bits: int | None = None, sha256: str | None = None, limits: Limits = DEFAULT_LIMITS
) -> Picture:
    """Read a 2-D picture as RGB, upright as its header says.

    Args:
        path: PNG, JPEG or TIFF; grey is copied to three channels, transparency is dropped, 16 bit is scaled to 8 by
            the real depth.
        bits: the real depth of a 16-bit picture that does not say it.
        sha256: of the file, hex, if it has to be that very content.
        limits: of its size.

    Raises:
        ScanError: not a readable picture, a stack of several, or its depth or colours are not known.
        MemoryLimitError: reading it takes more memory than it may.
        ChangedFileError: it is not what was hashed.
    """
    if not path.name.lower().endswith(PICTURE_SUFFIXES):
        raise ScanError(f"{path.suffix or 'no'} is not a picture format read here; expected one of {PICTURE_SUFFIXES}")
    picture = decoded(scan_bytes(path, sha256=sha256, limits=limits), limits)
    array, remarks = picture.values, picture.remarks
    if min(array.shape[:2]) < MIN_SIDE:
        raise ScanError(f"{array.shape[1]} x {array.shape[0]} pixels; at least {MIN_SIDE} each way are needed")
    low, high = int(array.min()), int(array.max())
    if low == high:
        raise ScanError(f"every pixel is {low}; the picture is empty")
    used = picture.bits
    if used is None:
        used = _assumed_bits(high, bits)
        remarks.append(f"it does not say how many bits it uses; {used} are taken, its largest value is {high:,}")
    if array.dtype == np.uint16:
        array = _to_8_bits(array, used, picture.zero_is_white)
        if array.min() == array.max():
            raise ScanError(f"its values, {low:,} to {high:,}, are all one of 256 grey levels at {used} bits")
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    return Picture(np.ascontiguousarray(array), used, picture.turned, remarks)


def _assumed_bits(largest: int, bits: int | None) -> int:
    """Return the depth to take for a picture that does not say it."""
    fit = bits_for(largest)
    if bits is None and fit < 16:
        raise ScanError(
            f"a 16-bit picture that does not say how many of its bits it uses; its largest value, {largest:,}, fits "
            f"into {fit}. Set cohort.modalities.….bits of its modality to what the camera has, such as {fit}"
        )
    if bits is not None and largest >= 2**bits:
        raise ScanError(
            f"its largest value is {largest:,}, but 16-bit pictures of its modality are taken for {bits} bits, at most "
            f"{2**bits - 1:,}. Is it of another camera? Make that a modality of its own, or set "
            f"cohort.modalities.….bits to {fit}"
        )
    return bits or fit


def _to_8_bits(values: NDArray[np.uint16], bits: int, zero_is_white: bool) -> NDArray[np.uint8]:
    """Scale values of 0 to 2^bits - 1 to 0 to 255, rounded."""
    top = 2**bits - 1
    grey = ((np.arange(top + 1) * 255 + top // 2) // top).astype(np.uint8)
    if zero_is_white:
        grey = grey[::-1]
    scaled = np.empty(values.shape, np.uint8)
    for row, line in zip(values, scaled, strict=True):  # one index array of a whole picture would take 8 bytes a value
        line[...] = grey[row]
    return scaled

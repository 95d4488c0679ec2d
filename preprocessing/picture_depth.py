"""How many bits the values of a picture have: by its format, by what it says, and all of them read.

Cameras write 12 bits into files of 16, and Pillow reads the high bytes of 16-bit colours only.
"""

import io
import re
import struct
import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from preprocessing.errors import ScanError

PICTURE_FORMATS = ("PNG", "JPEG", "TIFF")  # Pillow recognises them by content; it would start Ghostscript for others
DEPTHS = (8, 10, 12, 14, 16)  # bits of cameras
BITS_PER_SAMPLE = 258  # TIFF tag
TIFF_MAXIMA = {281: "MaxSampleValue", 341: "SMaxSampleValue"}
TIFF_TEXTS = (270, 51123)  # descriptions, as OME and Micro-Manager write them
TEXT_BITS = re.compile(r'(SignificantBits)="(\d+)"|"(BitDepth)"\s*:\s*"?(\d+)')


def bits_for(largest: int) -> int:
    """Return the depth of a camera, in bits, whose values go up to `largest`, at most 65,535."""
    return next(bits for bits in DEPTHS if largest < 2**bits)


def bits_of_format(image: Image.Image) -> int:
    """Return the bits of a value as the format of the file has them."""
    if tags := getattr(image, "tag_v2", None):
        return int(max(tags.get(BITS_PER_SAMPLE, (1,))))
    return 16 if raw_mode(image).endswith(";16B") else 8


def raw_mode(image: Image.Image) -> str:
    """Return Pillow's name for the order of bytes in the file."""
    arguments = image.tile[0].args if image.tile else ""
    return str(arguments if isinstance(arguments, str) else arguments[0])


def deep_values(image: Image.Image, content: bytes) -> tuple[NDArray[np.uint16], float]:
    """Read all bits of a picture with more than 8; Pillow itself reads the high bytes of colours only.

    Returns:
        Values (H, W) or (H, W, 3), and the share of pixels that are transparent.
    """
    raw = raw_mode(image)
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16), 0.0
    if raw == "LA;16B":
        grey_alpha = _decoded_as(content, "RGBA").view(">u2")  # the very bytes: grey high and low, alpha high and low
        return grey_alpha[..., 0].astype(np.uint16), float(np.mean(grey_alpha[..., 1] < 65535))
    native = "L" if sys.byteorder == "little" else "B"
    swapped = {"B": "L", "L": "B"}[native if raw[-1] == "N" else raw[-1]]
    high = np.asarray(image)
    transparent = float(np.mean(high[..., 3] < 255)) if "A" in image.getbands() else 0.0
    low = _decoded_as(content, raw[:-1] + swapped)
    values = high[..., :3].astype(np.uint16)
    values <<= 8
    values |= low[..., :3]
    return values, transparent


def stated_bits(image: Image.Image, content: bytes, values: NDArray[np.uint16]) -> int | None:
    """Return how many bits a 16-bit picture uses if it says so; that it uses 16 is what every writer says.

    A PNG whose chunk sBIT says 12 bits should have them spread over all 16; but there are cameras that do not.

    Raises:
        ScanError: it says two things, or has values that do not fit.
    """
    said = {name: bits for name, bits in _statements(image, content) if 0 < bits < 16}
    if not said:
        return None
    words = " and ".join(f"{bits} bits ({name})" for name, bits in said.items())
    if len(set(said.values())) > 1:
        raise ScanError(f"says that it uses {words}; it can only be one of these. Save it as PNG with 8 bits")
    bits, largest = next(iter(said.values())), int(values.max())
    below = int((values & (2 ** (16 - bits) - 1)).max())  # the bits that are 0, or nearly, where the others are spread
    spread = largest >= 2**bits or below <= 1 if image.format == "PNG" else largest >= 2**bits and below == 0
    if largest >= 2**bits and not spread:
        raise ScanError(f"says that it uses {words}, but has values up to {largest:,}. Save it as PNG with 8 bits")
    return 16 if spread else bits


def _decoded_as(content: bytes, raw: str) -> NDArray[np.uint8]:
    """Decode a picture with its bytes in another order."""
    with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as image:
        tiles = image.tile
        image.tile = [
            tile._replace(args=raw if isinstance(tile.args, str) else (raw, *tile.args[1:])) for tile in tiles
        ]
        return np.asarray(image)


def _statements(image: Image.Image, content: bytes) -> Iterator[tuple[str, int]]:
    """Yield what the file says of the bits that it uses: where, and how many."""
    if image.format == "PNG":
        significant = _png_chunk(content, b"sBIT")
        if colours := significant[: -1 if "A" in image.getbands() else None]:
            yield "sBIT", max(colours)
        return
    tags = image.tag_v2
    for tag, name in TIFF_MAXIMA.items():
        values = tags.get(tag, ())
        largest = float(max(values if isinstance(values, tuple) else (values,), default=0))
        if largest in (2**bits - 1 for bits in range(1, 16)):  # else it is the largest value of this very picture
            yield name, int(largest).bit_length()
    for tag in TIFF_TEXTS:
        text = tags.get(tag, "")
        for match in TEXT_BITS.finditer(text.decode("latin-1") if isinstance(text, bytes) else str(text)):
            name, digits = (part for part in match.groups() if part)
            yield name, int(digits[:4])


def _png_chunk(content: bytes, name: bytes) -> bytes:
    """Return the content of the first chunk of that name before the pixels; b"" if there is none."""
    start = 8
    while start + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, start)
        if kind in (name, b"IDAT"):
            return content[start + 8 : start + 8 + size] if kind == name else b""
        start += size + 12
    return b""

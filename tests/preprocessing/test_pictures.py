"""Reading and writing pictures: what is fine, and every way in which a file is not."""

import gzip
import io
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from preprocessing.encoding import png_bytes
from preprocessing.errors import ScanError
from preprocessing.pictures import read_picture
from preprocessing.slices import picture_to_slice


def _file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


COLOURS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]


def _picture(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _tiff(array: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


GOOD_PICTURES: list[tuple[str, str, bytes, np.ndarray, int]] = [
    ("RGB", "a.png", _picture(Image.fromarray(COLOURS), "PNG"), COLOURS, 0),
    ("RGB tiff", "a.tif", _picture(Image.fromarray(COLOURS), "TIFF"), COLOURS, 0),
    ("RGB tiff, LZW", "a.tiff", _picture(Image.fromarray(COLOURS), "TIFF", compression="tiff_lzw"), COLOURS, 0),
    ("RGB tiff, deflate", "a.tif", _picture(Image.fromarray(COLOURS), "TIFF", compression="tiff_deflate"), COLOURS, 0),
    ("jpeg", "a.JPG", _picture(Image.fromarray(GREY // 8 + 100), "JPEG", quality=95), (GREY // 8 + 100)[..., None], 8),
    ("RGBA", "a.png", _picture(Image.fromarray(np.dstack([COLOURS, 255 - GREY])), "PNG"), COLOURS, 0),
    ("grey", "a.png", _picture(Image.fromarray(GREY), "PNG"), GREY[..., None], 0),
    ("16 bit", "a.png", _picture(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"), GREY[..., None], 0),
    ("16 bit tiff", "a.tif", _tiff(COLOURS.astype(np.uint16) * 257, photometric="rgb"), COLOURS, 0),
    ("black and white", "a.png", _picture(Image.fromarray(GREY > 127), "PNG"), 255 * (GREY > 127)[..., None], 0),
    (
        "palette",
        "a.png",
        _picture(Image.fromarray(GREY // 64 * 64).quantize(8), "PNG"),
        (GREY // 64 * 64)[..., None],
        0,
    ),
    ("grey and alpha", "a.png", _picture(Image.fromarray(np.dstack([GREY, GREY])), "PNG"), GREY[..., None], 0),
]


@pytest.mark.parametrize(
    ("name", "content", "expected", "tolerance"), [p[1:] for p in GOOD_PICTURES], ids=[p[0] for p in GOOD_PICTURES]
)
def test_good_picture(tmp_path: Path, name: str, content: bytes, expected: np.ndarray, tolerance: int) -> None:
    picture = read_picture(_file(tmp_path, name, content))
    assert picture.shape == (20, 30, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_allclose(
        picture.astype(int), np.broadcast_to(expected, picture.shape).astype(int), atol=tolerance
    )
    assert picture_to_slice(picture).shape == (1, 3, 224, 224)  # without a warning about memory it may not write


def test_printers_colours_are_turned_or_refused(tmp_path: Path) -> None:
    """Cyan, magenta, yellow and black are four numbers a pixel, as red, green, blue and alpha are."""
    red = np.full((20, 30, 3), (200, 10, 20), np.uint8)
    red[:5] = 60
    path = _file(tmp_path, "a.jpg", _picture(Image.fromarray(red).convert("CMYK"), "JPEG", quality=100))
    try:
        picture = read_picture(path)
    except ScanError:
        return
    np.testing.assert_allclose(picture[12, 15].astype(int), (200, 10, 20), atol=12)


PNG, JPEG, TIFF = (_picture(Image.fromarray(COLOURS), kind) for kind in ("PNG", "JPEG", "TIFF"))
BAD_PICTURES: list[tuple[str, str, bytes, str]] = [
    ("truncated", "a.png", PNG[: len(PNG) // 2], "truncated or damaged .*copy it again"),
    ("truncated jpeg", "a.jpg", JPEG[: len(JPEG) // 2], "truncated or damaged|not a readable picture"),
    ("truncated tiff", "a.tif", TIFF[: len(TIFF) // 2], "truncated or damaged|not a readable picture"),
    ("text", "a.png", b"subject,scan\n" * 20, "not a readable picture"),
    ("text tiff", "a.tif", b"subject,scan\n" * 20, "not a readable picture"),
    ("nothing", "a.jpg", b"", "not a readable picture"),
    (
        "one colour",
        "a.png",
        _picture(Image.new("RGB", (20, 20), (9, 9, 9)), "PNG"),
        "every pixel is 9; the picture is empty",
    ),
    ("tiny", "a.png", _picture(Image.fromarray(COLOURS[:5]), "PNG"), "30 x 5 pixels; at least 8"),
    (
        "numbers, not grey values",
        "a.tif",
        _tiff(GREY.astype(np.float32)),
        "of float32; expected one 8- or 16-bit|expected",
    ),
    ("stack of 2", "a.tif", _tiff(np.stack([GREY] * 2), photometric="minisblack"), "expected one|stack|pages"),
    ("stack of 3", "a.tif", _tiff(np.stack([GREY] * 3), photometric="minisblack"), "expected one|stack|pages"),
    ("stack of 4", "a.tif", _tiff(np.stack([GREY] * 4), photometric="minisblack"), "expected one|stack|pages"),
    ("stack of 5", "a.tif", _tiff(np.stack([GREY] * 5), photometric="minisblack"), "expected one|stack|pages"),
    ("stack of colours", "a.tif", _tiff(np.stack([COLOURS] * 3), photometric="rgb"), "expected one|stack|pages"),
    ("wrong suffix", "a.svs", PNG, r"\.svs is not a picture format read here"),
]


@pytest.mark.parametrize(
    ("name", "content", "message"), [p[1:] for p in BAD_PICTURES], ids=[p[0] for p in BAD_PICTURES]
)
def test_bad_picture(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = _file(tmp_path, name, content)
    with pytest.raises(ScanError, match=message):
        read_picture(path)


def test_absurd_picture_costs_nothing(tmp_path: Path) -> None:
    content = bytearray(PNG)
    struct.pack_into(">II", content, 16, 60000, 60000)  # width and height in IHDR
    struct.pack_into(">I", content, 29, zlib.crc32(bytes(content[12:29])))
    path = _file(tmp_path, "a.png", bytes(content))
    tracemalloc.start()
    try:
        with pytest.raises(ScanError, match="(?i)promises|pixels|exceeds"):
            read_picture(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("kind", "content"), [("png", PNG), ("jpg", JPEG), ("tif", TIFF)])
def test_a_damaged_picture_is_never_anything_but_a_scan_error(tmp_path: Path, kind: str, content: bytes) -> None:
    """150 files each, cut or with some bytes overwritten: read, or refused with a `ScanError`."""
    generator = np.random.default_rng(6)
    path = tmp_path / f"a.{kind}"
    others = {}
    for trial in range(150):
        damaged = bytearray(content)
        if trial % 3 == 0:
            damaged = damaged[: int(generator.integers(0, len(content)))]
        else:
            start = int(generator.integers(0, min(len(content), 400 if trial % 3 == 1 else len(content))))
            damaged[start : start + 3] = generator.bytes(3)
        path.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, about damage it can live with
                read_picture(path)
        except ScanError:
            pass
        except Exception as error:  # noqa: BLE001 - which ones is the question
            others[trial] = repr(error)
    assert others == {}


def test_missing_picture_is_no_fault_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("picture", [COLOURS, GREY])
def test_png_bytes(picture: np.ndarray) -> None:
    content = png_bytes(picture)
    assert content == png_bytes(picture.copy())
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), picture)

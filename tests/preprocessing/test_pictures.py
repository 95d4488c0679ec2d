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
from PIL import Image, ImageOps

from preprocessing.encoding import png_bytes
from preprocessing.errors import MemoryLimitError, ScanError
from preprocessing.limits import Limits
from preprocessing.picture_depth import bits_for
from preprocessing.picture_files import largest_of_unknown_depth
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
    picture = read_picture(_file(tmp_path, name, content)).pixels
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
        picture = read_picture(path).pixels
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


# --- 16 bits ---

DEEP = np.random.default_rng(1).integers(0, 4096, (20, 30, 3), dtype=np.uint16)
DEEP[0, 0], DEEP[0, 1] = 0, 4095
FULL = np.random.default_rng(2).integers(0, 65536, (20, 30, 4), dtype=np.uint16)


def _png16(values: np.ndarray, significant: bytes = b"", *, before: bytes = b"") -> bytes:
    """A PNG with 16 bits a value, written by hand; `significant` is the content of its chunk sBIT."""
    channels = 1 if values.ndim == 2 else values.shape[2]
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    chunks = [(b"IHDR", header), (b"sBIT", significant), (before[:4], before[4:])]
    chunks = [chunk for chunk in chunks if chunk[1]] + [(b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(text)) + name + text + struct.pack(">I", zlib.crc32(name + text)) for name, text in chunks
    )


def _raw_tiff(tags: dict[int, int], data: bytes, *, leave_out: int = 0) -> bytes:
    """A TIFF of 30 x 20 pixels, written by hand: grey, one strip."""
    entries = {256: 30, 257: 20, 259: 1, 262: 1, 273: 0, 277: 1, 278: 20, 279: len(data)} | tags
    entries = {tag: value for tag, value in sorted(entries.items()) if tag != leave_out}
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + body + bytes(4) + data


def _packed(values: np.ndarray) -> bytes:
    """12 bits a value."""
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, 4:]
    return np.packbits(bits).tobytes()


def _scaled(values: np.ndarray, bits: int) -> np.ndarray:
    return np.floor(values[..., :3].astype(float) * 255 / (2**bits - 1) + 0.5)


DEEP_GREY, FULL_GREY = DEEP[..., 0], FULL[..., 0]
SAYS = '<OME><Pixels SignificantBits="{}" Type="uint16"/></OME>'
DEEP_PICTURES: list[tuple[str, str, bytes, int | None, np.ndarray, int]] = [
    ("grey png", "a.png", _png16(DEEP_GREY), 12, DEEP_GREY, 12),
    ("grey tiff", "a.tif", _tiff(DEEP_GREY, photometric="minisblack"), 12, DEEP_GREY, 12),
    ("grey tiff, big-endian", "a.tif", _tiff(DEEP_GREY, photometric="minisblack", byteorder=">"), 12, DEEP_GREY, 12),
    ("10 bits", "a.png", _png16(DEEP_GREY // 4), 10, DEEP_GREY // 4, 10),
    ("8 bits", "a.png", _png16(DEEP_GREY // 16), 8, DEEP_GREY // 16, 8),
    ("sBIT", "a.png", _png16(DEEP_GREY, b"\x0c"), None, DEEP_GREY, 12),
    ("sBIT, RGB", "a.png", _png16(DEEP, b"\x0c\x0c\x0c"), None, DEEP, 12),
    ("sBIT, spread over 16 as PNG wants it", "a.png", _png16(DEEP_GREY << 4 | DEEP_GREY >> 8, b"\x0c"), 10,
     DEEP_GREY << 4 | DEEP_GREY >> 8, 16),
    ("sBIT, spread and dark", "a.png", _png16(DEEP_GREY >> 4 << 4, b"\x0c"), 10, DEEP_GREY >> 4 << 4, 16),
    ("sBIT 16 says nothing", "a.png", _png16(DEEP_GREY, b"\x10"), 12, DEEP_GREY, 12),
    ("MaxSampleValue", "a.tif", _tiff(DEEP_GREY, extratags=[(281, 3, 1, 4095, True)]), None, DEEP_GREY, 12),
    ("SMaxSampleValue", "a.tif", _tiff(DEEP_GREY // 4, extratags=[(341, 3, 1, 4095, True)]), None, DEEP_GREY // 4, 12),
    ("MaxSampleValue of this picture alone", "a.tif",
     _tiff(DEEP_GREY // 4, extratags=[(281, 3, 1, 1000, True)]), 12, DEEP_GREY // 4, 12),
    ("OME", "a.ome.tif", _tiff(DEEP_GREY // 9, description=SAYS.format(12), metadata=None), None, DEEP_GREY // 9, 12),
    ("OME says 16 always", "a.tif", _tiff(DEEP_GREY, description=SAYS.format(16), metadata=None), 12, DEEP_GREY, 12),
    ("Micro-Manager", "a.tif", _tiff(DEEP_GREY // 9, description='{"BitDepth": 12, "Binning": 1}', metadata=None), None,
     DEEP_GREY // 9, 12),
    ("12-bit file", "a.tif", _raw_tiff({258: 12}, _packed(DEEP_GREY)), None, DEEP_GREY, 12),
    ("RGB png", "a.png", _png16(DEEP), 12, DEEP, 12),
    ("RGB and alpha png", "a.png", _png16(np.dstack([DEEP, FULL_GREY])), 12, DEEP, 12),
    ("grey and alpha png", "a.png", _png16(np.dstack([DEEP_GREY, FULL_GREY])), 12, DEEP_GREY, 12),
    ("RGB tiff", "a.tif", _tiff(DEEP, photometric="rgb"), 12, DEEP, 12),
    ("RGB tiff, big-endian", "a.tif", _tiff(DEEP, photometric="rgb", byteorder=">"), 12, DEEP, 12),
    ("RGB tiff, packed", "a.tif", _tiff(DEEP, photometric="rgb", compression="zlib", predictor=True), 12, DEEP, 12),
    ("RGB tiff, tiles", "a.tif", _tiff(DEEP, photometric="rgb", tile=(16, 16)), 12, DEEP, 12),
    ("RGB and alpha tiff", "a.tif", _tiff(FULL, photometric="rgb", extrasamples=["unassalpha"]), None, FULL, 16),
    ("white is 0", "a.tif", _tiff(DEEP_GREY, photometric="miniswhite"), 12, 4095 - DEEP_GREY, 12),
    ("16 bits without a word", "a.png", _png16(FULL_GREY), None, FULL_GREY, 16),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "given", "expected", "bits"), [p[1:] for p in DEEP_PICTURES], ids=[p[0] for p in DEEP_PICTURES]
)
def test_more_than_8_bits_are_scaled_by_the_real_depth(
    tmp_path: Path, name: str, content: bytes, given: int | None, expected: np.ndarray, bits: int
) -> None:
    picture = read_picture(_file(tmp_path, name, content), bits=given)
    scaled = _scaled(expected if expected.ndim == 3 else expected[..., None], bits)
    np.testing.assert_array_equal(picture.pixels, np.broadcast_to(scaled, (20, 30, 3)))
    assert picture.bits == bits


@pytest.mark.parametrize(
    ("content", "given", "message"),
    [
        (_png16(DEEP_GREY), None, "does not say how many of its bits it uses; its largest value, 4,095, fits "
         "into 12. Set cohort.modalities.….bits of its modality to what the camera has, such as 12"),
        (_png16(DEEP_GREY), 10, "largest value is 4,095, but .* for 10 bits, at most 1,023. Is it of another camera"),
        (_png16(DEEP_GREY // 512), 12, "its values, 0 to 7, are all one of 256 grey levels at 12 bits"),
        (_tiff(DEEP_GREY, extratags=[(281, 3, 1, 1023, True)]), None,
         r"says that it uses 10 bits \(MaxSampleValue\), but has values up to 4,095"),
        (_tiff(DEEP_GREY, description=SAYS.format(12), metadata=None, extratags=[(281, 3, 1, 16383, True)]), None,
         r"says that it uses 14 bits \(MaxSampleValue\) and 12 bits \(SignificantBits\); it can only be one"),
        (_tiff(np.moveaxis(DEEP, 2, 0).copy(), photometric="rgb", planarconfig="separate"), 12, "in separate planes"),
        (_tiff(np.moveaxis(DEEP, 2, 0).copy(), photometric="rgb", planarconfig="separate", compression="zlib"), 12,
         "in separate planes"),
        (_tiff(FULL, photometric="rgb", extrasamples=["assocalpha"]), None, "multiplied by their transparency"),
        (_tiff((DEEP_GREY // 2).astype(np.int16)), 12, "numbers with a sign of 16 bits; expected grey"),
        (_tiff((GREY // 2).astype(np.int8)), None, "numbers with a sign of 8 bits; expected grey or colour values"),
        (_raw_tiff({258: 8}, GREY.tobytes(), leave_out=262), None, "does not say whether 0 is black or white"),
        (_tiff(COLOURS, photometric="cielab"), None, "LAB colours of 8 bits; save it as RGB"),
        (JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), None, "a JPEG that is damaged, or .* 12-bit"),
    ],
)  # fmt: skip
def test_a_depth_or_colours_that_are_not_known_are_refused(
    tmp_path: Path, content: bytes, given: int | None, message: str
) -> None:
    with pytest.raises(ScanError, match=message):
        read_picture(_file(tmp_path, "a.tif", content), bits=given)


def test_the_largest_value_is_asked_of_those_alone_that_do_not_say_their_depth(tmp_path: Path) -> None:
    unknown = {"a.png": _png16(DEEP_GREY), "b.tif": _tiff(DEEP // 2, photometric="rgb"), "c.PNG": _png16(FULL_GREY)}
    found = [largest_of_unknown_depth(_file(tmp_path, name, content)) for name, content in unknown.items()]
    assert found == [4095, 2047, int(FULL_GREY.max())]
    known = {"d.png": PNG, "e.png": _png16(DEEP_GREY, b"\x0c"), "f.nii": b"", "g.png": PNG[:40], "h.tif": b"II"}
    assert {largest_of_unknown_depth(_file(tmp_path, name, content)) for name, content in known.items()} == {None}
    assert largest_of_unknown_depth(tmp_path / "not there.png") is None
    assert [bits_for(value) for value in (0, 255, 256, 1023, 1024, 4095, 4096, 16384, 65535)] == [
        8, 8, 10, 10, 12, 12, 14, 16, 16,
    ]  # fmt: skip


# --- turned, and other things that a header says ---


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_picture_is_turned_as_its_header_says(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    content = _picture(Image.fromarray(COLOURS), kind, exif=exif)
    picture = read_picture(_file(tmp_path, f"a.{kind.lower()}", content))
    with Image.open(io.BytesIO(content)) as image:
        oracle = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(picture.pixels, oracle)
    assert (picture.turned == "") == (orientation == 1)
    assert orientation != 6 or picture.turned == "turned by 90° clockwise"


def test_a_picture_of_16_bits_is_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    turned = _png16(DEEP, before=b"eXIf" + exif.tobytes()[6:])
    tiff = _tiff(DEEP_GREY, photometric="minisblack", extratags=[(274, 3, 1, 6, True)])
    for name, content in (("a.png", turned), ("a.tif", tiff)):
        picture = read_picture(_file(tmp_path, name, content), bits=12)
        expected = np.rot90(_scaled(DEEP if name == "a.png" else DEEP_GREY[..., None].repeat(3, 2), 12), -1)
        np.testing.assert_array_equal(picture.pixels, expected)


HALF = np.dstack([COLOURS, np.where(np.arange(20)[:, None] < 5, 0, 255) + np.zeros(30, int)]).astype(np.uint8)
REMARKED: list[tuple[str, bytes, str]] = [
    ("transparent", _picture(Image.fromarray(HALF), "PNG"), "25.0% of its pixels are transparent"),
    ("transparent, 16 bit", _png16(np.dstack([DEEP, FULL_GREY]), b"\x0c\x0c\x0c\x10"), "of its pixels are transparent"),
    ("one colour is", _picture(Image.fromarray(COLOURS), "PNG", transparency=(1, 2, 3)), "it calls transparent"),
    ("profile", _picture(Image.fromarray(COLOURS), "JPEG", icc_profile=bytes(128) + b"Adobe RGB"), "colour profile"),
    ("gamma", PNG[:33] + struct.pack(">I4sI", 4, b"gAMA", 100000) + struct.pack(">I", zlib.crc32(b"gAMA\0\x01\x86\xa0"))
     + PNG[33:], "its gamma is 1, which is not applied"),
    ("more channels", _tiff(HALF, photometric="rgb", extrasamples=["unspecified"]), "1 more channels than colours"),
    ("printing colours", _picture(Image.fromarray(COLOURS).convert("CMYK"), "TIFF"), "printing colours"),
    ("no such turn", _picture(Image.fromarray(COLOURS), "JPEG", exif=b"Exif\0\0" + struct.pack(
        "<2sHIHHHIII", b"II", 42, 8, 1, 0x112, 3, 1, 9, 0)), "its orientation is 9, none of 1 to 8"),
    ("unknown depth", _png16(FULL_GREY), "does not say how many bits it uses; 16 are taken"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "remark"), [p[1:] for p in REMARKED], ids=[p[0] for p in REMARKED])
def test_what_is_not_followed_is_remarked(tmp_path: Path, content: bytes, remark: str) -> None:
    remarks = read_picture(_file(tmp_path, "a.png", content)).remarks
    assert len(remarks) == 1
    assert remark in remarks[0]


@pytest.mark.parametrize(
    "content",
    [
        PNG, JPEG, TIFF, _picture(Image.fromarray(GREY), "PNG"), _picture(Image.fromarray(GREY > 99), "TIFF"),
        _picture(Image.fromarray(COLOURS).quantize(99), "PNG"), _picture(Image.fromarray(HALF), "PNG"),
        _tiff(GREY, photometric="miniswhite"), _tiff(HALF, photometric="rgb", extrasamples=["assocalpha"]),
        _picture(Image.fromarray(COLOURS), "TIFF", compression="jpeg"),
        _tiff(COLOURS, photometric="rgb", tile=(16, 16)),
        _picture(Image.fromarray(COLOURS), "JPEG", icc_profile=bytes(100) + b"sRGB IEC61966-2.1"),
        _tiff(np.moveaxis(COLOURS, 2, 0).copy(), photometric="rgb", planarconfig="separate"),
    ],
)  # fmt: skip
def test_8_bits_are_as_pillow_reads_them(tmp_path: Path, content: bytes) -> None:
    picture = read_picture(_file(tmp_path, "a.png", content))
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(picture.pixels, np.asarray(image.convert("RGB")))
    assert picture.turned == ""


# --- size ---


def test_a_picture_that_is_too_large_says_so(tmp_path: Path) -> None:
    content = bytearray(PNG)
    struct.pack_into(">II", content, 16, 14000, 14000)
    struct.pack_into(">I", content, 29, zlib.crc32(bytes(content[12:29])))
    path = _file(tmp_path, "a.png", bytes(content))
    message = (
        r"too large: 14,000 x 14,000 = 196,000,000 pixels; reading it takes about 3.9 GB of memory, .* Tile it: cut it "
        r"into several, each a row of the manifest, or set preprocess.memory_gb to 31\.\d"
    )
    with pytest.raises(MemoryLimitError, match=message):
        read_picture(path, limits=Limits(memory_gb=8))
    struct.pack_into(">II", content, 16, 60000, 60000)
    struct.pack_into(">I", content, 29, zlib.crc32(bytes(content[12:29])))
    path.write_bytes(content)
    with pytest.raises(ScanError, match="3,600,000,000 pixels; at most 1,073,741,824 are read. Tile it"):
        read_picture(path, limits=Limits(memory_gb=8000))


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

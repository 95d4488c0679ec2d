"""A scan is one regular file, read once: nothing else is opened, and its bytes are those that were hashed."""

import gzip
import hashlib
import io
import os
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from preprocessing.errors import ChangedFileError, ScanError
from preprocessing.pictures import read_picture
from preprocessing.volumes import read_volume

VOXELS = np.random.default_rng(0).normal(100, 30, (12, 11, 10)).astype(np.float32)  # z, y, x
NIFTI = nibabel.Nifti1Image(VOXELS, np.diag([1.5, 1.5, 2, 1])).to_bytes()
PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def meta(
    *, before: str = "", size: str = "10 11 12", spacing: str = "1 1 1", axes: int = 3, file: str = "LOCAL",
    packed: bool = False, data: bytes = VOXELS.tobytes(), place: str = "TransformMatrix = 1 0 0 0 1 0 0 0 1\n",
) -> bytes:  # fmt: skip
    header = f"ObjectType = Image\nNDims = {axes}\nBinaryData = True\nCompressedData = {packed}\n{before}{place}"
    header += f"ElementSpacing = {spacing}\nDimSize = {size}\nElementType = MET_FLOAT\nElementDataFile = {file}\n"
    return header.encode() + data


def nrrd(*, before: str = "", sizes: str = "10 11 12", encoding: str = "raw", data: bytes = VOXELS.tobytes()) -> bytes:
    header = f"NRRD0004\ntype: float\ndimension: 3\nsizes: {sizes}\nendian: little\nencoding: {encoding}\n"
    place = "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
    return f"{header}{place}{before}\n".encode() + data


def picture(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


# --- voxels in another file ---

DETACHED: list[tuple[str, bytes]] = [
    ("a.mha", meta(file="outside.raw", data=b"")),
    ("a.mhd", meta(file="outside.raw", data=b"")),
    ("a.mhd", meta(file="LIST", data=b"outside.raw\n")),
    ("a.mhd", meta(file="slice%03d.raw 1 12 1", data=b"")),
    ("a.nrrd", nrrd(before="data file: outside.raw\n", data=b"")),
    ("a.nrrd", nrrd(before="DataFile: outside.raw\n", data=b"")),
    ("a.nrrd", nrrd(before="data file: LIST\noutside.raw\n", data=b"")),
    ("a.nrrd", nrrd(before="data file: slice%03d.raw 1 12 1\n", data=b"")),
    ("a.nii", NIFTI.replace(b"n+1\0", b"ni1\0")),
    ("a.nii.gz", gzip.compress(NIFTI.replace(b"n+1\0", b"ni1\0"))),
    ("a.hdr", NIFTI[:352]),
    ("a.img", VOXELS.tobytes()),
    ("a.nhdr", nrrd(before="data file: outside.raw\n", data=b"")),
]


@pytest.mark.parametrize(("name", "content"), DETACHED, ids=[f"{n}-{i}" for i, (n, _) in enumerate(DETACHED)])
def test_voxels_in_another_file_are_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "outside.raw").write_bytes(VOXELS.tobytes())
    for number in range(1, 13):
        (tmp_path / f"slice{number:03d}.raw").write_bytes(VOXELS[number - 1].tobytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ScanError, match="header and voxels lie in two files.*into one file: "):
        read_volume(tmp_path / name)


@pytest.mark.parametrize(
    "before",
    ["Comment =\nElementDataFile = LOCAL\n", "Offset = 0 0\nElementDataFile = LOCAL\n", "Comment = x\rElementDataFile"],
)
def test_no_header_makes_itk_see_another_file_than_was_seen_here(tmp_path: Path, before: str) -> None:
    """ITK reads on over the end of a line where a value is missing, so that it would take the second file for it."""
    (tmp_path / "outside.raw").write_bytes(VOXELS.tobytes())
    (tmp_path / "a.mha").write_bytes(meta(before=before, file=str(tmp_path / "outside.raw")))
    with pytest.raises(ScanError):
        read_volume(tmp_path / "a.mha")


def test_one_file_of_every_format_is_read(tmp_path: Path) -> None:
    mgh = nibabel.MGHImage(VOXELS, np.eye(4, dtype=np.float32)).to_bytes()
    data = VOXELS.tobytes()
    files = {
        "a.nii": NIFTI, "a.nii.gz": gzip.compress(NIFTI), "a.mgh": mgh, "a.mgz": gzip.compress(mgh),
        "a.mha": meta(), "b.mhd": meta(before="Comment = of nobody\n0008|0060 = MR\n"),
        "c.mha": meta(packed=True, data=zlib.compress(data)), "a.nrrd": nrrd(before="# a comment\nmine:=own: x\n"),
        "b.nrrd": nrrd(encoding="gzip", data=gzip.compress(data)),
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        volume = read_volume(tmp_path / name, sha256=hashlib.sha256(content).hexdigest())
        turned = VOXELS.T if name[-4:] in (".mha", ".mhd", "nrrd") else VOXELS
        np.testing.assert_array_equal(volume[0].numpy(), turned, err_msg=name)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_what_itk_writes_is_read_as_itk_reads_it(tmp_path: Path, suffix: str, packed: bool, kind: str) -> None:
    generator = np.random.default_rng(3)
    image = SimpleITK.GetImageFromArray((generator.random((9, 10, 11)) * 200).astype(kind))
    u, _, vt = np.linalg.svd(generator.normal(size=(3, 3)))
    image.SetDirection((u @ vt * np.sign(np.linalg.det(u @ vt))).ravel().tolist())
    image.SetSpacing((0.7, 1.3, 2.9))
    image.SetOrigin((-20.5, 13.25, 7.0))
    image.SetMetaData("0010|0010", "Nobody")
    SimpleITK.WriteImage(image, str(tmp_path / f"a{suffix}"), packed)
    twin = SimpleITK.ReadImage(str(tmp_path / f"a{suffix}"))
    volume = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(volume[0].numpy(), SimpleITK.GetArrayFromImage(twin).T.astype(np.float32))
    left, back, up = twin.TransformIndexToPhysicalPoint((3, 7, 5))
    np.testing.assert_allclose(np.asarray(volume.affine) @ (3, 7, 5, 1), (-left, -back, up, 1), atol=1e-4)


def test_damage_in_a_packed_metaimage_is_noticed(tmp_path: Path) -> None:
    """ITK prints "Uncompress failed" and gives wrong voxels."""
    whole = meta(packed=True, data=zlib.compress(VOXELS.tobytes(), 0))
    for content in (whole[:-2000] + bytes([whole[-2000] ^ 64]) + whole[-1999:], whole[:-2000], whole[:-3]):
        (tmp_path / "a.mha").write_bytes(content)
        with pytest.raises(ScanError, match="damaged|shorter"):
            read_volume(tmp_path / "a.mha")


def test_no_header_of_a_metaimage_crashes_itk(tmp_path: Path) -> None:
    (tmp_path / "a.mha").write_bytes(meta(axes=-3))  # ends ITK 5.4 and the process with it
    with pytest.raises(ScanError, match="damaged MetaImage"):
        read_volume(tmp_path / "a.mha")


# --- the bytes that were hashed ---


@pytest.mark.parametrize(("name", "content"), [("a.nii", NIFTI), ("a.nii.gz", gzip.compress(NIFTI)), ("a.mha", meta())])
def test_a_volume_that_is_not_the_one_that_was_hashed(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_volume(tmp_path / name, sha256=hashlib.sha256(content).hexdigest()).shape[0] == 1
    for sha256 in (hashlib.sha256(content + b"\0").hexdigest(), "unreadable", ""):
        with pytest.raises(ChangedFileError, match="changed or replaced while the run was on.*Run again"):
            read_volume(tmp_path / name, sha256=sha256)


def test_a_picture_that_is_not_the_one_that_was_hashed(tmp_path: Path) -> None:
    content = picture(Image.fromarray(PICTURE), "PNG")
    (tmp_path / "a.png").write_bytes(content)
    read = read_picture(tmp_path / "a.png", sha256=hashlib.sha256(content).hexdigest())
    np.testing.assert_array_equal(read.pixels, PICTURE)
    with pytest.raises(ChangedFileError):
        read_picture(tmp_path / "a.png", sha256=hashlib.sha256(b"").hexdigest())


def test_a_file_that_changes_as_soon_as_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is hashed is what is parsed, not what lies under the name a moment later."""
    import preprocessing.volumes as module

    read = module.read_bytes
    for name, content in (("a.nii", NIFTI), ("a.mha", meta()), ("a.png", picture(Image.fromarray(PICTURE), "PNG"))):
        path = tmp_path / name
        path.write_bytes(content)

        def then_replaced(path: Path, **options: int) -> bytes:
            content = read(path, **options)
            path.write_bytes(b"something else")
            return content

        monkeypatch.setattr(module, "read_bytes", then_replaced)
        sha256 = hashlib.sha256(content).hexdigest()
        if name.endswith("png"):
            got = read_picture(path, sha256=sha256).pixels
        else:
            got = read_volume(path, sha256=sha256)[0].numpy()
        assert got.shape in ((20, 30, 3), (12, 11, 10), (10, 11, 12))
        assert path.read_bytes() == b"something else"


# --- what is no file ---


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.mha", "a.nrrd", "a.png"])
def test_pipes_and_devices_are_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    read: Callable[[Path], object] = read_picture if name.endswith("png") else read_volume
    os.mkfifo(tmp_path / name)
    with pytest.raises(ScanError, match="is a pipe, a device or a socket"):
        read(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(ScanError, match="is a pipe, a device or a socket"):
        read(tmp_path / name)


# --- pictures ---


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP", "PPM"])
def test_only_the_formats_that_are_named_are_opened(tmp_path: Path, kind: str) -> None:
    """Pillow goes by content, and some of its formats start programs."""
    (tmp_path / "a.png").write_bytes(picture(Image.fromarray(PICTURE), kind))
    with pytest.raises(ScanError, match="none of PNG, JPEG, TIFF"):
        read_picture(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ScanError, match="none of PNG, JPEG, TIFF"):
        read_picture(tmp_path / "a.png")


def test_an_animation_is_a_stack(tmp_path: Path) -> None:
    frames = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    for name, kind in (("a.png", "PNG"), ("a.tif", "TIFF")):
        (tmp_path / name).write_bytes(picture(frames[0], kind, save_all=True, append_images=frames[1:]))
        with pytest.raises(ScanError, match="a stack of several pictures"):
            read_picture(tmp_path / name)


# --- bombs ---


def packed_zeros(count: int, before: bytes = b"", window: int = 31) -> bytes:
    packer = zlib.compressobj(9, wbits=window)
    chunks = [packer.compress(before), *(packer.compress(bytes(2**20)) for _ in range(count // 2**20))]
    return b"".join(chunks) + packer.flush()


BOMBS: list[tuple[str, Callable[[], bytes]]] = [
    ("a.nii.gz", lambda: packed_zeros(2**28, NIFTI)),
    ("a.mgz", lambda: packed_zeros(2**28, nibabel.MGHImage(VOXELS, np.eye(4, dtype=np.float32)).to_bytes())),
    ("a.mha", lambda: meta(packed=True, data=packed_zeros(2**28, VOXELS.tobytes(), window=15))),
    ("a.nrrd", lambda: nrrd(encoding="gzip", data=packed_zeros(2**28, VOXELS.tobytes()))),
]


@pytest.mark.parametrize(("name", "content"), BOMBS, ids=[name for name, _ in BOMBS])
def test_more_than_the_header_promises_is_not_unpacked(tmp_path: Path, name: str, content: Callable[[], bytes]) -> None:
    (tmp_path / name).write_bytes(content())
    tracemalloc.start()
    try:
        with pytest.raises(ScanError, match="it unpacks to more than"):
            read_volume(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.timeout(120)
def test_millions_of_extensions_and_of_empty_members(tmp_path: Path) -> None:
    """40 MB that nibabel turns into gigabytes of objects; 8 MB of gzip with nothing in it."""
    header = bytearray(NIFTI)
    header[108:112] = np.float32(352 + 8 * 5_000_000).tobytes()  # where the voxels begin
    extensions = np.tile(np.array([8, 6], "<i4"), 5_000_000).tobytes()
    (tmp_path / "a.nii").write_bytes(bytes(header[:348]) + b"\1\0\0\0" + extensions + bytes(header[352:]))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii")[0].numpy(), VOXELS)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(NIFTI) + gzip.compress(b"") * 400_000)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz")[0].numpy(), VOXELS)


# --- headers that lie ---


@pytest.mark.parametrize(
    "content",
    [
        meta(size="30000 30000 30000"), meta(size="-10 11 12"), meta(size="99999999999999999999 11 12"),
        meta(size="10 11"), meta(size="1e1 11 12"), meta(size="10 11 13"), meta(spacing="nan 1 1"),
        meta(spacing="-1 1 1"), meta(spacing="1e300 1 1"), meta(spacing="0 1 1"), meta(before="HeaderSize = 999999\n"),
        meta(before="ElementNumberOfChannels = 1000000000\n"), meta(before=f"Comment = {'x' * 200_000}\n"),
        meta(place="TransformMatrix = nan 0 0 0 1 0 0 0 1\n"), meta().replace(b"MET_FLOAT", b"MET_STRING"),
        meta().replace(b"BinaryData = True", b"BinaryData = False"), meta().replace(b"ElementDataFile", b"Element"),
        nrrd(sizes="30000 30000 30000"), nrrd(sizes="-10 11 12"), nrrd(sizes="99999999999999999999999 2 2"),
        nrrd(before="byte skip: -1\n"), nrrd(before="line skip: 2000000000\n"), nrrd(encoding="hex"),
        nrrd(encoding="bzip2"), nrrd(before="space dimension: 999999999\n"),
        nrrd(before="sizes: 9 9 9\n"), nrrd(before=f"x:={'y' * 200_000}\n"), nrrd().replace(b"float", b"feature_map"),
        nrrd().replace(b"dimension: 3", b"dimension: 99"), nrrd(data=b""), b"NRRD0004\n", b"NRRD0009\n\n", b"\n\n",
    ],
)  # fmt: skip
def test_a_lying_header_is_a_scan_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ("a.mha" if content.startswith(b"Obj") else "a.nrrd")
    path.write_bytes(content)
    with pytest.raises(ScanError):
        read_volume(path)


@pytest.mark.parametrize("kind", ["mha", "nrrd", "mgz"])
def test_a_damaged_file_is_never_anything_but_a_scan_error(tmp_path: Path, kind: str) -> None:
    """200 files each, cut or with a few bytes of the header overwritten: read, or refused."""
    generator = np.random.default_rng(8)
    mgh = nibabel.MGHImage(VOXELS, np.eye(4, dtype=np.float32)).to_bytes()
    whole = {"mha": meta(), "nrrd": nrrd(), "mgz": mgh}[kind]
    path, others = tmp_path / f"a.{kind}", {}
    for trial in range(200):
        content = bytearray(whole)
        if trial % 4 == 0:
            content = content[: int(generator.integers(0, len(whole)))]
        else:
            start = int(generator.integers(0, 180))
            some = generator.choice(list(b"0 9-\n=:"), 3).astype(np.uint8).tobytes()
            content[start : start + 3] = generator.bytes(3) if trial % 4 == 1 else some
        path.write_bytes(gzip.compress(content) if kind == "mgz" else content)
        try:
            assert np.isfinite(read_volume(path).numpy()).all()
        except ScanError:
            pass
        except Exception as error:  # noqa: BLE001 - which ones is the question
            others[trial] = repr(error)
    assert others == {}

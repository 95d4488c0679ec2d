"""Reading and writing volumes: what is fine, and every way in which a file is not."""

import gzip
import struct
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from preprocessing.errors import ScanError
from preprocessing.volumes import read_volume, write_volume

SHAPE = (10, 11, 12)
OBLIQUE = np.array([[1.4, -0.3, 0.2, -20.0], [0.35, 1.3, -0.5, 12.0], [-0.1, 0.6, 2.4, 7.0], [0, 0, 0, 1]])


def _orthogonal(spacing: tuple[float, float, float] = (0.9, 1.1, 2.5)) -> np.ndarray:
    """Oblique, without shear (SimpleITK refuses shear)."""
    affine = OBLIQUE.copy()
    u, _, vt = np.linalg.svd(OBLIQUE[:3, :3])
    affine[:3, :3] = u @ vt * spacing
    return affine


def _voxels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 30, SHAPE).astype(np.float32)


def _nifti(array: np.ndarray | None = None, affine: np.ndarray | None = None) -> bytes:
    return nibabel.Nifti1Image(
        _voxels() if array is None else array, np.diag([1.5, 1.5, 2, 1]) if affine is None else affine
    ).to_bytes()


def _header(offset: int, layout: str, *values: float, base: bytes | None = None) -> bytes:
    """A NIfTI whose header was overwritten at `offset`."""
    content = bytearray(_nifti() if base is None else base)
    struct.pack_into("<" + layout, content, offset, *values)
    return bytes(content)


def _file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


# --- volumes that are fine ---


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "SCAN.NII.GZ"])
def test_reads_values_and_affine(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = _nifti(affine=OBLIQUE)
    path.write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)
    volume = read_volume(path)
    assert volume.shape == (1, *SHAPE)
    assert str(volume.dtype) == "torch.float32"
    np.testing.assert_array_equal(volume[0].numpy(), _voxels())
    np.testing.assert_allclose(np.asarray(volume.affine), OBLIQUE, atol=1e-5)


def test_scaling_is_applied(tmp_path: Path) -> None:
    raw = np.random.default_rng(1).integers(-2000, 2000, SHAPE).astype("<i2")
    content = _header(112, "ff", 0.25, -40.0, base=_nifti(raw))  # scl_slope, scl_inter
    volume = read_volume(_file(tmp_path, "scan.nii.gz", content))
    np.testing.assert_allclose(volume[0].numpy(), raw * 0.25 - 40.0, rtol=1e-6)


def test_big_endian(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    raw = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(">i2")
    content = nibabel.Nifti1Image(raw, np.eye(4), header).to_bytes()
    assert content[:4] == (348).to_bytes(4, "big")
    np.testing.assert_array_equal(read_volume(_file(tmp_path, "scan.nii", content))[0].numpy(), raw)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_every_common_type(tmp_path: Path, dtype: str) -> None:
    raw = np.random.default_rng(2).integers(0, 200, SHAPE).astype(dtype)
    np.testing.assert_array_equal(read_volume(_file(tmp_path, "scan.nii.gz", _nifti(raw)))[0].numpy(), raw)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_one_frame_is_a_volume(tmp_path: Path, axes: int) -> None:
    volume = read_volume(_file(tmp_path, "scan.nii.gz", _nifti(_voxels().reshape(*SHAPE, *[1] * axes))))
    assert volume.shape == (1, *SHAPE)
    np.testing.assert_array_equal(volume[0].numpy(), _voxels())


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_other_formats_mean_the_same_world(tmp_path: Path, suffix: str) -> None:
    nifti = _file(tmp_path, "scan.nii.gz", _nifti(affine=_orthogonal()))
    twin = tmp_path / f"scan{suffix}"
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(nifti)), str(twin))
    ours, other = read_volume(nifti), read_volume(twin)
    np.testing.assert_array_equal(other.numpy(), ours.numpy())
    np.testing.assert_allclose(np.asarray(other.affine), np.asarray(ours.affine), atol=1e-4)


def test_every_advertised_format_is_read(tmp_path: Path) -> None:
    """FreeSurfer's .mgz is in the list of suffixes."""
    path = tmp_path / "scan.mgz"
    nibabel.save(nibabel.MGHImage(_voxels(), OBLIQUE), path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume[0].numpy(), _voxels())
    np.testing.assert_allclose(np.asarray(volume.affine), OBLIQUE, atol=1e-4)


# --- volumes that are not ---

HUGE = _header(40, "4h", 3, 30000, 30000, 30000)
CONSTANT = np.full(SHAPE, 7, np.int16)
INFINITE = _voxels()
INFINITE[:2] = np.inf
INFINITE[3, 4, 5] = np.nan
LOST = _voxels()
LOST[:, 4] = LOST[:, 9:] = np.nan
RGB = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
BAD_VOLUMES: list[tuple[str, str, Callable[[], bytes], str]] = [
    ("text", "x.nii.gz", lambda: b"subject,scan\n" * 200, "not a NIfTI image"),
    ("text", "x.nii", lambda: b"subject,scan\n" * 200, "not a NIfTI image"),
    ("random bytes", "x.nii", lambda: np.random.default_rng(0).bytes(5000), "not a NIfTI image"),
    ("nothing", "x.nii", lambda: b"", "not a NIfTI image"),
    ("shorter than its header says", "x.nii", lambda: _nifti()[:2000], "shorter than its header says"),
    ("only half a header", "x.nii", lambda: _nifti()[:200], "not a NIfTI image"),
    ("shorter, compressed", "x.nii.gz", lambda: _nifti()[:2000], "shorter than its header says"),
    ("absurd size", "x.nii", lambda: HUGE, r"promises \(30000, 30000, 30000\) = 27,000,000,000,000 voxels"),
    ("absurd size, compressed", "x.nii.gz", lambda: HUGE, r"promises \(30000, 30000, 30000\)"),
    ("negative size", "x.nii", lambda: _header(40, "4h", 3, -10, 11, 12), "at least 8 voxels"),
    ("unknown type", "x.nii", lambda: _header(70, "h", 999), "not a NIfTI image: data code 999"),
    ("infinite", "x.nii.gz", lambda: _nifti(INFINITE), "264 of 1320 voxels are infinite"),
    ("a lost slice", "x.nii", lambda: _nifti(LOST), "1 slices along axis 2 are all NaN, between others"),
    ("NaN alone", "x.nii.gz", lambda: _nifti(np.full(SHAPE, np.nan, np.float32)), "every voxel is NaN"),
    ("one value and NaN", "x.nii", lambda: _nifti(np.where(INFINITE > 99, 7, np.nan)), "every voxel is 7 or NaN"),
    ("beyond float32", "x.nii", lambda: _nifti(_voxels().astype(float) * 1e300), "beyond the range of float32.* 3.4e"),
    (
        "beyond float32 by its slope",
        "x.nii",
        lambda: _header(112, "ff", 1e38, 0, base=_nifti(_voxels().astype("<i2"))),
        "beyond the range of float32",
    ),
    ("constant", "x.nii.gz", lambda: _nifti(CONSTANT), "every voxel is 7; a scan needs at least two values"),
    (
        "4-D",
        "x.nii.gz",
        lambda: _nifti(np.stack([_voxels()] * 3, -1)),
        "4-D with 3 volumes.*Average the frames or pick",
    ),
    ("5-D", "x.nii.gz", lambda: _nifti(np.stack([_voxels()] * 3, -1)[..., None, :]), "5-D of shape"),
    ("2-D", "x.nii.gz", lambda: _nifti(_voxels()[:, :, 0]), r"2-D of shape \(10, 11\).*kind: image"),
    ("tiny", "x.nii.gz", lambda: _nifti(_voxels()[:, :, :3]), r"shape \(10, 11, 3\); a scan needs at least 8 voxels"),
    ("zero affine", "x.nii.gz", lambda: _header(280, "12f", *[0] * 12), "voxel sizes .*set sform or qform"),
    ("NaN affine", "x.nii.gz", lambda: _header(280, "12f", *[np.nan] * 12), "voxel sizes .*set sform or qform"),
    (
        "singular affine",
        "x.nii.gz",
        lambda: _header(280, "12f", 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0),
        "the affine is singular",
    ),
    (
        "metres",
        "x.nii.gz",
        lambda: _header(280, "12f", 900, 0, 0, 0, 0, 900, 0, 0, 0, 0, 900, 0),
        "millimetres below 50",
    ),
    # readable headers, unreadable content
    ("impossible quaternion", "x.nii", lambda: _header(252, "hh3f", 1, 0, 5, 5, 5), "qform|affine|NIfTI"),
    ("no number for the data's place", "x.nii", lambda: _header(108, "f", np.nan), "NIfTI|header|damaged"),
    ("data's place beyond reason", "x.nii", lambda: _header(108, "f", 1e30), "NIfTI|header|damaged"),
    ("colours", "x.nii.gz", lambda: _nifti(RGB), "(?i)colou?r|RGB|real number"),
    ("complex", "x.nii.gz", lambda: _nifti(_voxels().astype(np.complex64)), "(?i)complex|real number"),
]


@pytest.mark.parametrize(("name", "content", "message"), [c[1:] for c in BAD_VOLUMES], ids=[c[0] for c in BAD_VOLUMES])
def test_bad_volume(tmp_path: Path, name: str, content: Callable[[], bytes], message: str) -> None:
    path = _file(tmp_path, name, content())
    with pytest.raises(ScanError, match=message):
        read_volume(path)


def test_zero_voxel_sizes_without_any_form(tmp_path: Path) -> None:
    """Neither sform nor qform, and voxel sizes that are no numbers."""
    content = _header(252, "hh", 0, 0, base=_header(76, "8f", *[np.nan] * 8))
    with pytest.raises(ScanError, match="set sform or qform"):
        read_volume(_file(tmp_path, "x.nii", content))


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.9, 0.999])
def test_truncated_gzip(tmp_path: Path, share: float) -> None:
    whole = gzip.compress(_nifti())
    path = tmp_path / "x.nii.gz"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ScanError, match="truncated or damaged|not a NIfTI image"):
        read_volume(path)


def test_truncated_gzip_says_what_to_do(tmp_path: Path) -> None:
    whole = gzip.compress(_nifti())
    path = tmp_path / "x.nii.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScanError, match="the file is truncated or damaged .*copy it again from the source"):
        read_volume(path)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """The checksum at the end of a gzip file is there to be compared."""
    whole = bytearray(gzip.compress(_nifti(), compresslevel=0))
    whole[3000] ^= 0x40
    path = tmp_path / "x.nii.gz"
    path.write_bytes(whole)
    with pytest.raises(ScanError, match="damaged"):
        read_volume(path)


def test_absurd_header_costs_nothing(tmp_path: Path) -> None:
    path = _file(tmp_path, "x.nii.gz", HUGE)
    tracemalloc.start()
    try:
        with pytest.raises(ScanError):
            read_volume(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_a_damaged_header_is_never_anything_but_a_scan_error(tmp_path: Path) -> None:
    """300 files with four header bytes overwritten: read, or refused with a `ScanError`."""
    generator = np.random.default_rng(5)
    content = _nifti()
    path = tmp_path / "x.nii"
    others = {}
    for _ in range(300):
        damaged = bytearray(content)
        start = int(generator.integers(0, 345))
        damaged[start : start + 4] = generator.choice([0, 1, 0x7F, 0x80, 0xC0, 0xFF], 4).astype(np.uint8).tobytes()
        path.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # NumPy's, about values that overflow
                volume = read_volume(path)
            assert np.isfinite(volume.numpy()).all()
        except ScanError:
            pass
        except Exception as error:  # noqa: BLE001 - which ones is the question
            others[start] = repr(error)
    assert others == {}


@pytest.mark.parametrize("name", ["scan.dcm", "scan", "scan.nii.bz2", "scan.png"])
def test_unknown_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(ScanError, match=r"not a volume format read here"):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.mha"])
def test_a_missing_file_is_no_fault_of_the_data(tmp_path: Path, name: str) -> None:
    """A share that is away for a moment: the next run tries again, which it would not after a `ScanError`."""
    with pytest.raises(FileNotFoundError):
        read_volume(tmp_path / name)


def _itk(path: Path, array: np.ndarray, vector: bool = False) -> Path:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=vector), str(path))
    return path


def test_bad_metaimages(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    generator = np.random.default_rng(0)
    whole = _itk(tmp_path / "a.mha", _voxels()).read_bytes()
    for content in (whole[:-500], b"hello", b"", whole[:100]):
        with pytest.raises(ScanError, match="shorter than its header says|not a MetaImage"):
            read_volume(_file(tmp_path, "b.mha", content))
    with pytest.raises(ScanError, match="2-D of shape"):
        read_volume(_itk(tmp_path / "c.mha", generator.normal(size=(9, 10))))
    with pytest.raises(ScanError, match="4-D with 2 volumes"):
        read_volume(_itk(tmp_path / "d.mha", generator.normal(size=(2, 9, 10, 11))))


def test_metaimage_of_colours(tmp_path: Path) -> None:
    """Three numbers a voxel are no fourth axis."""
    path = _itk(tmp_path / "c.mha", np.random.default_rng(0).normal(size=(9, 10, 11, 3)), vector=True)
    with pytest.raises(ScanError):
        read_volume(path)


def test_metaimage_of_one_frame(tmp_path: Path) -> None:
    """4-D with one frame is a volume in NIfTI, so it is one here."""
    array = np.random.default_rng(0).normal(size=(1, 9, 10, 11))
    volume = read_volume(_itk(tmp_path / "d.mha", array))
    np.testing.assert_allclose(volume[0].numpy(), array[0].T, rtol=1e-6)
    with pytest.raises(ScanError, match="the NRRD has no space"):  # ITK names none in 4-D
        read_volume(_itk(tmp_path / "d.nrrd", array))


# --- writing volumes ---


def test_same_bytes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_volume(tmp_path / "a.nii.gz", _voxels(), OBLIQUE, "a brain")
    monkeypatch.setattr("time.time", lambda: 4e9)
    write_volume(tmp_path / "b.nii.gz", _voxels(), OBLIQUE, "a brain")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("dtype", ["f4", "u1", "i2"])
def test_what_is_written_is_read_back(tmp_path: Path, dtype: str) -> None:
    path, volume = tmp_path / "a.nii.gz", _voxels().astype(dtype)
    write_volume(path, volume, OBLIQUE, "ä" * 100)
    ours = read_volume(path)
    np.testing.assert_array_equal(ours[0].numpy(), volume)
    np.testing.assert_allclose(np.asarray(ours.affine), OBLIQUE, atol=1e-5)


def test_nibabel_and_simpleitk_agree_where_a_voxel_is(tmp_path: Path) -> None:
    path, marked = tmp_path / "a.nii.gz", (2, 9, 5)
    volume = np.zeros(SHAPE, np.float32)
    volume[marked] = 1
    affine = _orthogonal()
    write_volume(path, volume, affine)
    expected = (affine @ [*marked, 1])[:3]

    image = nibabel.load(path)
    voxel = np.argwhere(image.get_fdata() == 1)[0]
    np.testing.assert_allclose(nibabel.affines.apply_affine(image.affine, voxel), expected, atol=1e-4)
    for matrix in (image.get_sform(), image.get_qform()):
        np.testing.assert_allclose(matrix, affine, atol=1e-4)

    itk = SimpleITK.ReadImage(str(path))
    z, y, x = np.argwhere(SimpleITK.GetArrayFromImage(itk) == 1)[0].tolist()
    assert (x, y, z) == marked
    left, back, up = itk.TransformIndexToPhysicalPoint((x, y, z))  # LPS+
    np.testing.assert_allclose((-left, -back, up), expected, atol=1e-4)

"""What a scan may take is compared with what its header says, before the memory is taken."""

import gzip
import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from monai.data import MetaTensor
from PIL import Image

from preprocessing import limits as module
from preprocessing.brains import Brain, RegistrationTarget, VolumePipeline, preprocess_volume
from preprocessing.errors import MemoryLimitError, ScanError
from preprocessing.limits import Limits
from preprocessing.pictures import read_picture
from preprocessing.resample import resample, resampled_shape, resampling_bytes
from preprocessing.transforms import resample_brain
from preprocessing.volumes import read_volume

SMALL = Limits(memory_gb=0.2)


def nifti(shape: tuple[int, int, int], spacing_mm: float = 0.5) -> bytes:
    """A header that promises so much, and nothing behind it."""
    image = nibabel.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.diag([spacing_mm] * 3 + [1]))
    content = bytearray(image.to_bytes()[:352])
    struct.pack_into("<4h", content, 40, 3, *shape)
    return bytes(content)


def test_no_head_is_three_metres_long(tmp_path: Path) -> None:
    """A quarter of a million voxels that would become 10 billion at 1.5 mm."""
    voxels = np.random.default_rng(0).normal(size=(64, 64, 64)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([50, 50, 50, 1])), tmp_path / "a.nii.gz")
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing((50.0, 50.0, 50.0))
    for name in ("a.mha", "a.nrrd"):
        SimpleITK.WriteImage(image, str(tmp_path / name))
    for name in ("a.nii.gz", "a.mha", "a.nrrd"):
        with pytest.raises(ScanError, match="64 voxels of 50 mm are 3200 mm along axis 1; at most 900 mm expected"):
            read_volume(tmp_path / name)
        assert read_volume(tmp_path / name, limits=Limits(largest_extent_mm=3300)).shape == (1, 64, 64, 64)


@pytest.mark.parametrize(("voxels", "spacing_mm"), [(200, 4.07283), (256, 2.73438), (512, 1.36719), (400, 2.03642)])
def test_whole_fields_of_view_of_pet_scanners_are_taken(voxels: int, spacing_mm: float) -> None:
    Limits().check_extent((voxels, voxels, 109), np.diag([-spacing_mm, -spacing_mm, 2.027, 1.0]))


def test_the_longest_axis_is_named() -> None:
    with pytest.raises(ScanError, match=r"400 voxels of 2.5 mm are 1000 mm along axis 3"):
        Limits().check_extent((10, 20, 400), np.diag([1.0, 1.0, 2.5, 1.0]))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.mha", "a.nrrd", "a.png", "a.tif"])
def test_what_takes_too_much_memory_is_refused_by_its_header(tmp_path: Path, name: str) -> None:
    side = 400
    mgh = nibabel.MGHImage(np.zeros((8, 8, 8), np.float32), np.eye(4, dtype=np.float32)).to_bytes()[:284]
    meta = f"ObjectType = Image\nNDims = 3\nBinaryData = True\nElementSpacing = 1 1 1\nDimSize = {side} {side} {side}\n"
    meta += "TransformMatrix = 1 0 0 0 1 0 0 0 1\n"
    nrrd = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {side} {side} {side}\nendian: little\nencoding: raw\n"
    nrrd += "space: right-anterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n\n"
    stream = io.BytesIO()
    Image.fromarray(np.zeros((4000, 4000), np.uint8)).save(stream, "PNG" if name == "a.png" else "TIFF")
    content = {
        "a.nii": nifti((side, side, side)),
        "a.nii.gz": gzip.compress(nifti((side, side, side)) + bytes(side**3)),
        "a.mgz": gzip.compress(mgh[:4] + struct.pack(">4i", side, side, side, 1) + mgh[20:]),
        "a.mha": f"{meta}ElementType = MET_SHORT\nElementDataFile = LOCAL\n".encode(),
        "a.nrrd": nrrd.encode(),
    }.get(name, stream.getvalue())
    (tmp_path / name).write_bytes(content)
    read = read_picture if name in ("a.png", "a.tif") else read_volume
    tracemalloc.start()
    try:
        with pytest.raises(
            MemoryLimitError, match="takes about .* GB of memory.* of 0.2 GB.*set preprocess.memory_gb to"
        ):
            read(tmp_path / name, limits=SMALL)  # type: ignore[operator]
        assert tracemalloc.get_traced_memory()[1] < 5e6 + 5 * len(content)
    finally:
        tracemalloc.stop()


def test_a_file_larger_than_the_memory_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.nii").open("wb") as stream:
        stream.truncate(2**40)  # a terabyte of holes
    with pytest.raises(MemoryLimitError, match="reading the file takes about 1.1e"):
        read_volume(tmp_path / "a.nii", limits=SMALL)


def test_text_in_a_picture_counts(tmp_path: Path) -> None:
    """Pillow copies it several times."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)).save(stream, "PNG")
    whole, text = stream.getvalue(), b"tEXta\0" + bytes(10_000_000)
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    (tmp_path / "a.png").write_bytes(whole[:33] + chunk + whole[33:])
    with pytest.raises(MemoryLimitError, match="too large: 30 x 20 = 600 pixels; reading it takes about"):
        read_picture(tmp_path / "a.png", limits=SMALL)


def test_the_memory_of_the_machine_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "main_memory_bytes", lambda: 4e9)
    assert Limits().memory_bytes == 3e9
    assert Limits(memory_gb=2).memory_bytes == 2e9
    with pytest.raises(MemoryLimitError, match=r"three quarters of this machine's"):
        Limits().check_reading(1e9, "x")


def test_an_ordinary_head_fits_a_small_machine() -> None:
    """What needs a machine with 4 GB today shall not be refused there."""
    pipeline = _pipeline(Limits(memory_gb=3.0))
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    from preprocessing.brains import _bytes_of

    pipeline.limits.check_work(
        _bytes_of(MetaTensor(torch.zeros(1).expand(1, 256, 256, 200), affine), torch.float32), "x"
    )


def _pipeline(limits: Limits, spacing_mm: float = 2.0) -> VolumePipeline:
    return VolumePipeline.ready(
        "fast", device=torch.device("cpu"), precision="fp32", parameters=None, spacing_mm=spacing_mm, limits=limits
    )


def _stripped(pipeline: VolumePipeline, image: MetaTensor, target: RegistrationTarget | None = None) -> Brain:
    return preprocess_volume(pipeline, image, target, skull_strip=False, normalise="minmax")


def _head(side: int, spacing_mm: float) -> MetaTensor:
    grid = np.indices((side,) * 3) - (side - 1) / 2
    inside = (grid**2).sum(0) < (side / 2 - 2) ** 2
    voxels = np.where(inside, 100 + 40 * np.sin(grid.sum(0)), 0).astype(np.float32)
    return MetaTensor(torch.from_numpy(voxels)[None], affine=np.diag([spacing_mm] * 3 + [1.0]))


def test_the_network_is_not_asked_about_a_grid_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = _pipeline(Limits(memory_gb=0.9))
    monkeypatch.setattr(
        type(pipeline.stripper), "networks", property(lambda self: pytest.fail("the network was loaded"))
    )
    with pytest.raises(MemoryLimitError, match="finding the brain in 24x24x24 voxels takes about"):
        preprocess_volume(pipeline, _head(24, 10.0), None, skull_strip=True, normalise="minmax")


def test_the_grid_of_the_result_is_measured_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocessing.transforms.resample", lambda *a, **b: pytest.fail("it was resampled"))
    with pytest.raises(MemoryLimitError, match=r"the brain at 0.5 mm, .* voxels, takes about .* GB of memory"):
        _stripped(_pipeline(SMALL, spacing_mm=0.5), _head(24, 6.0))


def test_limits_change_no_result() -> None:
    image = _head(24, 6.0)
    masked = _pipeline(Limits()).mask_nonzero({"image": image})
    with_limits, without = (resample_brain(spacing_mm=2.0, limits=limits)(masked) for limits in (Limits(), None))
    for key in ("image", "mask"):
        torch.testing.assert_close(with_limits[key], without[key], rtol=0, atol=0)


def test_a_registration_that_takes_too_much_is_left_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocessing.brains.register_rigid", lambda *a, **b: pytest.fail("it was registered"))
    image = _head(24, 6.0)
    alone = _stripped(_pipeline(Limits()), image)
    target = RegistrationTarget(
        "p1_MRI", _head(96, 3.0), *map(torch.from_numpy, (alone.volume, alone.mask)), alone.affine, by="search"
    )
    brain = _stripped(_pipeline(Limits(memory_gb=0.09)), image, target)
    assert "registration takes about" in brain.facts["not_registered"]
    assert "(with p1_MRI)" in brain.facts["not_registered"]
    np.testing.assert_array_equal(brain.volume, alone.volume)


def test_the_shape_of_a_grid_is_known_beforehand() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        shape, spacing_mm = random.integers(8, 20, 3).tolist(), float(random.choice([1, 1.5, 2, 3.3]))
        affine = np.diag([*random.uniform(0.4, 8, 3).round(1), 1.0])
        made, _ = resample(torch.zeros(shape), affine, spacing_mm=spacing_mm)
        assert list(made.shape) == resampled_shape(shape, affine, spacing_mm=spacing_mm)
        assert resampling_bytes(shape, affine, spacing_mm=spacing_mm) >= 4 * made.numel()

"""Where voxels lie: read where the header says it, refused where it does not or contradicts itself."""

import gzip
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from preprocessing.errors import ScanError
from preprocessing.volumes import read_volume, write_volume

SHAPE = (10, 11, 12)
VOXELS = np.random.default_rng(0).normal(100, 30, SHAPE).astype(np.float32)
IDENTITY = "1 0 0 0 1 0 0 0 1"
LPS = "left-posterior-superior"
HEADER = nibabel.freesurfer.mghformat.header_dtype


def _affine(sizes: tuple[float, ...] = (1.5, 1.5, 2.0), degrees: float = 0.0, shift: float = 0.0) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("x", degrees, degrees=True).as_matrix() * sizes
    affine[:3, 3] = (-7.0, 5.0, shift)
    return affine


def _nifti(
    *, sform: tuple[np.ndarray, int] | None = None, qform: tuple[np.ndarray, int] | None = None,
    kind: Any = nibabel.Nifti1Image, **fields: Any,
) -> bytes:  # fmt: skip
    """A NIfTI with these affines and codes; fields go into the header as they are."""
    content = kind(VOXELS, np.diag([1.5, 1.5, 2.0, 1.0])).to_bytes()
    header = kind.header_class(content[: kind.header_class.sizeof_hdr], check=False)
    for form, given in (("qform", qform), ("sform", sform)):
        if given is not None:
            getattr(header, f"set_{form}")(given[0], 1)
        header[f"{form}_code"] = 0 if given is None else given[1]
    for name, value in fields.items():
        if name == "pixdim":
            header["pixdim"][: len(value)] = value
        else:
            header[name] = value
    return header.binaryblock + bytes(content[header.sizeof_hdr :])


def _mgh(**fields: Any) -> bytes:
    content = nibabel.MGHImage(VOXELS, _affine().astype(np.float32)).to_bytes()
    header = np.frombuffer(content, HEADER, count=1).copy()
    for name, value in fields.items():
        header[name] = value
    return header.tobytes() + content[HEADER.itemsize :]


def _meta(*lines: str) -> bytes:
    header = ["ObjectType = Image", "NDims = 3", "BinaryData = True", *lines, "DimSize = 10 11 12"]
    return "\n".join([*header, "ElementType = MET_FLOAT", "ElementDataFile = LOCAL\n"]).encode() + VOXELS.tobytes()


def _nrrd(*lines: str) -> bytes:
    header = ["NRRD0004", "type: float", "dimension: 3", "sizes: 10 11 12", "endian: little", "encoding: raw", *lines]
    return "\n".join([*header, "", ""]).encode() + VOXELS.tobytes()


def _read(folder: Path, name: str, content: bytes, **options: Any) -> Any:
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(("gz", "mgz")) else content)
    return read_volume(folder / name, **options)


FORM = (_affine(), 1)
FLIPPED = np.diag([-1.0, 1, 1, 1]) @ _affine()
SWAPPED = _affine()[:, [1, 0, 2, 3]]
SPACING, MATRIX = "ElementSpacing = 2 2 2", f"TransformMatrix = {IDENTITY}"
SPACE, DIRECTIONS = f"space: {LPS}", "space directions: (2,0,0) (0,2,0) (0,0,2)"
NOT_SAID = "does not say how the head lies.*set sform or qform in the header.*trust: sform"
REFUSED: list[tuple[str, str, Callable[[], bytes], str]] = [
    ("both codes 0", "a.nii.gz", lambda: _nifti(), NOT_SAID),
    ("both codes 0, NIfTI-2", "a.nii", lambda: _nifti(kind=nibabel.Nifti2Image), NOT_SAID),
    ("codes that NIfTI does not have", "a.nii", lambda: _nifti(sform=(_affine(), 9), qform=(_affine(), -1)), NOT_SAID),
    (
        "stale sform",
        "a.nii.gz",
        lambda: _nifti(sform=(_affine((1, 1, 1)), 1), qform=(_affine((2, 2, 2)), 1)),
        "voxel size twice and differently: 1x1x1 mm by the sform, 2x2x2 mm by pixdim and the qform.*trust: sform or",
    ),
    (
        "sform beside another pixdim, no qform",
        "a.nii",
        lambda: _nifti(sform=FORM, pixdim=(1, 1, 1, 1)),
        "twice and differently: 1.5x1.5x2 mm by the sform, 1x1x1 mm by pixdim. One is.*trust: sform, if that is right",
    ),
    (
        "sizes that differ by 1.2 %",
        "a.nii",
        lambda: _nifti(sform=FORM, qform=(_affine((1.5, 1.5, 2.024)), 1)),
        "1.5x1.5x2 mm by the sform, 1.5x1.5x2.024 mm by pixdim",
    ),
    ("pixdim 0, qform", "a.nii.gz", lambda: _nifti(qform=FORM, pixdim=(1, 0, 0, 0)), r"voxel sizes \[0.0, 0.0, 0.0\]"),
    ("pixdim 0, sform", "a.nii.gz", lambda: _nifti(sform=FORM, pixdim=(1, 0, 0, 0)), "0x0x0 mm by pixdim"),
    ("pixdim 0, neither", "a.nii.gz", lambda: _nifti(pixdim=(1, 0, 0, 0)), NOT_SAID),
    (
        "pixdim below 0, qform",
        "a.nii",
        lambda: _nifti(qform=FORM, pixdim=(1, -1.5, 1.5, 2)),
        r"pixdim gives voxel sizes \[-1.5, 1.5, 2.0\], which the qform needs",
    ),
    ("qfac", "a.nii", lambda: _nifti(qform=FORM, pixdim=(3.5,)), r"pixdim\[0\].* is 3.5.*to tell left from right"),
    (
        "mirrored",
        "a.nii",
        lambda: _nifti(sform=(FLIPPED, 1), qform=FORM),
        r"orientation twice and differently: voxel axes run LAS by the sform, RAS by the qform \(mirrored\)",
    ),
    (
        "axes swapped",
        "a.nii",
        lambda: _nifti(sform=FORM, qform=(SWAPPED, 1), pixdim=(-1, 1.5, 1.5, 2)),
        "run RAS.* ARS",
    ),
    (
        "on its side",
        "a.nii",
        lambda: _nifti(sform=(_affine((2, 2, 2), 90), 2), qform=(_affine((2, 2, 2)), 1)),
        r"run RSP by the sform, RAS by the qform \(turned by 90°\)",
    ),
    (
        "unit",
        "a.nii",
        lambda: _nifti(sform=FORM, xyzt_units=5),
        "xyzt_units in the NIfTI header is 5, which is no unit",
    ),
    (
        "millimetres called metres",
        "a.nii",
        lambda: _nifti(sform=FORM, xyzt_units=1),
        r"voxel sizes 1500, 1500, 2000 mm.*below 50.*\(xyzt_units in the header says metre; is that right\?\)",
    ),
    (
        "called micron",
        "a.nii",
        lambda: _nifti(sform=FORM, xyzt_units=3),
        "0.0015, 0.0015, 0.002 mm.*above 0.05.*micron",
    ),
    (
        "metres called millimetres",
        "a.nii",
        lambda: _nifti(sform=(_affine((0.001, 0.001, 0.002)), 1), xyzt_units=2, pixdim=(1, 0.001, 0.001, 0.002)),
        r"voxel sizes 0.001, 0.001, 0.002 mm; expected millimetres above 0.05. Is the unit right\?",
    ),
    ("goodRASFlag 0", "a.mgz", lambda: _mgh(goodRASFlag=0), r"does not say where.*goodRASFlag is 0.*mri_convert"),
    ("goodRASFlag -1", "a.mgh", lambda: _mgh(goodRASFlag=-1), "goodRASFlag is -1"),
    ("long directions", "a.mgh", lambda: _mgh(Mdc=2 * np.eye(3)), r"size is stated twice.*Mdc.*\[2.0, 2.0, 2.0\] long"),
    ("no spacing", "a.mha", lambda: _meta(MATRIX), "no ElementSpacing: its voxel size is not stated.*SetSpacing"),
    ("no matrix", "a.mha", lambda: _meta(SPACING), "no TransformMatrix: how the head lies.*SetDirection"),
    ("letters alone", "a.mhd", lambda: _meta(SPACING, "AnatomicalOrientation = PIR"), "no TransformMatrix.*opposite"),
    (
        "letters that contradict",
        "a.mha",
        lambda: _meta(SPACING, MATRIX, "AnatomicalOrientation = PIR"),
        "orientation twice and differently: by TransformMatrix, axes run LPS; AnatomicalOrientation is PIR",
    ),
    (
        "two matrices",
        "a.mha",
        lambda: _meta(SPACING, MATRIX, "Rotation = -1 0 0 0 1 0 0 0 1"),
        "place twice and differently: TransformMatrix = 1 0 0 0 1 0 0 0 1 and Rotation = -1 0 0",
    ),
    (
        "two origins",
        "a.mha",
        lambda: _meta(SPACING, MATRIX, "Offset = 1 2 3", "Origin = 4 5 6"),
        "twice and differently",
    ),
    (
        "long directions",
        "a.mha",
        lambda: _meta(SPACING, "TransformMatrix = 2 0 0 0 1 0 0 0 1"),
        r"stated twice and differently: the header has directions \[2.0, 1.0, 1.0\] long",
    ),
    ("unit", "a.mha", lambda: _meta(SPACING, MATRIX, "DistanceUnits = inch"), "DistanceUnits is inch; expected mm"),
    ("no space", "a.nrrd", lambda: _nrrd(), f"NRRD has no space; expected.*{LPS}.*SetDirection"),
    ("no space, spacings", "a.nrrd", lambda: _nrrd("spacings: 2 2 2"), "NRRD has no space"),
    (
        "no anatomical space",
        "a.nrrd",
        lambda: _nrrd("space: scanner-xyz", DIRECTIONS),
        "scanner-xyz says nothing about",
    ),
    ("no spacing", "a.nrrd", lambda: _nrrd(SPACE), "the NRRD has no space directions: voxel size and axes are not"),
    ("units", "a.nrrd", lambda: _nrrd(SPACE, DIRECTIONS, 'space units: "mm" "mm" "cm"'), "space units is mm, mm, cm"),
]


@pytest.mark.parametrize(
    ("name", "content", "message"), [c[1:] for c in REFUSED], ids=[f"{c[1]}-{c[0]}" for c in REFUSED]
)
def test_a_place_that_is_not_stated_or_stated_twice_is_refused(
    tmp_path: Path, name: str, content: Callable[[], bytes], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ScanError, match=message):
        _read(tmp_path, name, content())
    assert capfd.readouterr() == ("", "")  # no library's words that name no scan


TWO_PLACES = ["two places: sform (MNI) and qform (scanner) differ by 20.0° and 13 mm; the sform was used"]
METRE = (_affine((0.0015, 0.0015, 0.002)), 1)
READ: list[tuple[str, str, Callable[[], bytes], tuple[str, list[float], str, list[str]]]] = [
    ("sform", "a.nii", lambda: _nifti(sform=FORM, xyzt_units=2), ("RAS", [1.5, 1.5, 2], "sform (scanner)", [])),
    (
        "qform",
        "a.nii.gz",
        lambda: _nifti(qform=(FLIPPED, 2), xyzt_units=10),
        ("LAS", [1.5, 1.5, 2], "qform (aligned)", []),
    ),
    (
        "both",
        "a.nii",
        lambda: _nifti(sform=FORM, qform=FORM),
        ("RAS", [1.5, 1.5, 2], "sform and qform agree; no unit, taken for mm", []),
    ),
    (
        "sizes that differ by 0.8 %",
        "a.nii",
        lambda: _nifti(sform=FORM, qform=(_affine((1.5, 1.5, 2.016)), 1), xyzt_units=2),
        ("RAS", [1.5, 1.5, 2], "sform and qform agree", []),
    ),
    (
        "aligned to a template",
        "a.nii",
        lambda: _nifti(sform=(_affine((2, 2, 2), 20, 9), 4), qform=(_affine((2, 2, 2)), 1), xyzt_units=2),
        ("RAS", [2, 2, 2], "sform (MNI); qform (scanner) differs", TWO_PLACES),
    ),
    (
        "qfac 0",
        "a.nii",
        lambda: _nifti(qform=FORM, pixdim=(0,), xyzt_units=2),
        ("RAS", [1.5, 1.5, 2], "qform (scanner); qfac 0 is taken for 1, as NIfTI says", []),
    ),
    (
        "metre",
        "a.nii",
        lambda: _nifti(sform=METRE, xyzt_units=1, pixdim=(1, 0.0015, 0.0015, 0.002)),
        ("RAS", [1.5, 1.5, 2], "sform (scanner)", ["unit converted: the NIfTI header gives lengths in metre"]),
    ),
    (
        "micron",
        "a.nii.gz",
        lambda: _nifti(qform=(_affine((1500, 1500, 2000)), 1), xyzt_units=3),
        ("RAS", [1.5, 1.5, 2], "qform (scanner)", ["unit converted: the NIfTI header gives lengths in micron"]),
    ),
    (
        "gantry tilt",
        "a.nii",
        lambda: _nifti(
            sform=(_affine() @ [[1, 0, 0, 0], [0, 1, 0.2, 0], [0, 0, 1, 0], [0, 0, 0, 1]], 1),
            xyzt_units=2,
            pixdim=(1, 1.5, 1.5, 2.0224),
        ),  # fmt: skip
        (
            "RAS",
            [1.5, 1.5, 2.0224],
            "sform (scanner)",
            ["skewed axes: up to 8.5° off right angles, as by gantry tilt; volumes take it into account"],
        ),  # fmt: skip
    ),
    ("MGH", "a.mgz", lambda: _mgh(), ("RAS", [1.5, 1.5, 2], "MGH header", [])),
    ("MetaImage", "a.mha", lambda: _meta(SPACING, MATRIX), ("LPS", [2, 2, 2], "MetaImage TransformMatrix", [])),
    (
        "either reading of the letters",
        "a.mhd",
        lambda: _meta("ElementSize = 2 2 2", f"Rotation = {IDENTITY}", "AnatomicalOrientation = LPS"),
        ("LPS", [2, 2, 2], "MetaImage Rotation", []),
    ),
    (
        "MetaImage in cm",
        "a.mha",
        lambda: _meta("ElementSpacing = .2 .2 .2", MATRIX, "DistanceUnits = cm"),
        (
            "LPS",
            [2, 2, 2],
            "MetaImage TransformMatrix",
            ["unit converted: the header gives lengths in another unit than mm"],
        ),  # fmt: skip
    ),
    ("NRRD", "a.nrrd", lambda: _nrrd(SPACE, DIRECTIONS), ("LPS", [2, 2, 2], f"NRRD space {LPS}", [])),
    (
        "NRRD, short and in mm",
        "a.nrrd",
        lambda: _nrrd("space: RAS", DIRECTIONS, 'space units: "mm" "mm" "mm"'),
        ("RAS", [2, 2, 2], "NRRD space right-anterior-superior", []),
    ),
]


@pytest.mark.parametrize(("name", "content", "expected"), [c[1:] for c in READ], ids=[f"{c[1]}-{c[0]}" for c in READ])
def test_what_the_record_says_about_the_place(
    tmp_path: Path, name: str, content: Callable[[], bytes], expected: tuple[str, list[float], str, list[str]]
) -> None:
    volume = _read(tmp_path, name, content())
    facts, (orientation, voxel_mm, source, remarks) = volume.meta["facts"], expected
    assert (facts["orientation"], facts["space_from"], volume.meta["remarks"]) == (orientation, source, remarks)
    np.testing.assert_allclose(facts["voxel_mm"], voxel_mm, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(volume.affine)[:3, :3], axis=0), voxel_mm, atol=1e-3)


STALE = {"sform": (_affine((1, 1, 1)), 1), "qform": (_affine((2, 2, 2), 90), 1)}
TRUSTED: list[tuple[str, dict[str, Any], str, str, list[float]]] = [
    ("sform", STALE, "trust: sform", "RAS", [1, 1, 1]),
    ("qform", STALE, "trust: qform", "RSP", [2, 2, 2]),
    ("qform", {"quatern_b": 2**-0.5}, "trust: qform, though its code is 0", "RSP", [1.5, 1.5, 2]),
    ("sform", {"srow_x": [-3, 0, 0, 1], "srow_y": [0, 3, 0, 1], "srow_z": [0, 0, 3, 1]},
     "trust: sform, though its code is 0", "LAS", [3, 3, 3]),
    ("sform", {"sform": FORM, "pixdim": (1, 0, 0, 0)}, "trust: sform", "RAS", [1.5, 1.5, 2]),
    ("qform", {"sform": FORM}, "sform (scanner); no unit, taken for mm", "RAS", [1.5, 1.5, 2]),  # there is no other
]  # fmt: skip


@pytest.mark.parametrize(("trust", "header", "source", "orientation", "voxel_mm"), TRUSTED)
def test_those_who_know_better_say_which_to_trust(
    tmp_path: Path, trust: str, header: dict[str, Any], source: str, orientation: str, voxel_mm: list[float]
) -> None:
    volume = _read(tmp_path, "a.nii", _nifti(**header), trust=trust)
    assert volume.meta["facts"] == {
        "orientation": orientation, "voxel_mm": pytest.approx(voxel_mm, abs=1e-3), "space_from": source,
    }  # fmt: skip
    if trust == "sform" and header is STALE:
        return
    with pytest.raises(ScanError, match=r"twice and differently|voxel sizes|singular"):
        _read(tmp_path, "a.nii", _nifti(sform=(_affine((1, 1, 1)), 1), qform=None, pixdim=(1, 0, 0, 0)), trust="qform")


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_every_orientation_that_itk_writes_agrees_with_itself(tmp_path: Path, suffix: str) -> None:
    """ITK writes the letters of MetaImage beside the matrix."""
    for axes, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        image = SimpleITK.GetImageFromArray(VOXELS)
        image.SetSpacing((1.0, 2.0, 3.0))
        image.SetDirection((np.eye(3)[:, list(axes)] * signs).ravel().tolist())
        SimpleITK.WriteImage(image, str(tmp_path / f"a{suffix}"))
        volume = read_volume(tmp_path / f"a{suffix}")
        left, back, up = image.TransformIndexToPhysicalPoint((3, 7, 5))
        np.testing.assert_allclose(np.asarray(volume.affine) @ (3, 7, 5, 1), (-left, -back, up, 1), atol=1e-4)


def test_both_affines_that_are_written_agree_though_the_axes_are_skewed(tmp_path: Path) -> None:
    skewed = _affine() @ [[1, 0, 0, 0], [0, 1, 0.2, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    write_volume(tmp_path / "a.nii.gz", VOXELS, skewed)
    header = nibabel.load(tmp_path / "a.nii.gz").header
    assert (header["sform_code"], header["qform_code"]) == (1, 0)  # a qform cannot hold them
    np.testing.assert_allclose(header.get_zooms(), np.linalg.norm(skewed[:3, :3], axis=0), atol=1e-5)
    np.testing.assert_allclose(np.asarray(read_volume(tmp_path / "a.nii.gz").affine), skewed, atol=1e-5)


def test_nan_is_background(tmp_path: Path) -> None:
    """Its value is the lowest, at most 0, so that a stripped brain of positive values keeps all its voxels."""
    for shift, fill in ((0.0, 0.0), (-500.0, None)):
        voxels = VOXELS + np.float32(shift)
        voxels[:2] = np.nan
        volume = _read(tmp_path, "a.nii.gz", nibabel.Nifti1Image(voxels, _affine()).to_bytes())
        nan = volume.meta["nan"][0].numpy()
        np.testing.assert_array_equal(nan, np.isnan(voxels))
        np.testing.assert_array_equal(volume[0].numpy()[~nan], voxels[~nan])
        lowest = min(0.0, np.nanmin(voxels)) if fill is None else min(fill, np.nanmin(voxels))
        assert (volume[0].numpy()[nan] == np.float32(lowest)).all()
        assert volume.meta["remarks"] == ["NaN voxels: 20.00% of the volume, taken for background"]
    assert "nan" not in _read(tmp_path, "a.nii.gz", nibabel.Nifti1Image(VOXELS, _affine()).to_bytes()).meta
